"""Gradient flossing: are Lyapunov exponents near zero worth having before training starts?

Question: up to which delay does a tanh network learn delayed XOR, with and without its exponents brought to zero first?
Command: python -m experiments.flossing
Minutes: 4 on a share of one core; with --quick one.
Expected: flossing takes the mean square of 16 exponents from 0.4 to 0.003 in 500 updates. Both kinds learn delay 10; at
16, 24 and 36 the plain networks are right 67, 56 and 50% of the time (a guess is 50%), the flossed 100, 81 and 63%.

After Engelken, Gradient flossing, NeurIPS 2023, made small: 32 units (there 80), W2 ~ N(0, 1/H), the 16 leading of 32
exponents, mean of their squares as the loss, Adam at 1e-3. Both kinds start from the same networks; one is flossed for
some hundred updates on inputs of the task's kind, of which it sees no target; then both are trained alike.
"""
