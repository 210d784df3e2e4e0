"""`python -m benchmarks.scan_vs_loop`"""

import sys

from benchmarks import harness
from benchmarks.scan_vs_loop.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
