"""The cells over their scales, the tasks with their lags, and what closed forms say of the rates."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rnnjax
from rnnjax import tasks
from rnnjax.gradients import theory
from rnnjax.initializers import Normal


@dataclasses.dataclass(frozen=True)
class Setting:
    """W2 ~ N(0, gain²/H) in every gate; `bias` is that of the gate that holds: the LSTM's forget, the GRU's z."""

    gain: float
    bias: float = 0.0


@dataclasses.dataclass(frozen=True)
class Task:
    """A task asked about at its last step.

    Attributes:
      draw: `(key, steps, batch_shape) -> Batch`.
      lag: from the last step back to the first informative one, as a share of T (on average).
      chance: accuracy of a guess.
      input_variance: of x W1 over units, on average over steps.
    """

    draw: Callable[..., tasks.Batch]
    features: int
    classes: int
    lag_share: float
    input_variance: float

    def lag(self, steps: int) -> float:
        return self.lag_share * steps

    @property
    def chance(self) -> float:
        return 1 / self.classes


TASKS = {
    "latch": Task(tasks.latch, 1, 2, 1.0, 0.2**2),
    "temporal order": Task(tasks.temporal_order, 6, 4, 0.85, 1 / 6),
}

CELLS: dict[str, Callable[[int], Any]] = {
    "elman": lambda size: rnnjax.Elman(size, w_h=Normal()),
    "lstm": lambda size: rnnjax.LSTM(size, forget_bias=0.0, w_h=Normal()),
    "gru": lambda size: rnnjax.GRU(size, w_h=Normal()),
}

SETTINGS = {
    "elman": tuple(Setting(gain) for gain in (0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5)),
    "lstm": (*(Setting(0.5, bias) for bias in (-1.0, 0.0, 1.0, 2.0, 4.0)), Setting(1.5, 1.0), Setting(3.0, 1.0)),
    "gru": (*(Setting(0.5, bias) for bias in (-1.0, 0.0, 1.0, 2.0, 4.0)), Setting(1.5, 0.0), Setting(3.0, 0.0)),
}


class Network(NamedTuple):
    rnn: Any
    w_out: Array  # [H, classes]
    b_out: Array  # [classes]


def draw(cell: Any, task: Task, key: Array, gain: Any, bias: Any, dtype: str = "float32") -> Network:
    """A network at one setting; gain and bias may be traced."""
    key_rnn, key_out = jax.random.split(key)
    rnn = cell.init(key_rnn, task.features, jnp.dtype(dtype))
    size = cell.hidden_size
    rnn = rnn._replace(w_h=rnn.w_h * jnp.asarray(gain, dtype))
    if rnn.b.size > size:  # in both gated cells the second block is the gate that holds
        rnn = rnn._replace(b=rnn.b.at[size : 2 * size].set(jnp.asarray(bias, dtype)))
    w_out = jax.random.normal(key_out, (size, task.classes), dtype) / np.sqrt(size).astype(dtype)
    return Network(rnn, w_out, jnp.zeros(task.classes, dtype))


def logits(ys: Array, network: Network) -> Array:
    """`[T, B, classes]`."""
    return ys @ network.w_out + network.b_out


def closed_form(cell: str, task: Task, setting: Setting) -> float | None:
    """Nats a step, where a formula holds: mean field for Elman; for small W2, log σ(bias) of a gate that holds."""
    if cell == "elman":
        return float(theory.tanh_lyapunov_exponent(setting.gain, task.input_variance))
    if setting.gain <= 0.5:
        return float(theory.forget_gate_exponent(setting.bias))
    return None
