"""What rnnjax costs, beside its alternatives. `python -m benchmarks` lists the benchmarks.

They are scripts over `rnnjax` and the harness `experiments.lab`; nothing imports them.
"""
