"""StatLand: one recurrent unit unrolled number by number, trained from scratch, and one LSTM unit.

In StatLand stocks are low, medium or high, and four rules say how two days lead to the next. A published network with
a single ReLU unit meets the rules; a published LSTM unit tells two companies apart by their first day.

Question: what passes through every copy of the published network, and how often does training from scratch find the
rules again?
Command: python -m experiments.statland
Minutes: 0.3 on two CPU cores; 0.2 with --quick (fewer updates).
Expected: the network says 0, 0.99, 0, 0.99 for the four rules (low, high, low, high) and 0.99 for high, medium,
medium; the LSTM says 0.0064 for company A and 0.9694 for B. Of 64 seeds learn all four rules: 19% by gradient descent,
25% with clipping, 31% by Adam, 33% with clipping (of 4,096 seeds 20%, 28%, 29%, 29%); about two thirds die, because the
only ReLU unit puts out 0 for everything and no gradient passes.

Type a row of your own with --days low medium high.
"""
