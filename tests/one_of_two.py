"""One process of a run on two: trained, broken off, continued.

Started by `training/distributed_test.py` with the flags of train.py.
"""

import shutil
import sys

from lsr_jax import command_line

LAST = "4"


def main():
    from lsr_jax.models import resnet
    from lsr_jax.training import distributed, loop, sharding

    resnet.ARCHITECTURES["tiny"] = resnet.Architecture(8, 4, (1, 1, 1, 1))
    config, workdir = read()
    sharding.share_cpu(config.cpu_devices)
    distributed.initialize(**read_processes())
    loop.train(config.to_dict(), workdir / "unbroken")
    distributed.wait("trained")
    if distributed.is_main():
        shutil.copytree(workdir / "unbroken", workdir / "continued")
        shutil.rmtree(workdir / "continued" / "adapt" / "checkpoints" / LAST)
    distributed.wait("broken off")
    second = not distributed.is_main()
    assert distributed.any_process(second)
    assert not distributed.any_process(False)
    loop.train(config.to_dict(), workdir / "continued")


if __name__ == "__main__":
    sys.path.insert(0, "")
    read = command_line.define_config()
    read_processes = command_line.define_processes()
    command_line.run(main)
