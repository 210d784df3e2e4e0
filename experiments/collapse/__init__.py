"""Does the gradient's rate decide what is learned? Adjoint, Lyapunov exponent, closed form, and success on one axis.

Question: is the rate at which a task's own gradient decays the Lyapunov exponent of the same run, and is what a network
learns a function of rate times lag alone, over cells, scales, lengths and tasks?
Command: python -m experiments.collapse
Minutes: 15 on one core; with --quick one.
Expected: TO BE WRITTEN.

One: for Elman, LSTM and GRU over scales of W2 and gate biases, on the inputs of two tasks, before training, float64:
the slope of log ‖dL/d(carry_t)‖ over lags 40 to 300, the leading Lyapunov exponent of the same rows, and the closed
form where there is one. Two: the same networks trained, at several lengths, with Adam and a fixed budget; success is the
share of what chance leaves, and the axis is the rate from the first part times the lag of the task, in nats.
"""
