"""What a training step keeps between its forward and its backward pass, as the sequence grows.

Question: how much temporary memory does a training step need at length T, with each engine and each checkpoint policy,
and what does less memory cost in time?
Command: python -m benchmarks.memory --json benchmarks/results/memory.json --figures benchmarks/results
Minutes: about 25 on two cores; with --quick 2.
Expected: memory grows in proportion to T without checkpoints, and as the square root of T with `checkpoint="sqrt"`,
which at T = 10,000 needs 50 to 90 times less when the loss looks at the last output (target: 20, for at most 1.6 times
the time). When it looks at every output, these and their gradients are T times B times H numbers that no policy can
save, and it is 7 to 10 times less.

The memory is what XLA's buffer assignment plans for intermediate values: exact, and the same on a busy machine.
Parameters, inputs and their gradients come on top and are the same for all. Beside our own policies stand the two that
people write by hand around `jax.lax.scan`: `jax.checkpoint` on the step, and a scan over checkpointed scans of √T
steps. Engines and policies that a version does not have are named as missing.
"""
