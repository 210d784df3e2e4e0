"""`python -m experiments.statland`: with --days alone an answer at once, otherwise the experiment."""

import contextlib
import sys

from .. import lab
from ..lab.options import parse
from ..lab.page import console
from . import Options, experiment, published


def main(given: list[str]) -> int:
    """Returns the exit status. An answer needs neither JAX nor matplotlib, and leaves no folder."""
    with contextlib.suppress(lab.UsageError):  # `launch` says what is wrong
        options = parse(Options, given, "experiments.statland", experiment.doc)
        if options.days and not options.train and options.out is None:
            published.show_copies(lab.Page(options, out=console()), published.trace(options.days))
            return 0
    return experiment.launch(given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
