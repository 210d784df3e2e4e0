"""Training as pure functions: clipping, a compiled loop, many runs at once, truncated backpropagation, checkpoints.

It loads on first use, because it needs Optax: `from rnnjax import training`.
"""

from rnnjax.training.checkpoints import Checkpoints, CheckpointWarning
from rnnjax.training.data import Buckets, class_weights, epochs, labelled, pad, take
from rnnjax.training.faults import CheckpointError, DataError, NonFiniteError
from rnnjax.training.health import adjoint_health
from rnnjax.training.loop import Fitted, FittedMany, fit, fit_many
from rnnjax.training.optimizers import ClipState, clip_by_global_norm, counted
from rnnjax.training.parallel import data_parallel
from rnnjax.training.saved import SavedModel, load_model, save_model
from rnnjax.training.steps import FitOptions, TrainState, init_state
from rnnjax.training.truncated import Chunk, chunks, tbptt, whole_rows

__all__ = [
    "Buckets",
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
    "Chunk",
    "ClipState",
    "DataError",
    "FitOptions",
    "Fitted",
    "FittedMany",
    "NonFiniteError",
    "SavedModel",
    "TrainState",
    "adjoint_health",
    "chunks",
    "class_weights",
    "clip_by_global_norm",
    "counted",
    "data_parallel",
    "epochs",
    "fit",
    "fit_many",
    "init_state",
    "labelled",
    "load_model",
    "pad",
    "save_model",
    "take",
    "tbptt",
    "whole_rows",
]
