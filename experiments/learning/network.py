"""The cells of the training experiments, as they draw themselves."""

from collections.abc import Callable

import rnnjax

CELLS: dict[str, Callable[[int], rnnjax.Cell]] = {"elman": rnnjax.Elman, "lstm": rnnjax.LSTM, "gru": rnnjax.GRU}
"""By the name of `--cells`: orthogonal W2 (gate by gate), W1 of variance 1/D, the LSTM's forget bias 1."""
