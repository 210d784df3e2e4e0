"""`python -m experiments.statland`: with --days alone an answer at once, otherwise the experiment."""

import sys

from experiments import lab
from experiments.lab.options import parse
from experiments.lab.page import console
from experiments.statland import Options, experiment, published, show_copies


def main(given: list[str]) -> int:
    """Returns the exit status. An answer needs neither JAX nor matplotlib, and leaves no folder."""
    try:
        options = parse(Options, given, "experiments.statland", experiment.doc)
        if "--days" in given and not options.days:
            raise lab.UsageError("--days is empty; give one or more of low, medium, high.")
    except lab.UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.days and not options.train and options.out is None:
        show_copies(lab.Page(options, out=console()), published.trace(options.days))
        return 0
    return experiment.launch(given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
