"""The built-in cells: one file per cell, with its parameters, carry, step function and frozen dataclass."""

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
from rnnjax.cells.lstm_projected import (
    LSTMProjected,
    LSTMProjectedCarry,
    LSTMProjectedParams,
    lstm_projected_init,
    lstm_projected_initial_carry,
    lstm_projected_step,
)

__all__ = [
    "GRU",
    "LSTM",
    "Elman",
    "ElmanParams",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "LSTMProjected",
    "LSTMProjectedCarry",
    "LSTMProjectedParams",
    "elman_init",
    "elman_initial_carry",
    "elman_step",
    "gru_init",
    "gru_initial_carry",
    "gru_step",
    "lstm_init",
    "lstm_initial_carry",
    "lstm_projected_init",
    "lstm_projected_initial_carry",
    "lstm_projected_step",
    "lstm_step",
]
