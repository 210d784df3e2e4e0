"""The derivative of a recurrence: another recurrence, with all that needs no dcarry computed before its loop.

    dr_t    = dm_t W + v_t                                 v_t = m_t dW: one matmul for all T
    dout_t  = drive_t + Σ S_t dr_t + Σ C_t dcarry_{t-1} + Σ Q_t dout'_t

for each product r = m W and each distinct output of the gates, where m is a leaf of the carry or an output before it,
and out' are the outputs that it is computed from. S, C and Q are the slopes of `diagonals.py`. Which steps count is in
the numbers: a masked step has S = C = Q = drive = 0 and holds dcarry (`hold`); a reset puts dcarry_{t-1}'s
replacement, the tangent of the initial carry, into the drive, and zeros into C and into S of what multiplies the carry
itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.diagonals import Diagonals, Leaves, carry_has_slope, held, sum_of, times
from rnnjax._unroll.forward import Inputs, Layer, Primal
from rnnjax._unroll.masking import select


class StepLinear(NamedTuple):
    """The coefficients of one step; over all of time each array has a leading T."""

    slopes: list[Diagonals]
    drive: Leaves  # for each output
    v: Leaves  # for each product: added to dr in the loop, or None where the drive has it already
    ahead: Leaves  # for each leaf of the carry: C_{t+1}, or None
    hold: Leaves  # for each leaf of the carry: 1 where it is held and C does not say so, or None


def tangents(layer: Layer, primal: Primal, tangent: Inputs) -> tuple[list[Array], dict[int, Array]]:
    """The last dcarry, and the tangents of what is stacked, by output."""
    dus = jax.jvp(layer.us, (primal.inputs.fixed, primal.inputs.xs), (tangent.fixed, tangent.xs))[1]
    linear, scale = _linearize(layer, primal, tangent, dus)
    dcarry = [d if c is None else c * d for d, c in zip(tangent.carry, scale, strict=True)]
    last, stacked = _run(layer, primal, linear, dcarry)
    return last, dict(zip(layer.stacked, stacked, strict=True))


def _linearize(layer: Layer, primal: Primal, tangent: Inputs, dus: list[Array]) -> tuple[StepLinear, Leaves]:
    """The coefficients of the tangent recurrence for all steps, and the C_1 that the first dcarry is multiplied by."""
    structure, slopes, resets = layer.structure, primal.slopes, primal.inputs.resets
    v: Leaves = _times_dweights(layer, primal, tangent)
    dstart = None
    if resets is not None and tangent.start is not None:
        multiply = _multiplications(layer, primal.inputs)
        for i, (kind, leaf) in enumerate(structure.lefts):
            if kind == "carry":
                v[i] = v[i] + _where_reset(resets, multiply[i](tangent.start[leaf]))
        dstart = [_where_reset(resets, d) for d in tangent.start]
    du: Leaves = list(dus)

    inside: Leaves = [None] * len(v)
    if resets is None:
        for i in range(len(v)):  # the gates read u + r: the sum needs one multiplication by the slope, in the loop
            j = _same_slope(slopes, i)
            if j is not None:
                inside[i], du[j], v[i] = v[i] + du[j], None, None
    drive = times(structure, slopes, carry=dstart, u=du, r=v)
    if structure.reads_params and primal.gates is not None:
        outputs = [primal.outputs[k] for k in sorted(primal.outputs)]
        for k, more in enumerate(primal.gates.through_params(outputs, tangent.fixed)):
            drive[k] = sum_of(drive[k], more)
    linear = StepLinear([s._replace(u=[]) for s in slopes], drive, inside, [], [])
    return _carried_ahead(layer, _timed(layer, linear, primal, dstart))


def _same_slope(slopes: list[Diagonals], r: int) -> int | None:
    """The leaf of u that every output reads as it reads this product, added to it, if there is one."""
    for u in range(len(slopes[0].u)):
        if slopes[0].r[r] is not None and all([s.u[u] is s.r[r] for s in slopes]):
            return u
    return None


def _run(layer: Layer, primal: Primal, linear: StepLinear, dcarry: Leaves) -> tuple[list[Array], list[Array]]:
    """The loop. Returns the last dcarry, and the tangent of everything stacked, `[T, *rows, H]`."""
    structure = layer.structure
    multiply = _multiplications(layer, primal.inputs)
    of_carry = {out: leaf for leaf, out in enumerate(structure.carry_outs)}
    zeros = [jnp.zeros((*layer.rows, *out.shape), out.dtype) for out in structure.outs]

    def step(dcarry: Leaves, now: StepLinear):
        drs: dict[int, Any] = {}

        def dr(i: int, so_far: Leaves) -> Any:
            if i not in drs:
                kind, index = structure.lefts[i]
                dm = dcarry[index] if kind == "carry" else so_far[index]
                drs[i] = sum_of(None if dm is None else multiply[i](dm), now.v[i])
            return drs[i]

        drive, weighted = list(now.drive), list(dcarry)
        for leaf, out in enumerate(structure.carry_outs):
            if now.ahead[leaf] is not None:
                drive[out], weighted[leaf] = sum_of(drive[out], dcarry[leaf]), None
        douts = times(structure, now.slopes, carry=weighted, r=dr, drive=drive, cut=True)
        douts = [zero if d is None else d for d, zero in zip(douts, zeros, strict=True)]
        new = [douts[k] for k in structure.carry_outs]
        new = [n if h is None else n + h * d for n, h, d in zip(new, now.hold, dcarry, strict=True)]
        stacked = [new[of_carry[k]] if k in of_carry else douts[k] for k in layer.stacked]
        return [n if a is None else a * n for n, a in zip(new, now.ahead, strict=True)], stacked

    return layer.scan(step, dcarry, linear, primal.inputs.xs)


def _multiplications(layer: Layer, inputs: Inputs) -> list[Any]:
    """dm to dm W for each product.

    Every matrix [K, N] is stored transposed, [N, K]: the loop that runs backwards then multiplies with a matrix as it
    lies in memory (for a single row, ten times as fast).
    """
    env = dict(zip(layer.reading.fixed, inputs.fixed, strict=True))
    transposed: dict[Any, Array] = {}
    found = []
    for product in layer.reading.products:
        weight = product.fixed[0]
        if weight not in transposed:
            transposed[weight] = lax.optimization_barrier(env[weight].T)
        w, params = transposed[weight], product.equation.params

        def multiply(dm: Array, w: Array = w, params: Any = params) -> Array:
            return lax.dot_general(dm, w, (((dm.ndim - 1,), (1,)), ((), ())), **params)

        found.append(multiply)
    return found


def _times_dweights(layer: Layer, primal: Primal, tangent: Inputs) -> list[Array]:
    """v_t for all t; one axis of rows, so that the transpose contracts one axis."""
    fixed = dict(zip(layer.reading.fixed, zip(primal.inputs.fixed, tangent.fixed, strict=True), strict=True))
    found = []
    for product, (kind, index) in zip(layer.reading.products, layer.structure.lefts, strict=True):
        left = primal.previous[index] if kind == "carry" else primal.outputs[index]
        rows = left.reshape(-1, left.shape[-1])

        def of_weights(values: list[Array], rows: Array = rows, run: Any = product.equation.run) -> Array:
            return jax.vmap(lambda row: run(row, *values)[0])(rows)

        values, dvalues = zip(*[fixed[v] for v in product.fixed], strict=True)
        v = jax.jvp(of_weights, (list(values),), (list(dvalues),))[1]
        found.append(v.reshape(*left.shape[:-1], v.shape[-1]))
    return found


def _where_reset(resets: Array, value: Array) -> Array:
    """`value` `[*rows, ...]` at every step that starts with a reset, zero elsewhere."""
    over_time = jnp.broadcast_to(value, (resets.shape[0], *value.shape))
    return select(resets, over_time, jnp.zeros_like(over_time))


def _timed(layer: Layer, linear: StepLinear, primal: Primal, dstart: Leaves | None) -> StepLinear:
    """Writes masked steps and resets into the coefficients; the slopes know of masked steps already."""
    structure, counts, resets = layer.structure, primal.inputs.counts, primal.inputs.resets
    n_carry = len(structure.carry_outs)
    slopes, drive = linear.slopes, linear.drive
    hold: Leaves = [None] * n_carry
    if counts is not None:
        start = dict(zip(structure.carry_outs, dstart or [None] * n_carry, strict=True))
        drive = [_select(counts, d, start.get(k)) for k, d in enumerate(drive)]
        for leaf, first in enumerate(primal.inputs.carry):
            if not carry_has_slope(structure, leaf):
                hold[leaf] = held(counts, resets).astype(first.dtype)
    if resets is not None:
        slopes = [
            s._replace(
                carry=[_select(~resets, c, None) for c in s.carry],
                r=[
                    _select(~resets, r, None) if kind == "carry" else r
                    for r, (kind, _) in zip(s.r, structure.lefts, strict=True)
                ],
            )
            for s in slopes
        ]
    return linear._replace(slopes=slopes, drive=drive, hold=hold)


def _select(flags: Array, on_true: Any, on_false: Any) -> Any:
    """`select` in which `None` is zero."""
    if on_true is None and on_false is None:
        return None
    zeros = jnp.zeros_like(on_false if on_true is None else on_true)
    return select(flags, zeros if on_true is None else on_true, zeros if on_false is None else on_false)


def _carried_ahead(layer: Layer, linear: StepLinear) -> tuple[StepLinear, Leaves]:
    """Where a leaf of the carry enters the next step through its C alone, the loop carries C_{t+1} dcarry_t.

    That is the LSTM's cell state. The transpose then needs its gradient in one place, not two, which saves a kernel in
    every step of the backward loop. Also puts a barrier behind the slopes, so that the loop does not compute them.
    """
    structure, n_carry = layer.structure, len(layer.structure.carry_outs)
    ahead: Leaves = [None] * n_carry
    first: Leaves = [None] * n_carry
    if "carry" not in structure.shared:
        carry = list(linear.slopes[0].carry)
        for leaf in set(range(n_carry)) - structure.mixed:
            own = carry[leaf]
            if linear.hold[leaf] is None and carry_has_slope(structure, leaf):
                one = jnp.ones_like(own[:1])
                ahead[leaf] = jnp.concatenate([one, own[:-1]] if layer.reverse else [own[1:], one])
                first[leaf] = own[-1] if layer.reverse else own[0]
                carry[leaf] = None
        linear = linear._replace(slopes=[linear.slopes[0]._replace(carry=carry), *linear.slopes[1:]])
    return linear._replace(ahead=ahead, slopes=lax.optimization_barrier(linear.slopes)), first
