"""rnnjax before and after a change, in one run.

Question: is a cell as fast as it was before the change, is a bare step as fast as the built-in cell, and how much
faster than Haiku is a GRU whose reset gate acts before the product?
Command: python -m benchmarks.before_after --json benchmarks/results/before_after.json
Minutes: about 15 on two cores; with --quick 1.
Expected: over the reference grid, in geometric means, the time before over the time after is at least 1.00 in the
forward pass and in the training step, no point counts less than 0.97, a bare step is within 3% of the built-in cell,
and the reset-before GRU trains at least 1.5 times faster than Haiku's.

The two versions are called `rnnjax` both, so each runs in a process of its own (`worker`), from a folder that holds
that version and these benchmarks. The processes take turns, one computes at a time. Per cell and size there is a new
pair of processes, and the contestants are

* before: the built-in cell of the commit `--before`;
* after: the built-in cell of the commit `--after`, or of the working tree as it was when the run began;
* bare: in the process of "after", a `StepCell` with the same step written out, x W_x + h W_h + b;
* bare, concatenated: the same with [x, h] W + b;
* for the GRU, reset before: a `StepCell` with n = tanh(x W + (r h) U + b), and Haiku's `dynamic_unroll` of its `GRU`,
  which is this function; where Haiku is not installed, `jax.lax.scan` of the same step stands in for it, by that name.

Outputs and gradients are compared before anything is timed. A point with a ratio of before to after under `--below` is
measured again alone, in `--again` new pairs of processes, and the median of their ratios counts in place of the first.
A run that was stopped goes on from its `--json` file where options, code and versions are the same.
"""
