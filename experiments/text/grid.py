"""The grid: the runs of one cell, clipped and not, times seeds, by truncated backpropagation in one program.

Rows are those of `experiments.learning`, whose table and figure they go into.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh

from experiments.data.shakespeare import Plays
from experiments.text.score import bits, cell_named, language_model, truncated_loss
from experiments.text.stream import stream
from rnnjax import Readout
from rnnjax.training import FitOptions, FittedMany, clip_by_global_norm, fit_many

MEASURE = "bits_per_character"
LOOK_ROWS, LOOK_STEPS = 16, 2048  # of the validation play, that a learning curve is measured on

Asked = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Texts:
    """The parts of a text as tokens.

    Attributes:
      alphabet_size: V.
      train, test: `[N]`.
      look: `[T, rows]`, the beginning of the validation part, cut into rows; what learning curves are measured on.
    """

    alphabet_size: int
    train: np.ndarray
    look: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, plays: Plays, train: int | None = None, test: int | None = None) -> "Texts":
        """The tokens of `plays`; with `train` or `test`, no more characters than that of the part."""
        encode = plays.alphabet.encode
        steps = LOOK_STEPS if test is None else max(2, min(LOOK_STEPS, test // LOOK_ROWS))
        look = encode(plays.validation[: LOOK_ROWS * steps]).reshape(LOOK_ROWS, steps).T
        return cls(len(plays.alphabet), encode(plays.train[:train]), look, encode(plays.test[:test]))


def train(
    texts: Texts,
    asked: Sequence[Asked],
    report: Callable[[dict[str, Any]], None] | None = None,
    mesh: Mesh | None = None,
) -> list[tuple[Asked, dict[str, Any], dict[str, np.ndarray]]]:
    """Rows of one cell: what was asked, values, arrays, as `experiments.learning` has them.

    A seed starts from the same weights and reads the same chunks whether it is clipped or not.
    """
    first = asked[0]
    rate = optax.cosine_decay_schedule(first["rate"], first["updates"])
    model = language_model(cell_named(first["cell"], first["hidden_size"], texts.alphabet_size), texts.alphabet_size)
    batch, steps = first["batch"], first["steps"]
    data, period = stream(texts.train, texts.alphabet_size, steps, batch)
    loss, initial = truncated_loss(model, steps)
    shapes = jax.eval_shape(data, jax.random.key(0), jnp.int32(0))
    key = jax.random.key(first["seed"])
    indices = jnp.array([each["index"] for each in asked], jnp.uint32)
    settings = {
        "max_norm": jnp.array([each["max_norm"] if each["clipped"] else jnp.inf for each in asked]),
        "key": jax.vmap(jax.random.fold_in, (None, 0))(key, indices),
    }
    look = jnp.asarray(texts.look)
    fitted = fit_many(
        loss,
        lambda key, setting: model.init(key, texts.alphabet_size),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.adam(rate)),
        data,
        settings,
        FitOptions(steps=first["updates"], chunk=min(first["look_every"], first["updates"]), data_period=period),
        key=key,
        carry=lambda params: initial(model.initial_carry(params, (batch,)), shapes),
        held_out=lambda key, index: look,
        measure=lambda params, tokens: {MEASURE: bits(model, params, tokens).mean()},
        report=report,
        mesh=mesh,
    )
    tested = _tested(model, fitted, texts)
    return [(each, *_row(fitted, i, tested[i])) for i, each in enumerate(asked)]


def _tested(model: Readout, fitted: FittedMany, texts: Texts) -> list[float]:
    """Bits per character of the whole test text, its carry never reset; one run after the other."""
    tokens = jnp.asarray(texts.test)

    @jax.jit
    def score(params: Any) -> Array:
        return lax.map(lambda each: bits(model, each, tokens).mean(), params)

    return np.asarray(score(fitted.state.params), float).tolist()


def _row(fitted: FittedMany, i: int, tested: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    history, fault = fitted.history, fitted.faults[i]
    names = ("loss", "gradient_norm", "gradient_norm_max", "clipped", f"held_out_{MEASURE}")
    arrays = {"updates": history["step"]} | {name: history[name][:, i] for name in names}
    clipped = arrays["clipped"][np.isfinite(arrays["clipped"])]
    values = {
        f"test_{MEASURE}": tested,
        f"held_out_{MEASURE}": float(arrays[f"held_out_{MEASURE}"][-1]),
        "updates_done": int(fitted.state.step[i]),
        "clipped_share": float(clipped.mean()) if len(clipped) else None,
        "largest_gradient_norm": float(arrays["gradient_norm_max"].max()),
        "stopped_at_update": None if fault is None else fault[0],
        "not_finite": None if fault is None else list(fault[1]),
    }
    return values, arrays
