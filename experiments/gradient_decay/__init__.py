"""How fast does a gradient vanish or explode?

Question: by what factor a step does dL/dh shrink or grow on its way back through time, for each cell and scale of W2?
Command: python -m experiments.gradient_decay
Minutes: 2 on two cores; with --quick half of one.
Expected: the linear cell with an orthogonal W2 of scale s gives log s nats a step to 1e-12, at any length; the
lecture's 0.5^50 = 8.88e-16 and 2^50 = 1.13e15 come out exactly; a tanh network driven by returns of variance 1 vanishes
at every scale up to 1.8, not 1, as the mean-field theory says; an LSTM's gradient halves in 2 to 3 steps at scale 1.

The loss looks at the last output only, through a random direction v of length 1: L = <v, y_T>. Measured is the log of
|dL/dh_t| (the whole carry: h and c of an LSTM together), in float64 and log form, so that nothing under- or overflows:
  by length   how much of the gradient reaches step 1 of a sequence of T steps (lag T - 1), for each T
  by lag      how much of it is left k steps before the end, within the longest sequence
W2 is redrawn for every seed, gate by gate: `orthogonal` is scale times a Haar-orthogonal matrix, `gain` is
N(0, scale²/H). The input is real: standardised daily log returns of stocks (`--input gaussian` for white noise).

All kinds, scales, seeds and lengths of a cell run in one compiled program. Your own cell joins with
`--cell package.module:MyCell`: a cell, or a class or function that makes one when called with `hidden_size=H`; the
matrices called `w_h` among its parameters are the ones redrawn.
"""
