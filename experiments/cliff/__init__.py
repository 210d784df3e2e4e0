"""The cliff: the error surface of one unit, and what clipping does there.

Question: what does an exploding gradient look like from outside, and why does clipping help?
Command: python -m experiments.cliff
Minutes: half of one on one core; with --quick a quarter.
Expected: a wall along b = x_0 - w σ(x_0), where the gradient's norm, up to 2e9, is that of the closed form to within
rounding (2e-5 of it where w is 6.7; 1e-10 where w is 5). Of 144 descents begun around the wall, 78% of the plain ones
are thrown more than a unit away and 67% come below an error of 1e-3; clipped, by the gradient or by the adjoint at each
step, none is thrown and all come below.

Figure 6 of Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013:

    x_t = w σ(x_{t-1}) + b        E = (σ(x_T) - 0.7)²        x_0 = 0.5, T = 50

Where b = x_0 - w σ(x_0), the state does not move: x_0 is a fixed point. With slope μ = w σ'(x_0) > 1 it is a repelling
one, the border between two basins, and the derivatives there are those of a sum of powers:

    dx_T/db = (μ^T - 1)/(μ - 1)        dx_T/dw = σ(x_0) dx_T/db        dx_T/dx_0 = μ^T

So the wall is that line for w above 1/σ'(x_0) = 4.26, and it is as steep as μ^T is large. Beyond it, for smaller b, the
upper of the two basins ends at a fold, b = x - w σ(x) where w σ'(x) = 1.
"""
