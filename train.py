"""Train a run and print its table.

python train.py --config configs/streets.py
python train.py --config configs/gta2cs.py:lsr --workdir runs/gta2cs
python train.py --config configs/streets.py --config.seed=1 --config.lsr.steps=1000

The same command continues an interrupted run. Exit codes: 0 done, 1 training could not
go on, 2 bad input.
"""

from lsr_jax import command_line


def main() -> None:
    """Train every stage of the config in the workdir, then report."""
    # Imported here: bad flags are answered without waiting for JAX.
    from lsr_jax.analysis import report
    from lsr_jax.training import loop, sharding

    config, workdir = read()
    sharding.share_cpu(config.cpu_devices)
    report.write(loop.train(config.to_dict(), workdir))


if __name__ == "__main__":
    read = command_line.define_config()
    command_line.run(main)
