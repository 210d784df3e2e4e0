"""Lists the experiments: `python -m experiments`."""

from pathlib import Path

from .lab.options import print_list

if __name__ == "__main__":
    more = "Add --help for its options, --quick for a small version, --out DIR for the folder of its results."
    print_list(Path(__file__).parent, __package__ or "", more)
