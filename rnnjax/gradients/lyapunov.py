"""Lyapunov exponents of a recurrence: at what rates small differences of its carry grow, in nats per step.

    δ_t = J_t δ_{t-1},   J_t = ∂carry_t/∂carry_{t-1}:        λ = lim 1/T log ‖J_T ... J_1 δ_0‖

k perturbations are pushed forwards together and made orthonormal again every so often, which leaves the logs of their
lengths as the growth of a 1-, 2-, .. k-dimensional volume. No Jacobian is written down. A network without input is
driven by zeros.

References: Benettin, Galgani, Giorgilli and Strelcyn, Meccanica 15 (1980), 9; for driven recurrent networks: Engelken,
Wolf and Abbott, Lyapunov spectra of chaotic recurrent neural networks, Phys. Rev. Research 5 (2023), 043044.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from rnnjax._arguments import over_time
from rnnjax.cell import Cell, PyTree
from rnnjax.gradients.dimension import entropy_rate, kaplan_yorke_dimension
from rnnjax.gradients.orthonormal import orthonormalise
from rnnjax.gradients.tangents import Flow, flow_of, push, unflat


class LyapunovSpectrum(NamedTuple):
    """The k leading exponents of each row, and what they say of it. All but counts in nats per step.

    Attributes:
      exponents: `[*batch, k]`, of which the first j add up to the growth of a j-dimensional volume; -inf for a
        direction that a singular Jacobian has annihilated.
      error: `[*batch, k]` split-half error: half the difference between the two halves of the steps counted.
      finite_time: `[intervals, *batch, k]`, the rates within each interval; their mean over intervals is `exponents`.
      survivors: `[*batch]` integers, how many of the k directions are still there at the end: the rank of the product
        of Jacobians, at most k. A direction shorter than rounding beside those before it counts as gone.
      mean: `[*batch]`, over the survivors; NaN only where there is none.
      dimension: `[*batch]`, Kaplan and Yorke's; NaN where k exponents are too few to tell.
      entropy_rate: `[*batch]`, the sum of the positive exponents; NaN where the k-th is positive and k < n.
    """

    exponents: Array
    error: Array
    finite_time: Array
    survivors: Array
    mean: Array
    dimension: Array
    entropy_rate: Array


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
    """The k leading Lyapunov exponents along the trajectory that `xs` drives, or all n of them.

    Args:
      cell: a `Cell` or a `Stack` of cells; anything with a `step`.
      params, xs, carry: as in `rnnjax.unroll`; zeros `[T, *batch, D]` for a network left alone.
      k: how many; all n numbers of a row's carry if left out (2H for an LSTM, whose carry is h and c).
      transient: steps that are run, and not counted [steps].
      interval: steps from one orthonormalisation to the next. What is left of a row is known to ε over its share of the
        row's length: if the growth within an interval spreads by s nats, the smallest exponents are right up to about
        ε e^s, which in float64 is 1e-8 at 18, and are lost from 30 on (12 in float32). Whole spectra of H = 16 to 128
        tanh units spread by 5 to 8 nats per step, in single ones by twice that: 1 or 2; 10 is right for leading ones.
      key: draws the first perturbations; fixed ones, the same for every row, if left out.
    Returns:
      A `LyapunovSpectrum`. Whole intervals are counted, the last of which ends with the last step.
    Raises:
      TypeError, ValueError: as `rnnjax.unroll`; a carry that cannot be perturbed; k that is not in 1 .. n; a transient
        that leaves less than two intervals; an input with NaN, where its values are known.

    Example: two steps of forgetting in a linear network; J_t = W2^T.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 2)), w_h=jnp.diag(jnp.array([2.0, 0.5])), b=jnp.zeros(2))
      >>> cell = rnnjax.Elman(2, activation="linear")
      >>> spectrum = lyapunov_spectrum(cell, params, jnp.zeros((300, 1)), transient=100)
      >>> (spectrum.exponents / jnp.log(2)).round(4).tolist(), round(float(spectrum.dimension), 3)
      ([1.0, -1.0], 2.0)
    """
    flow = flow_of(cell, params, carry, xs)
    k = checked_k(k, flow.size)
    early, kept = cut_in_intervals(flow.xs.shape[0], transient, interval)
    state = flow.carry, first_rows(flow, k, key)

    def one_step(state: tuple[PyTree, Array], x: Array):
        return push(flow, *state, x), None

    def one_interval(state: tuple[PyTree, Array], xs: Array):
        (carry, rows), _ = lax.scan(one_step, state, xs)
        rows, growth = orthonormalise(rows, semi=True)  # it is their lengths that count
        return (carry, rows), growth

    first = early % interval
    if first:
        state, _ = one_interval(state, flow.xs[:first])
    cut = flow.xs[first:].reshape(-1, interval, *flow.xs.shape[1:])
    _, growth = lax.scan(one_interval, state, cut)
    finite_time = growth[-kept:] / interval

    exponents = finite_time.mean(0)
    alive = exponents > -jnp.inf  # not so for NaN
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
    )


class LeadingExponent(NamedTuple):
    """The largest exponent of each row, in nats per step.

    Attributes:
      exponent: `[*batch]`; -inf where the perturbation was annihilated.
      error: `[*batch]` split-half error.
      finite_time: `[T - transient, *batch]`, the growth in each step; its mean over any stretch of steps is the
        finite-time exponent of that stretch.
      log_norm_by_part: the carry's tree, leaves `[T - transient, *batch]`: log of the share of each part of the carry
        in the unit perturbation after that step; for an LSTM, h and c apart.
    """

    exponent: Array
    error: Array
    finite_time: Array
    log_norm_by_part: PyTree


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
    """The largest Lyapunov exponent, by one perturbation alone: a step costs two steps of the network.

    Args:
      As `lyapunov_spectrum`. The perturbation turns towards the fastest direction during the transient.
    Raises:
      As `lyapunov_spectrum`; fewer than two steps are left to count.

    Example: the lecture's vanishing network, w2 = 0.5, with a ReLU that is on.

      >>> import jax.numpy as jnp, rnnjax
      >>> params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[0.5]]), b=jnp.zeros(1))
      >>> found = leading_exponent(rnnjax.Elman(1, "relu"), params, jnp.ones((50, 1)))
      >>> round(float(found.exponent / jnp.log(2)), 4)
      -1.0
    """
    flow = flow_of(cell, params, carry, xs)
    _, kept = cut_in_intervals(flow.xs.shape[0], transient, 1)
    batch_ndim = len(flow.batch_shape)

    def one_step(state: tuple[PyTree, Array], x: Array):
        carry, rows = push(flow, *state, x)
        rows, growth = orthonormalise(rows)
        return (carry, rows), (growth[..., 0], rows[..., 0, :])

    _, (growth, rows) = lax.scan(one_step, (flow.carry, first_rows(flow, 1, key)), flow.xs)
    parts = jax.tree.map(
        lambda part: jnp.log(jnp.linalg.norm(part.reshape(*part.shape[: batch_ndim + 1], -1), axis=-1)),
        unflat(rows[-kept:], flow.carry, batch_ndim),
    )
    growth = growth[-kept:]
    return LeadingExponent(growth.mean(0), split_half_error(growth), growth, parts)


def split_half_error(rates: Array) -> Array:
    """Half the difference between the means over the two halves of axis 0: one draw of the error of their mean.

    It is 0 where both halves say -inf.
    """
    half = rates.shape[0] // 2
    first, second = rates[:half].mean(0), rates[-half:].mean(0)
    return jnp.where(first == second, 0, jnp.abs(first - second) / 2)


def first_rows(flow: Flow, k: int, key: Array | None) -> Array:
    """Orthonormal perturbations in general position, so that none of them starts inside a slower subspace."""
    shape = (*flow.batch_shape, k, flow.size)
    if key is not None:
        return orthonormalise(jax.random.normal(key, shape, flow.dtype))[0]
    columns = np.random.default_rng(0).normal(size=(flow.size, k))  # a constant: nothing to trace, compile or pass on
    return jnp.broadcast_to(jnp.asarray(np.linalg.qr(columns)[0].T, flow.dtype), shape)


def checked_k(k: int | None, size: int) -> int:
    if k is None:
        return size
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise ValueError(
            f"`k` is {k!r}, but a row's carry has {size} numbers and so {size} exponents: give 1 <= k <= {size}, or "
            "leave it out for all of them."
        )
    return k


def cut_in_intervals(steps: int, transient: int, interval: int) -> tuple[int, int]:
    """How many steps come before those counted, and how many intervals those make."""
    for name, value, least in (("transient", transient, 0), ("interval", interval, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` is {value!r}; it counts steps: give an integer of {least} or more.")
    kept = (steps - transient) // interval
    if kept < 2:
        raise ValueError(
            f"`xs` has {steps} steps, `transient` drops {transient} of them and `interval` is {interval}; at least two "
            f"intervals must be left for an exponent and its error: give {transient + 2 * interval} steps or more."
        )
    return steps - kept * interval, kept
