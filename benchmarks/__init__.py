"""What rnnjax costs, beside its alternatives. `python -m benchmarks` lists the benchmarks.

They are scripts over `rnnjax` and the harness that the experiments have; nothing imports them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING or __name__ == "benchmarks":  # in a clone
    from experiments import lab
    from experiments.lab import identity, machine, page, strict_json, style
    from experiments.lab.options import described, parse, print_list
else:  # installed, as `rnnjax_lab.benchmarks`
    from ..experiments import lab
    from ..experiments.lab import identity, machine, page, strict_json, style
    from ..experiments.lab.options import described, parse, print_list

__all__ = ["described", "identity", "lab", "machine", "page", "parse", "print_list", "strict_json", "style"]
