"""List the methods: what they are, what they add to the network, what a step costs.

python -m lsr_jax.methods
python -m lsr_jax.methods --markdown

A pass is one run of images through the network: of the source, of the target, or of
other images (mixed ones, or those of a second labelling). Extra parameters are counted
for 19 classes and the features of the small network.
"""

import sys
from collections.abc import Sequence

from lsr_jax import cli
from lsr_jax.methods import catalog


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.boolean("markdown", False, "A Markdown table, as in docs/methods.md.")


def show(options) -> None:
    """Print the list."""
    render = catalog.markdown if options.markdown else catalog.text
    print(render(catalog.all_facts()), end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, show, argv)


if __name__ == "__main__":
    sys.exit(main())
