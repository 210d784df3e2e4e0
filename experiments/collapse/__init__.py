"""Does the gradient's rate decide what is learned? Adjoint, Lyapunov exponent, closed form, and success on one axis.

Question: is the rate at which a task's own gradient decays the Lyapunov exponent of the same run, and is what a network
learns a function of rate times lag alone, over cells, scales, lengths and tasks?
Command: python -m experiments.collapse
Minutes: 10 on one core; with --quick two.
Expected: in solvable cases all three rates agree to 1e-14. In drawn networks adjoint and exponent agree to 0.004 nats
a step (root mean square); the closed forms are limits: mean field is off by 0.03 at H = 32, log σ(bias) by up to 0.6
where W2 is not small. The latch collapses: one curve of rate × lag, half of success at -9.2 nats, R² = 0.95 over all
cells. Temporal order does not (R² = 0.49): GRU and LSTM reach further, and Elman fails at T = 40 though little
gradient is lost, as it cannot hold a symbol against the distractors. All together R² = 0.69; the lag alone 0.16, the
rate alone 0.26.

One: for Elman, LSTM and GRU over scales of W2 and gate biases, on the inputs of two tasks, before training, float64:
the slope of log ‖dL/d(carry_t)‖ over lags 40 to 300, the leading Lyapunov exponent of the same rows, and the closed
form where there is one. Two: the same networks trained, at several lengths, with Adam and a fixed budget; success is
the share of what chance leaves, and the axis is the rate from the first part times the lag of the task, in nats.
"""
