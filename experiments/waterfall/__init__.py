"""The waterfall: how much of a task's own gradient is left, by lag and scale of W2, before and after training.

Question: how does the gradient of a memory task decay with lag in each cell, and does training change it?
Command: python -m experiments.waterfall
Minutes: 4 on one core; 1 with --quick.
Expected: at initialisation the linear cell loses k log s exactly, whatever the input; the tanh cell follows the mean
field of its own input within some hundredths of a nat a step; the LSTM falls off more slowly than it at every scale up
to 1. Training keeps or rebuilds a path: where the error has come down, the gradient at the longest lag is of order one
after training, wherever it was before; where it has not, it stays decades below.

The task: recall the first input. Inputs are white noise N(0, 1) with a marker on the first step; the target is that
first input, to be said at the last step through a linear readout; squared error, whose best constant is 1. W2 is scale
times orthogonal (each gate); Adam with clipping at norm 1; every scale and seed of a cell trains in one compiled
program, on the same batches. Measured is the mean over sequences of log |dL/d(carry)|, relative to lag 0, in float64.
"""
