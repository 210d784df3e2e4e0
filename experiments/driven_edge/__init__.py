"""The edge of chaos moves when a network is driven: "the edge is at g = 1" holds without input only.

    h_t = tanh(h_{t-1} W + x_t),   W ~ N(0, g²/H),   x_t ~ N(0, σ²) anew in each unit and step

Question: at which gain does the leading Lyapunov exponent of a driven tanh network change sign?
Command: python -m experiments.driven_edge
Minutes: 1 on one core; 0.2 with --quick (narrower, fewer seeds).
Expected: at g = 1.1934 for σ² = 0.01 and at g = 1.8556 for σ² = 1; measured zero crossings (H = 512, five matrices) lie
within 3% of the closed form at every variance, and most within 1%.

The closed form: C = g² E[tanh²(√C z)] + σ² and g² E[φ'(√C z)²] = 1. The crossing of a matrix is where a straight line
through its exponents at the gains on both sides of zero meets zero; all gains of a matrix see the same noise.

Reference: Molgedey, Schuchhardt and Schuster, Suppressing chaos in neural networks by noise, Phys. Rev. Lett. 69
(1992), 3717.
"""
