"""A character language model of Shakespeare: Elman, LSTM and GRU against n-grams, and a sample as it is drawn.

Question: how many bits does a character of an unseen play cost a recurrent network, and how many a 5-gram model?
Command: python -m experiments.text
Minutes: about 20 on one core, of which the larger LSTM takes 13; with --quick one.
Expected: on *Macbeth* 2.42 bits for the 5-gram, 2.37 for the best n-gram (n = 7). Trials of the larger LSTM at H = 384
gave 2.42 (eight passes over six plays, nothing dropped: 1.62 on what it trains on, which it learns by heart) and 2.48
(six passes over eight plays, 40% dropped: 2.28 there, too much). The defaults lie between the two, and are not yet run.

Trained on eight tragedies (1.17 million characters, 67 different ones), by truncated backpropagation over 64 steps with
the carry handed on; learning curves on *Julius Caesar*; the table on *Macbeth*, read once from the first character to
the last. The opponent is interpolated Kneser-Ney with three discounts, of the same training text. The larger LSTM is
trained with DropConnect, and goes on from its last checkpoint if it is stopped.

`python -m experiments.text.sample` writes more with the trained model, and one line loads it for other uses:
`carry, logits = rnnjax.training.load_model("results/text/model")(xs)`, `xs` one-hot characters `[T, *batch, 67]`.
"""
