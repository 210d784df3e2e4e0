"""A character language model of Shakespeare: Elman, LSTM and GRU against n-grams, and a sample as it is drawn.

Question: how many bits does a character of an unseen play cost a recurrent network, and how many a 5-gram model?
Command: python -m experiments.text --devices 2
Minutes: 13 on two cores, of which the larger LSTM takes 11; with --quick one.
Expected: on *Macbeth* 2.29 bits per character for the 5-gram, 2.20 for the best n-gram (n = 7), 2.11 for the larger
LSTM: well under the 5-gram in the sense of `experiments.text.paired`, which was fixed beforehand (5% fewer bits and
five paired standard errors), and under the 7-gram by 15 paired standard errors, though by less than 5%.

Trained on 35 plays (4.7 million characters), by truncated backpropagation over 64 steps with the carry handed on.
Learning curves are measured on the beginning of *Julius Caesar*, the table on *Macbeth*, read once from the first
character to the last. The opponent is interpolated Kneser-Ney with three discounts, trained on the same text. The
larger LSTM resumes from its last checkpoint if it was stopped. Its sizes and its rate were chosen on *Julius Caesar*,
at what ten minutes on two cores can train: 384, 512 or 640 units, two layers of 256, chunks of 64 or 128 steps, rates
of 2e-3 to 8e-3, up to 10% of the weights dropped, an average of the weights or the last ones. Higher rates did better
throughout. Dropping did worse, as 2.5 passes are too few to memorize the text; an average gained a thousandth of a bit.

`python -m experiments.text.sample` writes more with the trained model, and one line loads it for other uses:
`carry, logits = rnnjax.training.load_model("results/text/model")(xs)`, `xs` one-hot characters `[T, *batch, 78]`.
"""
