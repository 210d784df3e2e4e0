"""Stocks: tomorrow's price from the days before, walked forward, beside forecasts that need no network.

Question: does a recurrent network predict tomorrow's price of a stock better than today's price does?
Command: python -m experiments.stocks
Minutes: 2 (0.7 with --quick) on one core.
Expected: no network beats persistence. Over 16 half-years the squared error of the LSTM is 0.1% and of the GRU 0.3%
above it, no difference by either test; the Elman network (1.2%), linear AR (1.2%) and the moving average (4.9%) are
worse. Clipping matters to none of them. The same GRU gains 20% on the planted series, as AR does, and nothing on the
walk.

The job of the lecture's first network, on real prices. A forecast of tomorrow's log price is today's log price plus a
forecast of tomorrow's log return, so all models say a return: persistence says 0, drift the mean of the past, the
moving average the mean of the last month, AR a linear function of the last week by least squares, and a network (Elman,
LSTM or GRU) what it makes of the last `--steps` days. One network serves all companies of a fold.

A fold is half a year. Everything that is fitted for it (weights, coefficients, means and standard deviations) is fitted
on the days before it, and a day is forecast from the days before that day. Two controls go the same way: a planted
series, which can be predicted, and a random walk, which cannot.

A model's loss on a day is the mean over companies of its squared error over the variance of the company's past. The
difference of its loss to persistence's, day by day, is tested with Diebold and Mariano's statistic (Newey and West's
variance) and with a moving-block bootstrap, since volatile days come together.

Every trained network of the last fold is kept; it takes returns, standardised by the numbers in its `info`:

    carry, outputs = rnnjax.training.load_model("results/stocks/models/gru-clipped-0")(xs)
"""
