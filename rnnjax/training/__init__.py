"""Training as pure functions: clipping, a compiled loop, many runs at once, truncated backpropagation, checkpoints."""

from rnnjax.training.checkpoints import Checkpoints, CheckpointWarning
from rnnjax.training.data import Buckets, class_weights, epochs, labelled, pad, take
from rnnjax.training.faults import CheckpointError, DataError, NonFiniteError
from rnnjax.training.loop import Fitted, FittedMany, fit, fit_many
from rnnjax.training.losses import Chunk, adjoint_health, chunks, data_parallel, tbptt, whole_rows
from rnnjax.training.optimizers import ClipState, clip_by_global_norm, counted
from rnnjax.training.saved import SavedModel, load_model, save_model
from rnnjax.training.steps import FitOptions, TrainState, init_state

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
