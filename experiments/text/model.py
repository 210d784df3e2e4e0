"""Character models: how they are made and trained, and what a text costs in bits per character.

    bits_t = -log2 p(token_{t+1} | token_1, ..., token_t)          the carry goes through the whole text

Training is truncated backpropagation; the carry of one chunk is the start of the next. The text is cut into as many
stretches as a batch has rows, and each row reads its own, `steps` characters per update. A pass over the text begins
with the initial carry and at another offset, below `steps`, so that the borders of chunks, which no gradient crosses,
fall elsewhere in every pass.

A network that hardly ever starts from the initial carry need not work from there: it can fit the text that it reads and
still fail on another that it reads from the beginning. So a row of the larger network may restart from the initial
carry at any chunk, with a small probability.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rnnjax import Readout, ReadoutParams, unroll
from rnnjax.initializers import Normal
from rnnjax.sharding import AXIS
from rnnjax.tasks import cross_entropy
from rnnjax.training import Checkpoints, Chunk, FitOptions, clip_by_global_norm, fit, init_state, tbptt

from .. import lab, learning
from ..data import shakespeare
from .paired import by_stretch, standard_error

MEASURE, HELD_OUT = "bits_per_character", "held_out_bits_per_character"
CURVES = ("loss", "gradient_norm", HELD_OUT)
INPUT_SPREAD = 0.5  # standard deviation of what a character adds to a pre-activation, as drawn
PIECE = 128  # steps whose logits are in memory at a time
LOOK_ROWS, LOOK_STEPS = 16, 2048  # of the validation play, for a learning curve
LOOKS = 40  # evaluations of the larger network on the validation play
WARM_UP, LAST_RATE = 0.02, 0.02  # share of the updates, and of the rate, that the schedule begins and ends with


@functools.lru_cache(maxsize=1)
def texts(train: int | None = None, test: int | None = None) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """The size V of the alphabet, and tokens: of the training plays `[N]`; of the beginning of the validation play, in
    rows `[T, rows]`, for learning curves; of the test play `[N]`. `train`, `test`: the first so many characters alone.
    """
    plays = shakespeare.load()
    encode = plays.alphabet.encode
    steps = LOOK_STEPS if test is None else max(2, min(LOOK_STEPS, test // LOOK_ROWS))
    look = encode(plays.validation[: LOOK_ROWS * steps]).reshape(LOOK_ROWS, steps).T
    return len(plays.alphabet), encode(plays.train[:train]), look, encode(plays.test[:test])


def language_model(cell: str, hidden_size: int, alphabet_size: int) -> Readout:
    """One-hot characters in, logits of the next one out; W1 ~ N(0, 1/4).

    A one-hot input picks one row of W1, so what it adds has the spread of an entry: 1/√V = 0.12 as drawn for dense
    inputs, with which the first hundred updates teach little but the frequencies of characters.
    """
    w_x = Normal(INPUT_SPREAD * math.sqrt(alphabet_size))
    return Readout(dataclasses.replace(learning.CELLS[cell](hidden_size), w_x=w_x), alphabet_size)


def bits(model: Readout, params: Any, tokens: Array) -> Array:
    """Bits of every token but the first, given all before it: `[T, *batch]` to `[T - 1, *batch]`; a row is a text."""
    size, length = model.output_size, tokens.shape[0] - 1
    carry = model.initial_carry(params, tokens.shape[1:])

    def piece(carry: Any, window: tuple[Array, Array]) -> tuple[Any, Array]:
        now, following = window
        carry, logits = unroll(model, params, jax.nn.one_hot(now, size, dtype=params.b_out.dtype), carry=carry)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), following[..., None], axis=-1)[..., 0]
        return carry, -chosen / math.log(2)

    whole = length // PIECE * PIECE
    found = []
    if whole:
        now, following = (leaf[:whole].reshape(-1, PIECE, *leaf.shape[1:]) for leaf in (tokens[:-1], tokens[1:]))
        carry, pieces = lax.scan(piece, carry, (now, following))
        found.append(pieces.reshape(whole, *tokens.shape[1:]))
    if whole < length:
        found.append(piece(carry, (tokens[:-1][whole:], tokens[1:][whole:]))[1])
    return jnp.concatenate(found)


bits_compiled = functools.partial(jax.jit, static_argnums=0)(bits)


def stream(
    tokens: np.ndarray, alphabet_size: int, steps: int, batch: int, restarted: float = 0.0
) -> tuple[Callable[[Array, Array], Chunk], int]:
    """`(data, period)` for `fit`: chunks of a text `[N]`, and how many make a pass over it (`FitOptions.data_period`).

    `data(key, step)` is a `Chunk` with one-hot `xs` `[steps, batch, V]`, and as targets the character after each. All
    of a pass has the same key. Within it a row begins a chunk with the initial carry with probability `restarted`, and
    at most 2 steps - 1 characters of a row are left out.

    Raises:
      UsageError: the text is too short for one chunk per row.
    """
    length = len(tokens) // batch
    period = (length - steps) // steps
    if period < 1:
        raise lab.UsageError(
            f"a text of {len(tokens)} characters gives {batch} rows of {length}, too short for chunks of {steps}: "
            f"each row needs {2 * steps}. Lower --batch or --steps."
        )
    rows = jnp.asarray(np.asarray(tokens[: length * batch], np.int32).reshape(batch, length).T)

    def data(key: Array, step: Array) -> Chunk:
        piece = step % period
        start = jax.random.randint(key, (), 0, steps, jnp.int32) + piece * steps
        window = lax.dynamic_slice_in_dim(rows, start, steps + 1)
        xs = jax.nn.one_hot(window[:-1], alphabet_size)
        ones = jnp.ones((steps, batch), xs.dtype)
        afresh = jax.random.bernoulli(jax.random.fold_in(key, step), restarted, (batch,))
        resets = jnp.zeros((steps, batch), bool).at[0].set(afresh | (piece == 0))
        return Chunk(xs, window[1:], ones, ones > 0, resets)

    return data, period


def truncated_loss(model: Readout, steps: int) -> Any:
    """The loss in nats of truncated backpropagation with k1 = k2 = `steps`, for `fit`."""

    def apply(params: Any, xs: Array, *, carry: Any, mask: Array, resets: Array) -> tuple[Any, Array]:
        return unroll(model, params, xs, carry=carry, resets=resets)  # every step of a text counts: no mask

    return tbptt(apply, cast(Any, cross_entropy), steps)  # a chunk has the targets and weights of a batch


def dropped(params: ReadoutParams, key: Array, rate: float) -> ReadoutParams:
    """DropConnect: each entry of W2 and of the readout is zero with probability `rate`; 0 <= rate < 1.

        W ← W ⊙ M / (1 - p)        M_ij ~ Bernoulli(1 - p), one M for all steps and rows of the update

    The masks are drawn outside of the loop over time, so a step is as fast as without them.

    Reference: Wan, Zeiler, Zhang, LeCun and Fergus, Regularization of neural networks using DropConnect, ICML 2013; on
    the recurrent matrix: Merity, Keskar and Socher, Regularizing and optimizing LSTM language models, ICLR 2018,
    section 2.
    """
    key_rnn, key_out = jax.random.split(key)

    def thin(weights: Array, key: Array) -> Array:
        kept = jax.random.bernoulli(key, 1 - rate, weights.shape)
        return jnp.where(kept, weights / jnp.asarray(1 - rate, weights.dtype), 0)

    rnn = params.rnn._replace(w_h=thin(params.rnn.w_h, key_rnn))
    return params._replace(rnn=rnn, w_out=thin(params.w_out, key_out))


def sharded(loss: Callable[..., tuple[Array, Any]], mesh: Mesh, batch: int) -> Callable[..., Any]:
    """`gradient` for `fit` with the rows of a batch on different devices: `(params, chunk, carry, key)` to
    `((loss, carry), gradient)`.

        g = mean_d g_d          g_d the gradient of device d's own rows, equally many on each device

    Every device holds the whole carry, [B, H], and works on its own rows of it: one all-reduce of the gradient and one
    gather of the carry per update.
    """
    if batch % mesh.size:
        raise lab.UsageError(f"{batch} rows over {mesh.size} devices; make --large-batch a multiple of {mesh.size}.")
    specs: Any = {"in_specs": (P(), P(None, AXIS), P(AXIS), P()), "out_specs": ((P(), P()), P())}
    rows = jax.shard_map(functools.partial(own_rows, loss), mesh=mesh, **specs, check_vma=False)
    return lambda params, chunk, carry, key: rows(params, chunk, carry, key)


def own_rows(
    loss: Callable[..., tuple[Array, Any]], params: Any, chunk: Chunk, carry: Any, key: Array
) -> tuple[tuple[Array, Any], Any]:
    """One device's part, within the axis `rnnjax.sharding.AXIS`; the result is the same on all devices."""
    (value, carry), gradient = jax.value_and_grad(loss, has_aux=True)(params, chunk, carry, key)
    carry = jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), carry)
    value, gradient = lax.pmean((value, gradient), AXIS)
    return (value, carry), gradient


