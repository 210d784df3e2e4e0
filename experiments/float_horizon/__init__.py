"""Where floating point loses a gradient that the log form keeps.

Question: at which lag does the norm of a gradient die in float32 and in float64, and the gradient itself?
Command: python -m experiments.float_horizon
Minutes: 0.5 on one core; 0.3 with --quick.
Expected: for a linear network with an orthogonal W2 of scale s the norm dies near lag 63 log 2 / |log s| in float32 and
511 log 2 / |log s| in float64 (s = 0.5: 63 and 511), the gradient itself at 126 and 1022; a tanh network of 32 units at
scale 1, driven by white noise, dies in float32 before lag 100, where the true norm is about 1e-19. In every network the
norm dies at the lag that the exact log-adjoint foretells, to within a step; the gradient itself dies up to 5% earlier
than foretold, since the products inside a matmul underflow before their sum does.

A norm squares before it sums, so it dies at half the exponent at which the gradient itself does. Plain is
`adjoint_by_perturbation`, one backward pass of automatic differentiation in float32 or float64; exact is `adjoint`,
which carries a unit vector and the log of a norm. Where the plain one still lives, the two must agree.

Foretold: the norm vanishes once the largest entry's square is below the smallest normal number (XLA flushes what is
smaller to zero), and overflows once the sum of squares passes the largest number; the gradient vanishes and overflows
with its largest entry. The loss is the inner product of the last output with a random unit vector.
"""
