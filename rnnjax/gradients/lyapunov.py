"""Lyapunov exponents of a recurrence: the growth rates of small perturbations of its carry, in nats per step.

    δ_t = J_t δ_{t-1},   J_t = ∂carry_t/∂carry_{t-1}:        λ = lim 1/T log ‖J_T ... J_1 δ_0‖

k perturbations are propagated together and orthonormalised at intervals; the logs of their lengths give the growth of
1-, 2-, ... k-dimensional volumes. Jacobian matrices are never formed. For a network without input, use zeros.

References: Benettin, Galgani, Giorgilli and Strelcyn, Meccanica 15 (1980), 9; for driven recurrent networks: Engelken,
Wolf and Abbott, Lyapunov spectra of chaotic recurrent neural networks, Phys. Rev. Research 5 (2023), 043044.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax.cell import Cell, PyTree, over_time, unflat
from rnnjax.gradients.dimension import entropy_rate, kaplan_yorke_dimension
from rnnjax.gradients.orthonormal import orthonormalise
from rnnjax.gradients.sequence import only_known
from rnnjax.gradients.tangents import Flow, flow_of, push


class LyapunovSpectrum(NamedTuple):
    """The k leading exponents of each row and derived quantities; in nats per step, except counts and the dimension.

    Attributes:
      exponents: `[*batch, k]`; the sum of the first j is the growth rate of a j-dimensional volume; -inf for a
        direction that a singular Jacobian has annihilated.
      error: `[*batch, k]` split-half error: half the difference between the means of the two halves of the counted
        steps.
      finite_time: `[intervals, *batch, k]`, the rates within each interval; their mean over intervals is `exponents`.
      survivors: `[*batch]` integers, how many of the k directions remain at the end: the rank of the product of
        Jacobians, at most k. A direction that is below rounding error relative to those before it does not count.
      mean: `[*batch]`, over the survivors; NaN if there are none.
      dimension: `[*batch]`, the Kaplan-Yorke dimension; NaN if k exponents are too few.
      entropy_rate: `[*batch]`, the sum of the positive exponents; NaN where the k-th is positive and k < n.
      finite_steps: `[*batch]` integers, how many of the T steps are finite: input, and carry before and after. If it is
        less than T, all of the above is NaN, with no survivors, unless the Jacobian depends on neither carry nor input,
        as in a linear network. `finite_time` is NaN from the first non-finite interval on.
    """

    exponents: Array
    error: Array
    finite_time: Array
    survivors: Array
    mean: Array
    dimension: Array
    entropy_rate: Array
    finite_steps: Array


@over_time
def lyapunov_spectrum(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    *,
    carry: PyTree | None = None,
    k: int | None = None,
    transient: int = 0,
    interval: int = 1,
    key: Array | None = None,
) -> LyapunovSpectrum:
    """The k leading Lyapunov exponents, or all n, along the trajectory driven by `xs`.

    Args:
      cell: a `Cell` or a `Stack` of cells; anything with a `step`.
      params, xs, carry: as in `rnnjax.unroll`; zeros `[T, *batch, D]` for an autonomous network.
      k: the number of exponents; by default n, the size of a row's carry (2H for an LSTM, whose carry is h and c).
      transient: initial steps that are run but not counted [steps].
      interval: steps between orthonormalisations. If growth rates differ by s nats within an interval, the smallest
        exponents have an error of about ε e^s, which in float64 is 1e-8 at s = 18; they are lost from s = 30 (12 in
        float32). Whole spectra of H = 16 to 128 tanh units differ by 5 to 8 nats per step, and up to twice that in
        single steps, so use an interval of 1 or 2. For leading exponents, 10 is fine.
      key: draws the initial perturbations; by default they are fixed and the same for every row.
    Returns:
      A `LyapunovSpectrum`. Only whole intervals count; the last one ends with the last step. A non-finite trajectory
      has no exponents; see `finite_steps`.
    Raises:
      TypeError, ValueError: as in `rnnjax.unroll`; also if the carry cannot be perturbed, k is not in 1 .. n, the
        transient leaves fewer than two intervals, or the input has NaN (if its values are known).

    Example: a linear network with two modes; J_t = W2^T.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 2)), w_h=jnp.diag(jnp.array([2.0, 0.5])), b=jnp.zeros(2))
      >>> cell = rnnjax.Elman(2, activation="linear")
      >>> spectrum = lyapunov_spectrum(cell, params, jnp.zeros((300, 1)), transient=100)
      >>> (spectrum.exponents / jnp.log(2)).round(4).tolist(), round(float(spectrum.dimension), 3)
      ([1.0, -1.0], 2.0)
    """
    flow = flow_of(cell, params, carry, xs)
    start = first_rows(flow, checked_k(k, flow.size), key)
    semi = functools.partial(orthonormalise, semi=True)  # only the lengths matter
    finite_time, finite_steps = growth_by_interval(flow, start, transient, interval, semi)

    exponents = finite_time.mean(0)
    alive = exponents > -jnp.inf  # False for NaN
    survivors = alive.sum(-1, dtype=jnp.int32)
    known = jnp.where(exponents == -jnp.inf, 0, exponents).sum(-1)
    return LyapunovSpectrum(
        exponents,
        split_half_error(finite_time),
        finite_time,
        survivors,
        jnp.where(survivors > 0, known / jnp.maximum(survivors, 1).astype(known.dtype), jnp.nan),
        kaplan_yorke_dimension(exponents, flow.size),
        entropy_rate(exponents, flow.size),
        finite_steps,
    )


def growth_by_interval(
    flow: Flow,
    rows: Array,
    transient: int,
    interval: int,
    orthonormalise: Callable[[Array], tuple[Array, Array]],
) -> tuple[Array, Array]:
    """The growth of perturbations along a trajectory, with orthonormalisation after each interval.

    Args:
      rows: `[*batch, k, n]`, orthonormal.
      orthonormalise: maps rows to `(orthonormal rows, log of their lengths)`.
    Returns:
      `(rates, finite_steps)`: `[intervals, *batch, k]` nats per step in each counted interval, NaN from the first
      interval with a non-finite step on; and `[*batch]`.
    """
    early, kept = cut_in_intervals(flow.xs.shape[0], transient, interval)
    batch_shape = flow.batch_shape

    def one_step(state: tuple[PyTree, Array, Array], x: Array):
        carry, rows, log_scale = state
        carry, rows, finite = push(flow, carry, rows, x)
        if interval > 1:
            rows, more = _within_range(rows)
            log_scale = log_scale + more
        return (carry, rows, log_scale), finite

    def one_interval(state: tuple[PyTree, Array], xs: Array):
        (carry, rows, log_scale), finite = lax.scan(one_step, (*state, jnp.zeros(batch_shape, flow.dtype)), xs)
        rows, growth = orthonormalise(rows)
        return (carry, rows), (growth + log_scale[..., None], finite)

    state, first, after = (flow.carry, rows), early % interval, []
    if first:
        state, (_, finite) = one_interval(state, flow.xs[:first])
        after = [finite]
    cut = flow.xs[first:].reshape(-1, interval, *flow.xs.shape[1:])
    _, (growth, finite) = lax.scan(one_interval, state, cut)
    after = jnp.concatenate([*after, finite.reshape(-1, *batch_shape)])
    finite = flow.finite_steps(after)
    rates = growth[-kept:] / interval
    return only_known(rates, _all_known(finite.known(flow.reads), early, interval)), finite.count


def _all_known(known: Array | None, early: int, interval: int) -> Array | None:
    """`[intervals, *batch]`: whether all steps up to the end of each interval are known; `early` steps precede them."""
    if known is None:
        return None
    steps = known.shape[0]
    first_unknown = jnp.where(known.all(0), steps, jnp.argmax(~known, axis=0).astype(jnp.int32))
    ends = jnp.arange(early + interval, steps + 1, interval, dtype=jnp.int32)
    return ends.reshape(-1, *(1 for _ in known.shape[1:])) <= first_unknown[None]


def _within_range(rows: Array) -> tuple[Array, Array]:
    """Scales rows `[*batch, k, n]` by a common factor if they are near the limits of the range, and returns its log."""
    info = jnp.finfo(rows.dtype)
    largest = lax.stop_gradient(jnp.abs(rows).max((-2, -1)))
    ordinary = (largest > float(info.tiny) ** 0.5) & (largest < float(info.max) ** 0.5) | (largest < info.tiny)
    scale = jnp.where(ordinary, 1, jnp.minimum(largest, info.max / 8))
    return rows / scale[..., None, None], jnp.log(scale)


class LeadingExponent(NamedTuple):
    """The largest exponent of each row, in nats per step.

    Attributes:
      exponent: `[*batch]`; -inf where a singular Jacobian annihilated the perturbation.
      error: `[*batch]` split-half error.
      finite_time: `[T - transient, *batch]`, the growth in each step; its mean over consecutive steps is their
        finite-time exponent.
      log_norm_by_part: the carry's tree, leaves `[T - transient, *batch]`: log norm of each part of the carry in the
        unit perturbation after that step; for an LSTM, h and c separately.
      finite_steps: `[*batch]` integers, as in `LyapunovSpectrum`: if it is less than T, everything is NaN from the
        first non-finite step on, and so is `exponent`.
    """

    exponent: Array
    error: Array
    finite_time: Array
    log_norm_by_part: PyTree
    finite_steps: Array


@over_time
def leading_exponent(
    cell: Cell,
    params: PyTree,
    xs: ArrayLike,
    *,
    carry: PyTree | None = None,
    transient: int = 0,
    key: Array | None = None,
) -> LeadingExponent:
    """The largest Lyapunov exponent, from a single perturbation; a step costs two steps of the network.

    Args:
      As for `lyapunov_spectrum`. The perturbation aligns with the fastest direction during the transient.
    Raises:
      As `lyapunov_spectrum`; also ValueError if fewer than two steps are counted.

    Example: the lecture's vanishing network, w2 = 0.5, with an active ReLU.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[0.5]]), b=jnp.zeros(1))
      >>> found = leading_exponent(rnnjax.Elman(1, "relu"), params, jnp.ones((50, 1)))
      >>> round(float(found.exponent / jnp.log(2)), 4)
      -1.0
    """
    flow = flow_of(cell, params, carry, xs)
    early, kept = cut_in_intervals(flow.xs.shape[0], transient, 1)
    batch_ndim = len(flow.batch_shape)

    def one_step(state: tuple[PyTree, Array], x: Array):
        carry, rows, finite = push(flow, *state, x)
        rows, growth = orthonormalise(rows)
        return (carry, rows), (growth[..., 0], rows[..., 0, :], finite)

    _, (growth, rows, after) = lax.scan(one_step, (flow.carry, first_rows(flow, 1, key)), flow.xs)
    parts = jax.tree.map(
        lambda part: jnp.log(jnp.linalg.norm(part.reshape(*part.shape[: batch_ndim + 1], -1), axis=-1)),
        unflat(rows[-kept:], flow.carry, batch_ndim),
    )
    finite = flow.finite_steps(after)
    growth, parts = only_known((growth[-kept:], parts), _all_known(finite.known(flow.reads), early, 1))
    return LeadingExponent(growth.mean(0), split_half_error(growth), growth, parts, finite.count)


def split_half_error(rates: Array) -> Array:
    """Half the difference between the means of the two halves of axis 0: one sample of the error of the mean.

    It is 0 where both halves are -inf.
    """
    half = rates.shape[0] // 2
    first, second = rates[:half].mean(0), rates[-half:].mean(0)
    return jnp.where(first == second, 0, jnp.abs(first - second) / 2)


def first_rows(flow: Flow, k: int, key: Array | None) -> Array:
    """Random orthonormal perturbations, so that none of them starts inside a slower subspace."""
    shape = (*flow.batch_shape, k, flow.size)
    if key is not None:
        return orthonormalise(jax.random.normal(key, shape, flow.dtype))[0]
    columns = np.random.default_rng(0).normal(
        size=(flow.size, k)
    )  # a constant, so there is nothing to trace or compile
    return jnp.broadcast_to(jnp.asarray(np.linalg.qr(columns)[0].T, flow.dtype), shape)


def checked_k(k: int | None, size: int) -> int:
    if k is None:
        return size
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise ValueError(
            f"`k` is {k!r}, but a row's carry has {size} numbers and so {size} exponents: give 1 <= k <= {size}, or "
            "omit it for all of them."
        )
    return k


def cut_in_intervals(steps: int, transient: int, interval: int) -> tuple[int, int]:
    """The number of steps before the counted ones, and the number of counted intervals."""
    for name, value, least in (("transient", transient, 0), ("interval", interval, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` is {value!r}; it is a number of steps: give an integer of {least} or more.")
    kept = (steps - transient) // interval
    if kept < 2:
        raise ValueError(
            f"`xs` has {steps} steps, `transient` drops {transient} of them and `interval` is {interval}; at least two "
            f"intervals must be left for an exponent and its error: give {transient + 2 * interval} steps or more."
        )
    return steps - kept * interval, kept