def _prepared(asked: learning.Asked) -> tuple[Readout, Any, Callable[[Any], Any], int, Array, dict[str, Any]]:
    """Model, loss, first carry by parameters, chunks in a pass, test play, and what `fit` and `fit_many` both take."""
    size, text, look, test = texts(asked["train_characters"], asked["test_characters"])
    model = language_model(asked["cell"], asked["hidden_size"], size)
    data, period = stream(text, size, asked["steps"], asked["batch"], asked.get("restarted", 0.0))
    loss, look = truncated_loss(model, asked["steps"]), jnp.asarray(look)

    def first(params: Any) -> Any:
        return model.initial_carry(params, (asked["batch"],))

    def measure(params: Any, tokens: Array) -> dict[str, Array]:
        return {MEASURE: bits(model, params, tokens).mean()}

    fitting = {"data": data, "held_out": lambda key, index: look, "measure": measure}
    return model, loss, first, period, jnp.asarray(test), fitting


def train_grid(asked: Sequence[learning.Asked], mesh: Mesh | None = None) -> list[dict[str, Any]]:
    """Rows of one cell, as `learning.train_grid` has them."""
    model, loss, first, period, test, fitting = _prepared(asked[0])
    fitting |= {"loss": loss, "carry": first, "mesh": mesh}
    return learning.train_grid(asked, model, model.output_size, test, period, **fitting)[0]


