"""How long an LSTM remembers, by what its forget gates start with.

Question: what share of the gradient is left in the cell state k steps back, for forget biases 0, 1, 5 and for chrono
initialisation?
Command: python -m experiments.lstm_memory
Minutes: 0.5 on one core; 0.3 with --quick.
Expected: with the recurrent weights at 0 the cell state keeps σ(b_f) a step exactly: 0.5 for b_f = 0 (the lecture's
vanishing network), 0.731 for 1, and for 5 a time constant of 149 steps. Chrono initialisation, b_f = log u with u
uniform on [1, T_max - 1], keeps a mean of 0.725 at lag 50 and 0.149 at lag 500 for T_max = 500, no exponential. With
orthogonal recurrent weights and white noise as input the way through the gates adds to the cell's own: b_f = 0 and 1
decay about 40% more slowly, with b_f = 5 the gradient even grows, and chrono stays near its closed form.

Measured is |dL/dc_(T-1-k)| / |dL/dc_(T-1)| unit by unit with the exact log-adjoint in float64, where L is the sum of
the last hidden states. Two settings: `closed` has W_h = 0 and no input, the case of the closed form; `driven` is the
cell as initialised (orthogonal W_h a gate, LeCun W_x), fed with white noise.

Reference: Tallec and Ollivier, Can recurrent neural networks warp time?, ICLR 2018 (chrono); Jozefowicz, Zaremba and
Sutskever, An empirical exploration of recurrent network architectures, ICML 2015 (b_f = 1).
"""
