"""Memory tasks for recurrent networks, each a pure function `(key, ...) -> Batch`.

    batch = adding(key, 100, (32,))                   xs [T, *batch, D], targets, weights [T, *batch], lengths [*batch]
    loss = squared_error(predictions, batch)          over the scored steps
    adding_baseline()                                 the score of a predictor without memory

Regressions are scored by `squared_error` (`adding`, `statland`, `windows`, `flip_flop`, `lorenz`, `mackey_glass`), sets
by `squared_error` and `set_accuracy` (`reber`), classifications by `cross_entropy` and `accuracy` (all others). Each
task has a baseline.
"""

from rnnjax.tasks.adding import adding, adding_baseline
from rnnjax.tasks.batch import Baseline, Batch
from rnnjax.tasks.chaotic import lorenz, lorenz_baseline, mackey_glass, mackey_glass_baseline
from rnnjax.tasks.cognitive import (
    context_integration,
    context_integration_baseline,
    delayed_match,
    delayed_match_baseline,
    flip_flop,
    flip_flop_baseline,
    perceptual_decision,
    perceptual_decision_baseline,
)
from rnnjax.tasks.copy_memory import copy_memory, copy_memory_baseline
from rnnjax.tasks.delayed_xor import delayed_xor, delayed_xor_baseline
from rnnjax.tasks.latch import latch, latch_baseline
from rnnjax.tasks.parity import parity, parity_baseline
from rnnjax.tasks.pixels import pixels, pixels_baseline
from rnnjax.tasks.reber import reber, reber_baseline
from rnnjax.tasks.scores import accuracy, cross_entropy, set_accuracy, squared_error
from rnnjax.tasks.statland import statland, statland_baseline, statland_rules
from rnnjax.tasks.temporal_order import temporal_order, temporal_order_baseline
from rnnjax.tasks.windows import SeriesBaseline, split_series, windows, windows_baseline

__all__ = [
    "Baseline",
    "Batch",
    "SeriesBaseline",
    "accuracy",
    "adding",
    "adding_baseline",
    "context_integration",
    "context_integration_baseline",
    "copy_memory",
    "copy_memory_baseline",
    "cross_entropy",
    "delayed_match",
    "delayed_match_baseline",
    "delayed_xor",
    "delayed_xor_baseline",
    "flip_flop",
    "flip_flop_baseline",
    "latch",
    "latch_baseline",
    "lorenz",
    "lorenz_baseline",
    "mackey_glass",
    "mackey_glass_baseline",
    "parity",
    "parity_baseline",
    "perceptual_decision",
    "perceptual_decision_baseline",
    "pixels",
    "pixels_baseline",
    "reber",
    "reber_baseline",
    "set_accuracy",
    "split_series",
    "squared_error",
    "statland",
    "statland_baseline",
    "statland_rules",
    "temporal_order",
    "temporal_order_baseline",
    "windows",
    "windows_baseline",
]