def train_large(
    *, checkpoints: Path | None = None, mesh: Mesh | None = None, progress: Any = None, **asked: Any
) -> dict[str, Any]:
    """Trains the larger network, or resumes from its newest checkpoint, and scores it on the whole test play.

    Args:
      checkpoints: their folder; None: none are kept.
      mesh, progress: of the run; the rows of the batch are distributed over the devices.
      asked: what `measure` in `__main__` asks for.
    Returns:
      Bits per character of the test play, with the standard error over 50 stretches of it, of training and of
      validation. Arrays, with one entry per evaluation: "updates_curve", "loss_curve" (nats),
      "held_out_bits_per_character_curve", "gradient_norm_curve"; "by_stretch", the bits of 50 stretches of the test
      play; and the parameters, "params_0", ...
    """
    model, undropped, first, period, test, fitting = _prepared(asked)
    updates, every = asked["updates"], max(1, asked["updates"] // LOOKS)

    def loss(params: ReadoutParams, batch: Chunk, carry: Any, key: Array) -> Any:
        return undropped(dropped(params, key, asked["dropped"]) if asked["dropped"] else params, batch, carry)

    key = jax.random.key(asked["seed"])
    params = model.init(jax.random.fold_in(key, 0), model.output_size)
    warm_up = max(1, round(WARM_UP * updates))
    rate = optax.warmup_cosine_decay_schedule(0.0, asked["rate"], warm_up, max(2, updates), LAST_RATE * asked["rate"])
    rule = optax.chain(clip_by_global_norm(asked["max_norm"]), optax.adam(rate))
    bar: Any = progress("updates of the larger LSTM", updates) if progress else contextlib.nullcontext()
    with bar as advance:
        done = 0

        def report(line: dict[str, Any]) -> None:
            nonlocal done
            advance(line["step"] - done, note=f"{line[HELD_OUT]:.3f} bits per character of the validation play")
            done = line["step"]

        fitted = fit(
            loss,
            init_state(params, rule, jax.random.fold_in(key, 1), first(params)),
            rule,
            options=FitOptions(steps=updates, chunk=every, data_period=period),
            has_key=True,
            gradient=None if mesh is None else sharded(loss, mesh, asked["batch"]),
            report=report if progress else None,
            checkpoints=Checkpoints(folder=checkpoints, every=every, keep=2, config=asked) if checkpoints else None,
            **fitting,
        )
    params, history = fitted.state.params, fitted.history
    tested = np.asarray(bits_compiled(model, params, test), np.float64)
    leaves = jax.device_get(jax.tree.leaves(params))
    return {
        f"test_{MEASURE}": float(tested.mean()),
        f"test_{MEASURE}_standard_error": standard_error(by_stretch(tested)),
        HELD_OUT: history[-1][HELD_OUT],
        f"train_{MEASURE}": history[-1]["loss"] / float(np.log(2)),
        "parameters_count": sum(leaf.size for leaf in leaves),
        "passes_over_the_text": updates / period,
        "by_stretch": by_stretch(tested),
        "updates_curve": np.array([line["step"] for line in history], float),
        **{f"{name}_curve": np.array([line[name] for line in history], float) for name in CURVES},
        **{f"params_{i}": leaf for i, leaf in enumerate(leaves)},
    }


def trained_model(row: lab.Row) -> tuple[Readout, ReadoutParams]:
    """The larger network of a row of `train_large`."""
    size = texts(row["train_characters"], row["test_characters"])[0]
    model = language_model(row["cell"], row["hidden_size"], size)
    structure = jax.tree.structure(jax.eval_shape(lambda key: model.init(key, size), jax.random.key(0)))
    return model, jax.tree.unflatten(structure, [row[f"params_{i}"] for i in range(structure.num_leaves)])
