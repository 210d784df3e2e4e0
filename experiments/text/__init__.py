"""A character language model of Shakespeare: Elman, LSTM and GRU against n-grams, and a sample as it is drawn.

Question: how many bits does a character of an unseen play cost a recurrent network, and how many a 5-gram model?
Command: python -m experiments.text
Minutes: TODO
Expected: TODO

Trained on eight tragedies (1.17 million characters, 67 different ones), by truncated backpropagation over 64 steps with
the carry handed on; learning curves on *Julius Caesar*; the table on *Macbeth*, read once from the first character to
the last. The opponent is interpolated Kneser-Ney with three discounts, of the same training text. The larger LSTM is
trained with DropConnect, and goes on from its last checkpoint if it is stopped.

`python -m experiments.text.sample` writes more with the trained model, and one line loads it for other uses:
`carry, logits = rnnjax.training.load_model("results/text/model")(xs)`, `xs` one-hot characters `[T, *batch, 67]`.
"""
