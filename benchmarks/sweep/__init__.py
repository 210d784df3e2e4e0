"""Hundreds of small networks, each over its own sequence, as one program or one after the other.

Question: what does the gradient of every setting of W2's scale, seed and length cost, when all of them are one vmapped
program, and when they are run as most people write it?
Command: python -m benchmarks.sweep --json benchmarks/results/sweep.json --figures benchmarks/results
Minutes: about 3 on two cores; with --quick 1.
Expected: compiling anew for every setting, or a Python loop over time, thousands of times slower a setting than one
program. The target against one jitted call a setting is 20; the gain over calls that are compiled once is less the
wider the networks are, for a call of its own is near the floor there already.

A setting is three numbers, from which everything else follows: a tanh Elman network is drawn, W2 Gaussian with variance
1/H times the scale, and an input sequence of that length. Computed is the gradient of its last output, summed over
units: the largest entries of dL/dW2 and dL/dx_1, which are compared before anything is timed. From the three numbers to
these two, per setting:
  one program                   vmap over seeds and scales, the scales of a seed sharing its W2 in one matmul; one
                                forward pass for all lengths, and back through a step for the longer ones only
  one program, 2 devices        the same with the seeds split over --devices
  a call a setting              compiled once; padded as in the program
  a call a setting, cut         compiled once for each length, no padding
  compiled for every setting    `jax.jit` around a closure over the setting: a new program each time
  Python loop                   the same without `jit`, engine "loop"
The last two are run on --few of the settings.
"""
