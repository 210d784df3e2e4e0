"""Lists the benchmarks: `python -m benchmarks`."""

from pathlib import Path

from . import print_list

if __name__ == "__main__":
    more = "Each takes --quick, --json PATH and --figures FOLDER; --help shows the rest."
    more += "\nFull runs, with the machine they were made on, are in benchmarks/results/."
    print_list(Path(__file__).parent, __package__ or "", more)
