"""`python -m benchmarks.before_after`"""

import sys

from benchmarks import harness
from benchmarks.before_after.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
