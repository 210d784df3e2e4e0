"""One model twice, in Flax and in rnnjax, from the same weights, with the same task, loss and optimizer."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array

import rnnjax
from benchmarks.peers.peer import require
from rnnjax import tasks, training

CELLS = {"lstm": rnnjax.LSTM, "gru": rnnjax.GRU, "elman": rnnjax.Elman}
TASKS = ("adding", "temporal_order")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A task, a cell and sizes, as `adding,lstm,32,100,64`: task, cell, B, T, H."""

    task: str
    cell: str
    B: int
    T: int
    H: int

    @classmethod
    def parse(cls, text: str) -> "Setting":
        try:
            task, cell, *sizes = text.split(",")
            setting = cls(task, cell, *(int(size) for size in sizes))
        except (TypeError, ValueError):
            raise ValueError(f"a setting is {text!r}; write task,cell,B,T,H: adding,lstm,32,100,64.") from None
        if task not in TASKS or cell not in CELLS or min(setting.B, setting.H) < 1 or setting.T < 10:
            raise ValueError(f"a setting is {text!r}; tasks: {', '.join(TASKS)}; cells: {', '.join(CELLS)}; T >= 10.")
        return setting

    def data(self, key: Array, step: Array) -> tasks.Batch:
        """A batch, the same for everybody."""
        draw = tasks.adding if self.task == "adding" else tasks.temporal_order
        return draw(key, self.T, (self.B,))

    @property
    def features(self) -> int:
        return 2 if self.task == "adding" else 6

    @property
    def outputs(self) -> int:
        return 1 if self.task == "adding" else 4

    def score(self, outputs: Array, batch: tasks.Batch) -> Array:
        score = tasks.squared_error if self.task == "adding" else tasks.cross_entropy
        return score(outputs, batch)


def flax_model(setting: Setting) -> tuple[Any, Callable[[Any, tasks.Batch], Array]]:
    """Flax's weights as drawn by it, and the loss `(variables, batch) -> []`."""
    require("flax")
    from flax import linen as nn

    cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}

    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs: Array) -> Array:
            ys = nn.RNN(cells[setting.cell](setting.H), time_major=True)(xs)
            return nn.Dense(setting.outputs, name="readout")(ys)

    model = Model()
    batch = setting.data(jax.random.key(0), jax.numpy.int32(0))
    variables = jax.jit(model.init)(jax.random.key(1), batch.xs)

    def loss(variables: Any, batch: tasks.Batch) -> Array:
        return setting.score(jax.numpy.asarray(model.apply(variables, batch.xs)), batch)

    return variables, loss


def our_model(setting: Setting, variables: Any) -> tuple[Any, Callable[[Any, tasks.Batch], Array]]:
    """The same weights in rnnjax's layout, and the same loss."""
    from rnnjax.flax import from_linen

    cell = CELLS[setting.cell](setting.H)
    tree = dict(variables["params"])
    readout = tree.pop("readout")
    (rnn,) = tree.values()  # Flax names it after the cell
    params = {"rnn": from_linen(rnn), "w": readout["kernel"], "b": readout["bias"]}

    def loss(params: Any, batch: tasks.Batch) -> Array:
        _, ys = rnnjax.unroll(cell, params["rnn"], batch.xs)
        return setting.score(ys @ params["w"] + params["b"], batch)

    return params, loss


@functools.cache
def theirs() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


@functools.cache
def ours() -> optax.GradientTransformation:
    return optax.chain(training.clip_by_global_norm(1.0), optax.adam(1e-3))
