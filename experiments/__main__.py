"""Lists the experiments: `python -m experiments`."""

from pathlib import Path

from experiments.harness import about


def main() -> None:
    """Prints each experiment's question, command and minutes, read from its docstring without running it."""
    for name, fields in about.listed(Path(__file__).parent).items():
        print(f"{name}: {fields['Title']}")
        for field in ("Question", "Command", "Minutes"):
            if field in fields:
                print(f"  {field + ':':<10} {fields[field]}")
        print()
    print("Add --help for the options of one, --quick for a small version, --out DIR for the folder of its results.")


if __name__ == "__main__":
    main()
