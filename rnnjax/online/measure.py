"""The instrument: what a rule's gradient is worth, whole and by lag, against the exact one."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

from rnnjax._unroll.arguments import checked_xs, make_masks
from rnnjax.cell import Cell, PyTree, batch_shape_of, check_size
from rnnjax.online.influence import RTRL
from rnnjax.online.learning import Loss
from rnnjax.online.rule import Rule
from rnnjax.readout import Readout


class Bias(NamedTuple):
    """A rule's gradient of a sequence against the exact one, all parameters together; arrays of NumPy.

    The gradient is a sum over lags, from the use of a parameter to the loss: of lag k is what steps t - k add to the
    gradients of the losses of steps t. The mean and the standard deviation are over seeds.

    Attributes:
      cosine: between the mean gradient and the exact one.
      norm_ratio: of their lengths, the rule's over the exact one's.
      deviation: the root of the mean squared distance of one draw from the mean, over the exact one's length.
      exact_by_lag: `[K]`, the length of the exact gradient of each lag.
      bias_by_lag: `[K]`, the distance of the rule's mean from it.
      deviation_by_lag: `[K]`, the root of the mean squared distance of one draw from the mean.
    """

    cosine: float
    norm_ratio: float
    deviation: float
    exact_by_lag: np.ndarray
    bias_by_lag: np.ndarray
    deviation_by_lag: np.ndarray


def bias(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    targets: PyTree,
    loss: Loss,
    rules: Mapping[str, Rule],
    *,
    carry: PyTree | None = None,
    lags: int | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    seeds: int = 16,
) -> dict[str, Bias]:
    """How far each rule's gradient is from the exact one, in float64, with the parameters fixed over the sequence.

    The gradient of a lag is found by clearing the trace: a trace that starts at step t - k gives lags 0 to k of L_t.
    So K traces run side by side, each started anew every K steps, and one that runs from the start. The initial carry
    counts as a constant. For `DNI`, whose gradients hold predictions of later losses, lags have no such meaning.

    Args:
      cell, params: as in `Rule.init`.
      xs: `[T, *batch, D]`.
      targets: leaves `[T, ...]`.
      loss: `loss(y_t, target_t)`, a scalar.
      rules: by name, such as `{"SnAp-1": SnAp(1), "UORO": UORO()}`.
      carry: before the first step.
      lags: K; all T by default. It costs K times the time and memory of a rule.
      mask, resets: `[T, *batch]` booleans.
      seeds: for rules that draw random numbers.
    Returns:
      A `Bias` for each rule. Not for use under `jit`.
    Raises:
      TypeError: values are traced; or a rule is not defined for the cell.
      ValueError: shapes do not fit, or `lags` is not in 1 .. T.

    Example: truncation after 2 steps loses the lags from 2 on.

      >>> import rnnjax
      >>> from rnnjax import online
      >>> cell = rnnjax.Elman(3)
      >>> params, xs = cell.init(jax.random.key(0), 2), jax.random.normal(jax.random.key(1), (5, 2))
      >>> found = online.bias(cell, params, xs, xs[:, 0], lambda y, x: x * y.sum(), {"two": online.TBPTT(2)})["two"]
      >>> (found.bias_by_lag > 1e-9).tolist(), (found.exact_by_lag > 1e-9).tolist()
      ([False, False, True, True, True], [True, True, True, True, True])
    """
    if any([isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, xs, targets))]):
        raise TypeError("`bias` needs values, but was called inside of `jax.jit` or the like; call it outside.")
    check_size("seeds", seeds)
    with jax.enable_x64(True):
        given = jax.tree.map(_in_float64, (params, xs, targets, carry))
        params, xs, targets, carry = given
        xs = checked_xs(xs, cell)
        batch_shape = batch_shape_of(cell, xs)
        masks = make_masks(xs, None, mask, resets, False, batch_shape)
        lags = len(xs) if lags is None else lags
        check_size("lags", lags)
        if lags > len(xs):
            raise ValueError(f"`lags` is {lags}, but `xs` has {len(xs)} steps; give at most {len(xs)}.")
        reads_out = isinstance(cell, Readout)  # which stays one, as rules with feedback of their own ask for it
        held: Any = dataclasses.replace(cell, cell=_FixedStart(cell.cell)) if reads_out else _FixedStart(cell)
        carry = cell.initial_carry(params, batch_shape) if carry is None else carry
        stream = carry, (xs, targets, masks.counts, masks.resets)
        (exact, exact_lags), *_ = _draws(RTRL(), held, params, loss, stream, lags, 1)
        found: dict[str, Bias] = {}
        for name, rule in rules.items():
            draws = _draws(rule, held, params, loss, stream, lags, seeds if rule.random else 1)
            whole, by_lag = (np.stack(each) for each in zip(*draws, strict=True))
            found[name] = _compared(whole, by_lag, exact, exact_lags)
    return found


def _compared(whole: np.ndarray, by_lag: np.ndarray, exact: np.ndarray, exact_lags: np.ndarray) -> Bias:
    """From draws `[seeds, P]` and `[seeds, K, P]`."""
    mean, mean_lags, size = whole.mean(0), by_lag.mean(0), np.linalg.norm(exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Bias(
            cosine=float(mean @ exact / (np.linalg.norm(mean) * size)),
            norm_ratio=float(np.linalg.norm(mean) / size),
            deviation=float(np.sqrt(((whole - mean) ** 2).sum(-1).mean()) / size),
            exact_by_lag=np.linalg.norm(exact_lags, axis=-1),
            bias_by_lag=np.linalg.norm(mean_lags - exact_lags, axis=-1),
            deviation_by_lag=np.sqrt(((by_lag - mean_lags) ** 2).sum(-1).mean(0)),
        )


@dataclasses.dataclass(frozen=True)
class _FixedStart:
    """A cell whose initial carry counts as a constant."""

    cell: Any

    def initial_carry(self, params: PyTree, batch_shape: tuple[int, ...] = ()) -> PyTree:
        return lax.stop_gradient(self.cell.initial_carry(params, batch_shape))

    def step(self, params: PyTree, carry: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        return self.cell.step(params, carry, x)

    def __repr__(self) -> str:
        return repr(self.cell)


def _draws(
    rule: Rule, cell: Any, params: PyTree, loss: Loss, stream: Any, lags: int, seeds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each seed the gradient `[P]` and its lags `[K, P]`."""
    carry, inputs = stream
    steps, batch_shape = len(inputs[0]), batch_shape_of(cell, inputs[0])
    fresh = rule.init(cell, params, batch_shape, input_size=inputs[0].shape[-1])
    several = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lags + 1, *leaf.shape)), fresh)
    windows = np.arange(1, lags + 1)

    def flat(gradient: PyTree) -> Array:
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(gradient)])

    def step(state: Any, now: Any) -> tuple[Any, None]:
        carry, traces, whole, by_lag = state
        t, key, (x, target, counts, resets) = now
        restarts = jnp.arange(lags + 1) == t % lags  # the last trace never does
        traces = jax.tree.map(
            lambda old, new: jnp.where(restarts.reshape(-1, *(1,) * new.ndim), new[None], old), traces, fresh
        )

        def one(trace: Any) -> tuple[PyTree, Any, Array]:
            dloss = jax.grad(lambda y: loss(y, target))
            found = rule.step(cell, params, carry, trace, x, dloss, mask=counts, resets=resets, key=key)
            return found.carry, found.trace, flat(found.gradient)

        carries, traces, gradients = jax.vmap(one, axis_size=lags + 1)(traces)  # a rule may have no trace
        of_window = jnp.where((windows <= t + 1)[:, None], gradients[(t + 1 - windows) % lags], 0.0)
        shorter = jnp.concatenate([jnp.zeros_like(of_window[:1]), of_window[:-1]])
        added = jnp.where((windows <= t + 1)[:, None], of_window - shorter, 0.0)
        carry = jax.tree.map(lambda leaf: leaf[0], carries)
        return (carry, traces, whole + gradients[lags], by_lag + added), None

    @jax.jit
    def run(key: Array) -> tuple[Array, Array]:
        size = flat(params).size
        start = carry, several, jnp.zeros(size), jnp.zeros((lags, size))
        keys = jax.random.split(key, steps)
        (_, _, whole, by_lag), _ = lax.scan(step, start, (jnp.arange(steps), keys, inputs))
        return whole, by_lag

    found = [run(jax.random.key(seed)) for seed in range(seeds)]
    return [(np.asarray(whole), np.asarray(by_lag)) for whole, by_lag in found]


def _in_float64(leaf: Any) -> Any:
    array = jnp.asarray(leaf)
    return array.astype("float64") if jnp.issubdtype(array.dtype, jnp.floating) else array
