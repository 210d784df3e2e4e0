"""Does the gradient's rate decide what is learned? Adjoint, Lyapunov exponent, closed form, and success on one axis.

Question: is the rate at which a task's own gradient decays the Lyapunov exponent of the same run, and is what a network
learns a function of rate times lag alone, over cells, scales, lengths and tasks?
Command: python -m experiments.collapse
Minutes: 10 on one core; with --quick two.
Expected: in solvable cases all three rates agree to 1e-14. In drawn networks adjoint and exponent agree to a few
thousandths of a nat a step; the closed forms are limits: mean field is off by 0.05 at H = 32, log σ(bias) by up to 0.6
where W2 is not small. Success of the latch falls on one curve for all cells, with half of it at -9 nats. Temporal order
breaks the collapse: its half lies elsewhere for each cell, and Elman fails at T = 40 though little gradient is lost.

One: for Elman, LSTM and GRU over scales of W2 and gate biases, on the inputs of two tasks, before training, float64:
the slope of log ‖dL/d(carry_t)‖ over lags 40 to 300, the leading Lyapunov exponent of the same rows, and the closed
form where there is one. Two: the same networks trained, at several lengths, with Adam and a fixed budget; success is
the share of what chance leaves, and the axis is the rate from the first part times the lag of the task, in nats.
"""
