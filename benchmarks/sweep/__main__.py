"""`python -m benchmarks.sweep`"""

import sys

from benchmarks import harness
from benchmarks.sweep.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
