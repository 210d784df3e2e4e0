"""`python -m experiments.statland`."""

import sys

from experiments import harness
from experiments.statland.experiment import EXPERIMENT

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))
