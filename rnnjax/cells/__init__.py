"""The built-in cells: one file a cell, each with its parameters, its carry, its maths and its frozen dataclass."""

from rnnjax.cells.elman import (
    Elman,
    ElmanParams,
    elman_init,
    elman_initial_carry,
    elman_step,
)
from rnnjax.cells.gru import GRU, GRUParams, gru_init, gru_initial_carry, gru_step
from rnnjax.cells.lstm import (
    LSTM,
    LSTMCarry,
    LSTMParams,
    lstm_init,
    lstm_initial_carry,
    lstm_step,
)

__all__ = [
    "GRU",
    "LSTM",
    "Elman",
    "ElmanParams",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "elman_init",
    "elman_initial_carry",
    "elman_step",
    "gru_init",
    "gru_initial_carry",
    "gru_step",
    "lstm_init",
    "lstm_initial_carry",
    "lstm_step",
]
