"""`python -m benchmarks.tried`"""

import sys

from benchmarks import harness
from benchmarks.tried.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
