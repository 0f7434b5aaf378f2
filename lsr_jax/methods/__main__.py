"""List the methods: what they are, what they add to the network, what a step costs.

python -m lsr_jax.methods
python -m lsr_jax.methods --markdown

A pass is one run of images through the network: of the source, of the target, or of
other images (mixed ones, or those of a second labelling). Extra parameters are counted
for 19 classes and the features of the small network.
"""

import argparse

from lsr_jax.methods import listing


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(
        prog="python -m lsr_jax.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="a Markdown table, as in docs/methods.md",
    )
    rows = listing.all_facts()
    render = listing.markdown if parser.parse_args().markdown else listing.text
    print(render(rows), end="")


if __name__ == "__main__":
    main()
