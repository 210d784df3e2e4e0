"""Temporal order: what clipping and Pascanu's Ω make trainable.

Question: up to which length T does stochastic gradient descent learn which of two symbols came first, plain, with the
gradient clipped, and with Ω besides?
Command: python -m experiments.temporal_order
Minutes: 15 on one core; with --quick two.
Expected: with this budget, 5000 updates (the authors had millions), at T = 20 plain and clipped descent solve 3 or 4
of 5 seeds of both tanh networks and with Ω all are solved; at T = 30 plain descent solves no network, clipped 1
(basic) and 2 (smart), with Ω 3 and 4. The order is the paper's, at lengths below its own. Sigmoid units from N(0,
0.01²) are solved by none but for one seed with Ω at T = 10. No run diverged.

After Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, section 4.1, and
its authors' code: 50 units, learning rate 0.01, batches of 20, norms clipped at 1, Ω with weight 4 (of squared norms,
averaged over steps, differentiated through W2 alone), three initialisations. A run is solved if less than 1% of 10,000
fresh sequences are wrong at its end; it ends early once 2,000 held-out ones are 99.5% right.
"""
