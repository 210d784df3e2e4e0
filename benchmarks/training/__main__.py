"""`python -m benchmarks.training`"""

import sys

from benchmarks import harness
from benchmarks.training.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
