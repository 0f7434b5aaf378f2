"""One process of a run on two: trained, broken off, continued; stages that prepare.

Started by `training/distributed_test.py` with the flags of train.py.
"""

import shutil
import sys

from lsr_jax import cli

LAST = "4"
# Methods that prepare themselves: stage, and keywords that suit a fresh network.
PREPARING = {
    "cag": ("stage_1", {"minimum": 1}),
    "bdl": ("round_1", {"adversarial": 0.0}),
}


def define(flags):
    flags.config(required=True)
    flags.path("workdir", "Folder.")
    flags.distributed()


def main(options):
    from lsr_jax.training import distributed, loop, sharding

    add_tiny()
    config, workdir = (
        cli.read_config(options.config, options.overrides),
        options.workdir,
    )
    sharding.share_cpu(config["cpu_devices"])
    distributed.initialize(**cli.processes(options))
    loop.train(config, workdir / "unbroken")
    distributed.wait("trained")
    if distributed.is_main():
        shutil.copytree(workdir / "unbroken", workdir / "continued")
        shutil.rmtree(workdir / "continued" / "adapt" / "checkpoints" / LAST)
    distributed.wait("broken off")
    second = not distributed.is_main()
    assert distributed.any_process(second)
    assert not distributed.any_process(False)
    loop.train(config, workdir / "continued")
    for name in PREPARING:
        loop.train(preparing(name), workdir / name)


def add_tiny():
    """A backbone for tests in which the network matters little."""
    from lsr_jax.models import BACKBONES, resnet

    BACKBONES["nano"] = resnet.Architecture(8, 4, (1, 1, 1, 1))


def preparing(name):
    """The config of one stage of a method that prepares itself."""
    from lsr_jax.configs import streets

    stage, keywords = PREPARING[name]
    config = streets.get_config(f"{name},tiny")
    config.stages = (stage,)
    config.model.update({"backbone": "nano", "aspp_dilations": (2,)})
    config[stage].update({"init_from": "scratch", "pseudo_labeler": "start"})
    config[stage].update({"steps": 1, "log_every": 1, "batch_size": 8})
    config[stage].method.update(keywords)
    return config.to_dict()


if __name__ == "__main__":
    sys.path.insert(0, "")
    sys.exit(cli.run(define, main))
