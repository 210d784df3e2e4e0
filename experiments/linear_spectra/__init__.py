"""Linear networks: every Lyapunov exponent, with a fresh matrix each step and with one that is used again.

Question: what are the exponents of a product of matrices, and why is the product of one matrix with itself, which is
what a recurrent network has, another thing than the product of independent ones?
Command: python -m experiments.linear_spectra
Minutes: 1 on one core; 0.4 with --quick.
Expected: one unit gives w^k, and T w^(T-1) x_0 for the gradient of its weight, to rounding; an orthogonal matrix of
scale s gives log s for every exponent, to rounding; a Gaussian matrix drawn anew each step gives Newman's exponents
(H = 64, g = 1: top -0.00785, bottom -2.715) within their errors over seeds; one Gaussian matrix used at every step
gives log|eigenvalues| of that matrix. The mean squared norm of a perturbation stays at g^(2k) with fresh matrices; with
one matrix used again it does not, as rare draws with a spectral radius above 1 grow without bound (some 3e5 at lag 50
for H = 64, g = 1, and another number for other draws); the median is some 10 there.

Reference: Newman, The distribution of Lyapunov exponents: exact results for random matrices, Commun. Math. Phys. 103
(1986), 121.
"""
