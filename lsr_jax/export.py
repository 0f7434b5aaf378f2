"""Write the network of a run to one safetensors file.

python -m lsr_jax.export runs/streets --out lsr.safetensors           its last stage
python -m lsr_jax.export runs/streets:source --step 1000 --out source.safetensors

The file is a value of `init_from`, `--weights` and `lsr_jax.convert to-torch`. Its header says
which network it is, what its input is and which classes it knows.
"""

import sys
from collections.abc import Sequence

from lsr_jax import cli
from lsr_jax.errors import InputError

FACTS = (
    *("architecture", "backbone", "num_classes", "head", "aspp_dilations"),
    *("fusion", "detail", "batch_norm", "freeze_stem_affine"),
)


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.path("out", "File to create, NAME.safetensors.", required=True)
    flags.integer("step", None, "A saved step; default: the one that is reported.")


def export(options, run: str) -> None:
    """Read the network of a run and write it."""
    # Imported here: bad flags are answered without waiting for JAX.
    from lsr_jax import convert
    from lsr_jax.training import sharding, weights, workdir

    if options.out.suffix != ".safetensors":
        raise InputError(
            f"--out: expected a name ending in .safetensors, found {options.out}"
        )
    source = weights.resolve(run, step=options.step, key="RUN")
    if source.config is None:
        raise InputError(
            f"{run}: expected a run with its config.json; found weights alone"
        )
    trained = weights.load(source, mesh=sharding.make_mesh(1))
    manifest = workdir.manifest(source.path.absolute().parents[1])
    facts = {key: trained.model.arguments[key] for key in FACTS}
    info = {
        "file": options.out.name,
        "layout": "lsr_jax",
        "preprocessing": trained.preprocessing,
        "arguments": facts,
        **{"loaded": {}, "ignored": {}, "fresh": []},
        "classes": manifest["data"].get("target.classes"),
        "trained": {
            "command": manifest["command"],
            **{
                key: getattr(trained, key)
                for key in ("stage", "method", "seed", "step")
            },
        },
    }
    imported = convert.Imported(trained.params, trained.model_state, info)
    convert.save(options.out, imported)
    print(f"{source.path}, step {trained.step}: written to {options.out}")
    print(f"sha256 {convert.fingerprint(options.out)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, export, argv, arguments=["RUN"])


if __name__ == "__main__":
    sys.exit(main())
