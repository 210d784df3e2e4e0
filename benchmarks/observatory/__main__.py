"""`python -m benchmarks.observatory`"""

import sys

from benchmarks import harness
from benchmarks.observatory.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
