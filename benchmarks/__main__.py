"""Lists the benchmarks: `python -m benchmarks`."""

from pathlib import Path

from benchmarks.harness import about


def main() -> None:
    """Prints each benchmark's question, command, minutes and expected numbers, without importing it."""
    for name, fields in about.listed(Path(__file__).parent).items():
        print(f"{name}: {fields['Title']}")
        for field in about.FIELDS:
            if field in fields:
                print(f"  {field + ':':<10} {fields[field]}")
        print()
    print("Each takes --quick, --json PATH and --figures FOLDER; --help shows the rest.")
    print("Full runs, with the machine they were made on, are in benchmarks/results/.")


if __name__ == "__main__":
    main()
