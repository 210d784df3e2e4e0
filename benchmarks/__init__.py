"""What rnnjax costs, beside what else there is. `python -m benchmarks` lists the benchmarks.

They are scripts over `rnnjax`: nothing imports them, and they import neither the experiments nor the tests.
"""
