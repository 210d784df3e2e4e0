"""`python -m benchmarks.memory`"""

import sys

from benchmarks import harness
from benchmarks.memory.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
