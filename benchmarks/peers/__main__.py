"""`python -m benchmarks.peers`"""

import sys

from benchmarks import harness
from benchmarks.peers.benchmark import BENCHMARK

if __name__ == "__main__":
    sys.exit(harness.launch(BENCHMARK))
