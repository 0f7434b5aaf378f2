"""Drawings to photographs: `streets` with randomised looks to CamVid, 11 classes.

    python train.py --config configs/streets2camvid.py              the BatchNorm control,
                                                                    MaxSquare, LSR, DACS
    python train.py --config configs/streets2camvid.py:dacs         DACS
    python train.py --config configs/streets2camvid.py:lsr,paper    the paper's weights
    python train.py --config configs/streets2camvid.py:target_only  the oracle, on labels of
                                                                    the 367 photographs
    python train.py --config configs/streets2camvid.py:lsr,resnet50 the papers' recipe, on an
                                                                    ImageNet network
    python train.py --config configs/streets2camvid.py:lsr,tiny     small and short

Expects data/camvid as the SegNet tutorial has it (docs/your_data.md), or another folder in
--config.data.target.root. The source is drawn: the preset `wide`, 192x144. `mini` starts from
`streets_mini` and learns the wide looks first, in the stage `source`.

With an ImageNet network (a ResNet or VGG) stages are those of configs/gta2cs.py: losses,
optimiser and augmentation of each method's recipe, in fewer steps; the networks need the files
that `recipes.INITIAL` names.

Results, with command, machine and spread: docs/results/camvid.md.
"""

from lsr_jax.configs import common, gta2cs, real, streets
from lsr_jax.configs.overlays import Overlay, at, merge
from lsr_jax.models import BACKBONES

ORIGIN = "configs/streets2camvid.py"
SIZE = (144, 192)
IMAGENET = [name for name in BACKBONES if name.startswith(("resnet", "vgg"))]
STEPS = {"source": 4000, "target": 1000}  # of the papers' recipes; other stages:
ADAPT_STEPS = 500
DIRECT_STEPS = 1500  # of methods without a source stage
WEIGHTS = {**streets.WEIGHTS, "lsr,paper": gta2cs.WEIGHTS["lsr"]}


def overlays(argument=None):
    chosen = common.parse(argument)
    preset = "tiny" if chosen.tiny else "wide"
    source = {"name": "streets_rendered", "preset": preset, "space": "streets"}
    target = {
        "name": "camvid",
        "root": "data/camvid",
        "preset": "",
        "space": "camvid",
        "size": real.TINY if chosen.tiny else SIZE,
    }
    pair = Overlay(ORIGIN, at("data.source", source) | at("data.target", target))
    if chosen.backbone not in IMAGENET:
        methods, found = streets.build(chosen, preset, WEIGHTS)
        return methods, [*found, pair, Overlay(ORIGIN, {"recorded": ()})]
    methods, found = real.overlays(chosen, pair, weights=gta2cs.WEIGHTS, sizes={})
    if not chosen.tiny:
        found.append(Overlay(ORIGIN, shortened(methods)))
    return methods, found


def get_config(argument=None):
    return merge(*overlays(argument))


def shortened(stages):
    """Steps of the stages and of their schedules; whole images, as they are small."""
    found = {}
    adapt = ADAPT_STEPS if "source" in stages else DIRECT_STEPS
    for name in stages:
        steps = STEPS.get(name, adapt)
        keys = {"steps": steps, "optimizer.decay_steps": steps, "log_every": 50}
        found |= at(name, keys | {"optimizer.warmup_steps": 0, **real.WHOLE_IMAGES})
    return found
