"""Whole training: updates a second of `rnnjax.training.fit`, and of the loop that most people write.

Question: how many updates a second does `fit` make, and how many a hand-written loop with Flax and Optax on the same
model, data and optimizer?
Command: python -m benchmarks.training --json benchmarks/results/training.json --figures benchmarks/results
Minutes: about 4 on two cores; with --quick 1.
Expected: `fit` at least 1.8 times the loop (the target), from two sources that the table shows apart: many updates to a
dispatch (a loop around `rnnjax`, and Flax inside a scan, against their opposites) and the engine.

`fit` also with the rows of every batch split over --devices.

Everybody starts from the same weights, draws the same batches inside the compiled step, clips the global norm to 1 and
takes the same Adam steps; their losses are compared before anything is timed. An update is drawing a batch, forward,
backward, clip and Adam. The loop waits for nothing until its last update: a loop that reads each loss is slower.
"""
