"""Temporal order: what clipping and Pascanu's Ω make trainable.

Question: up to which length T does stochastic gradient descent learn which of two symbols came first, plain, with the
gradient clipped, and with Ω besides?
Command: python -m experiments.temporal_order
Minutes: 13 on a share of one core; with --quick one.
Expected: three curves in the paper's order. Of 5 seeds within 4000 updates plain descent solves none at any length,
but one of the basic networks at T = 20; clipped all at 20, then 5 (smart) and 3 (basic) at 35, 1 and 0 at 50; with Ω
besides 5, 4, 5 (smart) and 5, 5, 5 (basic) at 20, 35 and 50. The one place out of order is T = 35 of the smart
networks, where one seed with Ω had come to 97%. No run diverged into NaN.

After Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, section 4.1, and
its authors' code: 50 units, batches of 20, norms clipped at 1, Ω with weight 4 (of squared norms, averaged over steps,
differentiated through W2 alone), three initialisations. A run is solved if less than 1% of 10,000 fresh sequences are
wrong at its end; it ends early once 2,000 held-out ones are 99.5% right. The learning rate is 0.1, ten times that of
the authors, who had millions of updates: at their 0.01 five thousand lead to T = 30, where of 5 seeds plain descent
solves none, clipped 2 and with Ω 4 (smart), and sigmoid units (`--initialisations sigmoid`) hardly move at T = 10.
"""
