"""Recurrent networks as pure functions in JAX, and an instrument for their gradients."""

import importlib
import types
import typing

from rnnjax._unroll import (
    Explanation,
    MemoryBudget,
    Noise,
    Noisy,
    NotConverged,
    NotHoistable,
    NotLinear,
    Parallel,
    draw_noise,
    explain,
    unroll,
)
from rnnjax.cell import Cell, StepCell
from rnnjax.cells import (
    GRU,
    LSTM,
    Elman,
    ElmanParams,
    GRUParams,
    LSTMCarry,
    LSTMParams,
    LSTMProjected,
    LSTMProjectedCarry,
    LSTMProjectedParams,
    elman_init,
    elman_initial_carry,
    elman_step,
    gru_init,
    gru_initial_carry,
    gru_step,
    lstm_init,
    lstm_initial_carry,
    lstm_projected_init,
    lstm_projected_initial_carry,
    lstm_projected_step,
    lstm_step,
)
from rnnjax.compose import Bidirectional, BothWays, Stack
from rnnjax.embedding import Embedding, EmbeddingParams
from rnnjax.pooling import AttentionPooling, AttentionPoolingParams, pool_last, pool_mean
from rnnjax.readout import Readout, ReadoutParams, ridge
from rnnjax.stepping import step
from rnnjax.wrappers import LearnedCarry, LearnedCarryParams, WithoutBias

_SUBMODULES = (
    "cells",
    "converters",
    "dynamics",
    "flax",
    "gradients",
    "initializers",
    "online",
    "parallel",
    "processes",
    "sharding",
    "tasks",
    "training",
    "wrappers",
)

_DOORS = ("equinox", "haiku")  # need libraries that may not be installed, so they are not in `__all__`

__version__ = "0.2.0"

__all__ = [
    "GRU",
    "LSTM",
    "AttentionPooling",
    "AttentionPoolingParams",
    "Bidirectional",
    "BothWays",
    "Cell",
    "Elman",
    "ElmanParams",
    "Embedding",
    "EmbeddingParams",
    "Explanation",
    "GRUParams",
    "LSTMCarry",
    "LSTMParams",
    "LSTMProjected",
    "LSTMProjectedCarry",
    "LSTMProjectedParams",
    "LearnedCarry",
    "LearnedCarryParams",
    "MemoryBudget",
    "Noise",
    "Noisy",
    "NotConverged",
    "NotHoistable",
    "NotLinear",
    "Parallel",
    "Readout",
    "ReadoutParams",
    "Stack",
    "StepCell",
    "WithoutBias",
    "cells",
    "converters",
    "draw_noise",
    "dynamics",
    "elman_init",
    "elman_initial_carry",
    "elman_step",
    "explain",
    "flax",
    "gradients",
    "gru_init",
    "gru_initial_carry",
    "gru_step",
    "initializers",
    "lstm_init",
    "lstm_initial_carry",
    "lstm_projected_init",
    "lstm_projected_initial_carry",
    "lstm_projected_step",
    "lstm_step",
    "online",
    "parallel",
    "pool_last",
    "pool_mean",
    "processes",
    "ridge",
    "sharding",
    "step",
    "tasks",
    "training",
    "unroll",
    "wrappers",
]

if typing.TYPE_CHECKING:
    from rnnjax import (
        cells,
        converters,
        dynamics,
        flax,
        gradients,
        initializers,
        online,
        parallel,
        processes,
        sharding,
        tasks,
        training,
        wrappers,
    )
else:  # type checkers must not see this: any misspelt name would count as a submodule

    def __getattr__(name: str) -> types.ModuleType:
        """Imports a submodule on first use: `rnnjax.training` needs Optax, which `import rnnjax` should not load."""
        if name in (*_SUBMODULES, *_DOORS):
            return importlib.import_module(f"rnnjax.{name}")
        raise AttributeError(f"module 'rnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
