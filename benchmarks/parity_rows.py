"""Rows of the parity table: quantity and original of every recorded key."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """Recorded keys that measure one quantity.

    Attributes:
      file: the golden file.
      pattern: regular expression that fully matches the keys.
      quantity: first column of the table.
      original: repository and file that computed the recorded numbers.
    """

    file: str
    pattern: str
    quantity: str
    original: str


LSR = "LTTM/LSR"
MAX_SQUARE = "ZJULearning/MaxSquareLoss"
FORMULA = "LSR paper, formulas in numpy"
TRAINERS = f"{LSR} tools/train_UDA.py"

# {(file, original): {pattern: quantity}}
METHOD_LOSSES = {
    ("oce", "LTTM/UDAclustering utils/losses.py"): {
        r".*__pass\d__.*": "OCE: labels, joint centroids",
        r".*(_dist|cluster)_?.*": "OCE: contraction and spacing",
        r".*": "OCE: orthogonality, sparsity",
    },
    ("advent", "valeoai/ADVENT"): {
        r"loop__.*": "three iterations of AdvEnt and MinEnt",
        r".*": "entropy maps and loss, discriminator",
    },
    ("adaptsegnet", "wasidennis/AdaptSegNet"): {
        r"loop__.*": "four iterations, also with least squares",
        r".*": "cross-entropy, discriminator",
    },
    ("clan", "RoyalVane/CLAN"): {
        r"loop__.*": "five iterations",
        r".*": "focal and weighted losses, discrepancies",
    },
    ("f2a", "Feature To Adapt train.py"): {
        r"loop__.*": "five iterations of CLAN with the norm loss",
        r".*": "step-wise norm loss",
    },
    ("cag", "RogerZhangzz/CAG_UDA"): {r".*": "anchors, labels, distance loss"},
    ("dacs", "vikolss/DACS"): {r".*": "ClassMix: masks, weights, losses"},
    ("daformer_mit", "lhoyer/DAFormer mix_transformer.py"): {r".*": "MiT encoder"},
    ("daformer_head", "lhoyer/DAFormer daformer_head.py"): {r".*": "DAFormer decoder"},
    ("daformer_losses", "lhoyer/DAFormer"): {
        r"resize__.*": "half-pixel resizing",
        r".*": "cross-entropy over all pixels, feature distance",
    },
    ("daformer_mixing", "lhoyer/DAFormer dacs_transforms.py"): {
        r".*": "DAFormer: mixing, teacher, jitter, blur"
    },
    ("daformer_rcs", "lhoyer/DAFormer uda_dataset.py"): {
        r".*": "DAFormer: rare classes, crops"
    },
    ("daformer_schedule", "mmcv 1.3.7, torch AdamW"): {
        r".*": "DAFormer: rates, groups, AdamW"
    },
    ("daformer_loop", "lhoyer/DAFormer dacs.py"): {r".*": "DAFormer: iterations"},
    ("hrda", "lhoyer/HRDA hrda_encoder_decoder.py"): {r".*": "HRDA network"},
    ("hrda_loop", "lhoyer/HRDA dacs.py"): {r".*": "HRDA: iterations"},
    ("mic", "lhoyer/MIC"): {r".*": "MIC: masks and weights"},
    ("mic_loop", "lhoyer/MIC dacs.py"): {r".*": "MIC: iterations"},
    ("mic_hrda_loop", "lhoyer/MIC dacs.py"): {r".*": "MIC on HRDA: an iteration"},
    ("swd", "apple/ml-cvpr2019-swd swd.py"): {r".*": "sliced Wasserstein, MCD"},
}

# The first match applies.
FAMILIES = (
    Family("lsr", r"hist__.*__fullwin", "label downsampling, whole window", FORMULA),
    Family(
        "lsr",
        r"(hist|mask_transform)__.*",
        "label downsampling",
        f"{LSR} datasets/histDown.py",
    ),
    Family(
        "lsr", r"predhist__.*", "pseudo-labels, histogram", f"{LSR} utils/losses.py"
    ),
    Family("lsr", r"pd__.*", "pseudo-labels, prototypes", f"{LSR} utils/losses.py"),
    Family("lsr", r"extract__.*", "class means and norms", f"{LSR} utils/losses.py"),
    Family("lsr", r"ema__.*", "smoothed prototypes", TRAINERS),
    Family("lsr", r"clust__.*", "clustering", f"{LSR} utils/losses.py"),
    Family("lsr", r"perp__.*", "perpendicularity", f"{LSR} utils/losses.py"),
    Family("lsr", r"norm__.*", "norm alignment", f"{LSR} utils/losses.py"),
    Family("lsr", r"iwms__.*", "image-weighted MaxSquare", f"{LSR} utils/losses.py"),
    Family("lsr", r"paper_proto.*", "prototypes, eq. 2 and 3", FORMULA),
    Family("lsr", r"paper_clust.*", "clustering, eq. 5", FORMULA),
    Family("lsr", r"paper_perp.*", "perpendicularity, eq. 6", FORMULA),
    Family("lsr", r"paper_norm.*", "norm alignment, eq. 7 and 8", FORMULA),
    Family("maxsquare", r"maxsquare__.*", "MaxSquare", f"{MAX_SQUARE} utils/loss.py"),
    Family("maxsquare", r"entropy__.*", "entropy", f"{MAX_SQUARE} utils/loss.py"),
    Family("maxsquare", r"iw_.*", "image-weighted", f"{MAX_SQUARE} utils/loss.py"),
    Family(
        "maxsquare",
        r"train__.*",
        "one training iteration",
        f"{MAX_SQUARE} tools/solve_gta5.py",
    ),
    *(
        Family(file, pattern, quantity, original)
        for (file, original), rows in METHOD_LOSSES.items()
        for pattern, quantity in rows.items()
    ),
    Family(
        "deeplab_lsr",
        r"(train|eval)__grad_.*",
        "ResNet-101, gradients",
        f"{LSR} graphs/models/models.py",
    ),
    Family(
        "deeplab_lsr",
        r"train__(buffer|.*running_).*",
        "ResNet-101, BatchNorm statistics",
        f"{LSR} graphs/models/models.py",
    ),
    Family(
        "deeplab_lsr",
        r"(train|eval)__.*",
        "ResNet-101, features, logits, loss",
        f"{LSR} graphs/models/models.py",
    ),
    Family(
        "deeplab_others",
        r"adaptsegnet__train__.*",
        "ResNet-101, two levels, training",
        "wasidennis/AdaptSegNet model/deeplab_multi.py",
    ),
    Family(
        "deeplab_others",
        r"maxsquare__train__.*",
        "ResNet-101, two levels, training",
        f"{MAX_SQUARE} graphs/models/deeplab_multi.py",
    ),
    Family(
        "deeplab_others",
        r"udaclustering__train__.*",
        "ResNet-101, training",
        "LTTM/UDAclustering graphs/models/DeepLabV2_feat.py",
    ),
    Family(
        "deeplab_others",
        r"advent__train__.*",
        "ResNet-101, two levels, four branches, training",
        "valeoai/ADVENT advent/model/deeplabv2.py",
    ),
    Family(
        "deeplab_others",
        r"f2a_multi__train__.*",
        "ResNet-101, two levels, four branches, training",
        "Feature To Adapt model/deeplabv2_G.py",
    ),
    Family(
        "deeplab_others",
        r"clan__train__.*",
        "ResNet-101, two heads, four branches, training",
        "RoyalVane/CLAN model/CLAN_G.py",
    ),
    Family(
        "deeplab_vgg",
        r"vgg1[36]__(feats|logits|loss|grad).*",
        "VGG-13 and VGG-16, outputs and gradients",
        f"{LSR} graphs/models/models.py",
    ),
    *(
        Family(
            file,
            r"(.*__)?(optim_multiplicity|param_.*)",
            f"{network}: names, test weights, optimizer multiplicity",
            original,
        )
        for file, network, original in (
            ("deeplab_lsr", "ResNet-101", f"{LSR} graphs/models/models.py"),
            ("deeplab_others", "ResNet-101", "all six above"),
            ("deeplab_vgg", "VGG", f"{LSR} graphs/models/models.py"),
        )
    ),
    Family(
        "schedule",
        r".*",
        "learning rates, damping",
        "LSR, MaxSquareLoss, UDAclustering, ADVENT, AdaptSegNet, CLAN, Feature To Adapt",
    ),
    Family(
        "trajectory_ce",
        r".*__lr|multiplicity|group_10x|param_names",
        "six source-only steps: optimizer groups and rates",
        f"{LSR} tools/train_source.py",
    ),
    Family(
        "trajectory_ce",
        r".*__loss.*",
        "six source-only steps: loss",
        f"{LSR} tools/train_source.py",
    ),
    Family(
        "trajectory_ce",
        r".*__grad_l2.*",
        "six source-only steps: gradient norms",
        f"{LSR} tools/train_source.py",
    ),
    Family(
        "trajectory_ce",
        r".*__(state|value).*",
        "six source-only steps: parameters, statistics",
        f"{LSR} tools/train_source.py",
    ),
    Family(
        "trajectory_lsr",
        r".*__(lr|perm_orders)|multiplicity|group_10x|param_names",
        "four LSR steps: optimizer groups, rates, orders",
        TRAINERS,
    ),
    Family(
        "trajectory_lsr",
        r".*(pseudo_labels|labels_down)",
        "four LSR steps: labels of source and target features",
        TRAINERS,
    ),
    Family(
        "trajectory_lsr",
        r".*__proto_state.*",
        "four LSR steps: prototypes",
        TRAINERS,
    ),
    Family(
        "trajectory_lsr",
        r".*__grad_l2.*",
        "four LSR steps: gradient norms",
        TRAINERS,
    ),
    Family(
        "trajectory_lsr",
        r".*__(state|value).*",
        "four LSR steps: parameters, statistics",
        TRAINERS,
    ),
    Family(
        "trajectory_lsr",
        r".*__(source|target|norm)_.*",
        "four LSR steps: every term of the loss",
        TRAINERS,
    ),
    Family(
        "eval",
        r"c\d+__confusion",
        "confusion matrices",
        f"{LSR} utils/eval.py",
    ),
    Family(
        "eval",
        r".*",
        "accuracies, IoU and their means",
        f"{LSR} utils/eval.py, RogerZhangzz/CAG_UDA",
    ),
)
