"""List the methods: what they are, what they add to the network, what a step costs.

python -m lsr_jax.methods
python -m lsr_jax.methods --markdown

A pass is one run of images through the network: of the source, of the target, or of
other images (mixed ones, or those of a second labelling). Extra parameters are counted
for 19 classes and the features of the small network.
"""

import argparse
import sys

from lsr_jax import commands
from lsr_jax.methods import listing


def main() -> int:
    """Print the list; returns the exit code."""
    parser = commands.Parser(
        prog="python -m lsr_jax.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="a Markdown table, as in docs/methods.md",
    )
    options = parser.parse_args()
    render = listing.markdown if options.markdown else listing.text
    print(render(listing.all_facts()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(commands.guarded(main))
