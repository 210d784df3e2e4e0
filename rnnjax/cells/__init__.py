"""The built-in cells: one file a cell, each with its parameters, its carry, its maths and its frozen dataclass."""

from rnnjax.cells.elman import (
    Elman,
    ElmanParams,
    elman_gate,
    elman_init,
    elman_initial_carry,
    elman_mix,
    elman_project,
    elman_step,
)
from rnnjax.cells.gru import GRU, GRUParams, gru_gate, gru_init, gru_initial_carry, gru_mix, gru_project, gru_step
from rnnjax.cells.lstm import (
    LSTM,
    LSTMCarry,
    LSTMParams,
    lstm_gate,
    lstm_init,
    lstm_initial_carry,
    lstm_mix,
    lstm_project,
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
    "elman_gate",
    "elman_init",
    "elman_initial_carry",
    "elman_mix",
    "elman_project",
    "elman_step",
    "gru_gate",
    "gru_init",
    "gru_initial_carry",
    "gru_mix",
    "gru_project",
    "gru_step",
    "lstm_gate",
    "lstm_init",
    "lstm_initial_carry",
    "lstm_mix",
    "lstm_project",
    "lstm_step",
]
