"""GTA5 to Cityscapes, 19 classes: DeepLabV2-ResNet101, one image of each domain a step.

    python train.py --config configs/gta2cs.py                LSR
    python train.py --config configs/gta2cs.py:max_square     any name in METHODS
    python train.py --config configs/gta2cs.py:lsr,paper      a preset of the method
    python train.py --config configs/gta2cs.py:lsr,vgg16      another backbone
    python train.py --config configs/gta2cs.py:mic            DAFormer, HRDA and MIC are
                                                              presets of dacs, on MiT-B5
    python train.py --config configs/gta2cs.py:mic,resnet101_v1c
                                                              the same on ResNet-101
    python train.py --config configs/gta2cs.py:lsr,masked     MIC's masked consistency on
                                                              any method
    python train.py --config configs/gta2cs.py:lsr,tiny       small and short, to try things
    python train.py --config configs/gta2cs.py:batchnorm_only,like=clan
                                                              the control of CLAN

Every method is trained as in its paper or released code, see configs/recipes.py. By
default LSR, CLAN, CAG, Feature To Adapt, DACS and OCE follow their released code, with its
schedule and sizes; the preset "paper" follows the paper. `like=METHOD` trains a method with
the network, initial weights, sizes, training images and schedule of another one; a control
also takes its heads and its source loss, by default those of LSR. It makes a study fair:
python -m lsr_jax.study --config configs/gta2cs.py:like=clan
--methods source_only,batchnorm_only,clan.

Expects data/gta5 and data/cityscapes as downloaded, or prepared at the sizes below, and
weights in weights/, see `recipes.INITIAL`. --config.data.source.root=DIR and
--config.data.target.root=DIR set other folders; init_from of the first stage sets other
weights, or "scratch" for none. LSR, OCE and MaxSquare hold out some images of GTA5 for the
source rows of the table; the other methods train on all images, so their source rows are
of training images. Needs a GPU; LSR used one Titan RTX. Time and accuracy have not been
measured here.

Published mIoU on Cityscapes val with ResNet101:

    source only         36.6 AdaptSegNet family, 36.9 MaxSquare and LSR, 37.0 OCE
    target only         64.8 (LSR), 65.1 (AdaptSegNet)
    adapt_seg_net       42.4; one level 41.4, least squares 44.1, feature level 39.0
    min_ent             42.3
    adv_ent             46.3 on translated source images (its README), which are not made here
    clan                43.2
    swd                 44.5, as quoted by Feature To Adapt; on another network
    bdl                 48.5, on source images translated by a CycleGAN, which are not made here
    max_square          44.3; image-wise 45.2; and multi-level 46.4 (preset "multi_level")
    cag                 50.2 (the mean of its printed row is 50.1), after a warm-up that is
                        aligned adversarially; here it is trained on the source alone
    feature_to_adapt    norm only 43.3, with CLAN 44.8; flipped images averaged 44.0, 45.7;
                        ensembles of two runs with CLAN 44.8, with MaxSquare 46.8
    sapnet              its 43.2 is of code that was never published; here it is a
                        reconstruction, not held against an original
    dacs                52.1 (DACS, as quoted by others), against shrunken labels
    oce                 45.9; without its entropy term 45.3
    lsr                 46.0 (Table 1); the paper prints no weights, so "paper" has those of
                        the README, which belong to the released terms

Published means of three seeds, of 40,000 steps of two images; a single run may be one point
off. MIC is on HRDA:

                        mit_b5      resnet101_v1c
    daformer            68.3        56.0
    hrda                73.8        63.0
    mic                 75.9        64.2

The original DAFormer took 9.8 GB and HRDA 22.5 GB. The memory of a step is not measured here;
all activations of its passes may take three times as much, so hrda and mic recompute them
(remat_passes). Rare class sampling counts the pixels of all labels: once, where they are
prepared at these sizes, 1280x704 for daformer and 2560x1407 for hrda and mic.

With VGG16: AdaptSegNet 35.0. BDL and SWD publish FCN8s networks, which are not built here,
so a VGG is an error for them.
"""

from lsr_jax.configs import common, real
from lsr_jax.configs.overlays import Overlay, merge

OCE = {
    "clustering": 0.02,
    "orthogonality": 2.0,
    "sparsity": 0.5,
    "entropy": 0.1,
    "entropy_ratio": 0.2,
}
OCE_VGG = {
    "clustering": 0.1,
    "orthogonality": 0.02,
    "sparsity": 0.02,
    "entropy": 0.02,
    "entropy_ratio": 0.2,
}
# Weights with ResNet-101, and what VGG has over them; a method that is not here has its
# defaults.
WEIGHTS = {
    "clan": {"strength": 40.0},
    "feature_to_adapt": {"strength": 40.0},
    "max_square": {"entropy": 0.1, "image_weighting": 0.2},
    "oce": OCE,
    "oce,vgg": OCE_VGG,
    "oce,paper": common.oce_sums(OCE, features=23_036, channels=2048, classes=19),
    "oce,paper,vgg": common.oce_sums(
        OCE_VGG, features=22_592, channels=1024, classes=19
    ),
    "lsr": {
        "clustering": 0.1,
        "perpendicularity": 0.2,
        "norm": 0.025,
        "entropy": 0.1,
        "entropy_ratio": 0.2,
    },
    "lsr,vgg": {"clustering": 0.2, "perpendicularity": 0.4, "norm": 0.01},
}
# (H, W) of images that differ from those below.
SIZES = {
    "lsr,released": {"target": (640, 1280)},
    "max_square,multi_level": {"target": (640, 1280)},
    "cag": {"source": (1052, 1914), "target": (1024, 2048)},
    "dacs,daformer": {"source": (704, 1280)},
    "dacs,hrda": {"source": (1407, 2560), "target": (1024, 2048)},
    "dacs,mic": {"source": (1407, 2560), "target": (1024, 2048)},
}


PAIR = {
    "data.source.name": "gta5",
    "data.source.root": "data/gta5",
    "data.source.space": "cityscapes",
    "data.source.size": (720, 1280),
    "data.source.val": "val_lsr",
    "data.source.on_bad_example": "skip",  # GTA5 has pairs of different sizes
    "data.target.name": "cityscapes",
    "data.target.root": "data/cityscapes",
    "data.target.space": "cityscapes",
    "data.target.size": (512, 1024),
}


def overlays(argument=None):
    pair = Overlay("configs/gta2cs.py", PAIR)
    return real.overlays(common.parse(argument), pair, weights=WEIGHTS, sizes=SIZES)


def get_config(argument=None):
    return merge(*overlays(argument))
