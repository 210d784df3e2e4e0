"""The derivative of a recurrence: another recurrence, with all that needs no dcarry computed before its loop.

    dr_t    = mix(params, dcarry_{t-1}) + v_t              v_t = mix(dparams, carry_{t-1}): one matmul for all T
    dout_t  = drive_t + Σ S_t dr_t + Σ C_t dcarry_{t-1} + Σ Q_t dout'_t

for each distinct output of the gate, where out' are the outputs that it is computed from. S, C and Q are the slopes of
`slopes.py`. Which steps count is in the numbers: a hidden step has S = C = Q = drive = 0 and holds dcarry (`hold`); a
reset puts dcarry_{t-1}'s replacement, ∂initial_carry/∂params dparams, into the drive, and zeros into S and C.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.masking import select
from rnnjax._unroll.mixing import mixed_leaves, mixed_tangent
from rnnjax._unroll.pointwise import GateStructure
from rnnjax._unroll.saving import Layer, Primal
from rnnjax._unroll.slopes import Leaves, Slopes, carry_has_slope, held, sum_of, times
from rnnjax.cell import PyTree


class StepLinear(NamedTuple):
    """The coefficients of one step; over all of time each array has a leading T."""

    slopes: list[Slopes]
    drive: Leaves  # for each output
    v: Leaves  # for each leaf of r: added to dr in the loop, or None where the drive has it already
    ahead: Leaves  # for each leaf of the carry: C_{t+1}, or None
    hold: Leaves  # for each leaf of the carry: 1 where it is held and C does not say so, or None


def linearize(layer: Layer, primal: Primal, dparams: PyTree, dus: PyTree) -> tuple[StepLinear, Leaves]:
    """The coefficients of the tangent recurrence for all steps, and the C_1 that the first dcarry is multiplied by."""
    cell, structure, slopes, leaves = layer.cell, layer.structure, primal.slopes, jax.tree.leaves
    v = _mixed_with_dparams(layer, primal, dparams)
    dstart = None
    if primal.resets is not None:
        shape = primal.resets.shape[1:]
        dstart = jax.jvp(lambda p: cell.initial_carry(p, shape), (primal.params,), (dparams,))[1]
        started = mixed_tangent(cell, primal.params, dstart)(dstart)
        v = jax.tree.map(jnp.add, v, _where_reset(primal.resets, started))
        dstart = leaves(_where_reset(primal.resets, dstart))
    v, du = leaves(v), leaves(dus)

    inside: Leaves = [None] * len(v)
    if primal.resets is None and len(du) == len(v):
        for i in range(len(v)):  # the gate reads u + r: the sum needs one multiplication by the slope, in the loop
            if all(s.u[i] is s.r[i] and s.r[i] is not None for s in slopes):
                inside[i], du[i], v[i] = v[i] + du[i], None, None
    drive = times(structure, slopes, carry=dstart, u=du, r=v)
    if primal.gate is not None:
        outputs = [primal.outputs[k] for k in sorted(primal.outputs)]
        for k, more in enumerate(primal.gate.through_params(outputs, dparams)):
            drive[k] = sum_of(drive[k], more)
    linear = StepLinear([s._replace(u=[]) for s in slopes], drive, inside, [], [])
    return _carried_ahead(layer, _timed(structure, linear, primal, dstart), primal)


def run_tangent(layer: Layer, primal: Primal, linear: StepLinear, dcarry: Leaves) -> tuple[PyTree, Leaves]:
    """The loop. Returns the last dcarry, and the tangent of every output that y has, `[T, *rows, H]`."""
    structure = layer.structure
    mix_tangent = mixed_tangent(layer.cell, primal.params, primal.first)
    tree = jax.tree.structure(primal.first)
    of_carry = {out: leaf for leaf, out in enumerate(structure.carry_outs)}

    def step(dcarry: Leaves, now: StepLinear):
        dr = jax.tree.leaves(mix_tangent(jax.tree.unflatten(tree, dcarry)))
        dr = [d if v is None else d + v for d, v in zip(dr, now.v, strict=True)]
        drive, weighted = list(now.drive), list(dcarry)
        for leaf, out in enumerate(structure.carry_outs):
            if now.ahead[leaf] is not None:
                drive[out], weighted[leaf] = sum_of(drive[out], dcarry[leaf]), None
        douts = times(structure, now.slopes, carry=weighted, r=dr, drive=drive, cut=True)
        douts = [jnp.zeros_like(dcarry[0]) if d is None else d for d in douts]
        new = [douts[k] for k in structure.carry_outs]
        new = [n if h is None else n + h * d for n, h, d in zip(new, now.hold, dcarry, strict=True)]
        stacked = [new[of_carry[k]] if k in of_carry else douts[k] for k in layer.read_by_y]
        return [n if a is None else a * n for n, a in zip(new, now.ahead, strict=True)], stacked

    last, stacked = layer.scan(step, dcarry, linear)
    return jax.tree.unflatten(tree, last), stacked


def _mixed_with_dparams(layer: Layer, primal: Primal, dparams: PyTree) -> PyTree:
    """v_t for all t; one axis of rows, so that the transpose contracts one axis."""
    lead = jax.tree.leaves(primal.previous)[0].shape[:-1]
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), primal.previous)
    v = jax.jvp(lambda p: layer.cell.mix(p, rows), (primal.params,), (dparams,))[1]
    return jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), v)


def _where_reset(resets: Array, tree: PyTree) -> PyTree:
    """A tree of `[*rows, ...]` at every step that starts with a reset, zero elsewhere."""
    over_time = jax.tree.map(lambda a: jnp.broadcast_to(a, (resets.shape[0], *a.shape)), tree)
    return select(resets, over_time, jax.tree.map(jnp.zeros_like, over_time))


def _timed(structure: GateStructure, linear: StepLinear, primal: Primal, dstart: Leaves | None) -> StepLinear:
    """Writes hidden steps and resets into the coefficients; the slopes know of hidden steps already."""
    counts, resets = primal.counts, primal.resets
    n_carry = len(structure.carry_outs)
    slopes, drive = linear.slopes, linear.drive
    hold: Leaves = [None] * n_carry
    if counts is not None:
        start = dict(zip(structure.carry_outs, dstart or [None] * n_carry, strict=True))
        drive = [_select(counts, d, start.get(k)) for k, d in enumerate(drive)]
        for leaf, first in enumerate(jax.tree.leaves(primal.first)):
            if not carry_has_slope(structure, leaf):
                hold[leaf] = held(counts, resets).astype(first.dtype)
    if resets is not None:
        slopes = [
            s._replace(carry=[_select(~resets, c, None) for c in s.carry], r=[_select(~resets, r, None) for r in s.r])
            for s in slopes
        ]
    return linear._replace(slopes=slopes, drive=drive, hold=hold)


def _select(flags: Array, on_true: Any, on_false: Any) -> Any:
    """`select` in which `None` is zero."""
    if on_true is None and on_false is None:
        return None
    zeros = jnp.zeros_like(on_false if on_true is None else on_true)
    return select(flags, zeros if on_true is None else on_true, zeros if on_false is None else on_false)


def _carried_ahead(layer: Layer, linear: StepLinear, primal: Primal) -> tuple[StepLinear, Leaves]:
    """Where a leaf of the carry enters the next step through its C alone, the loop carries C_{t+1} dcarry_t.

    That is the LSTM's cell state. The transpose then needs its gradient in one place, not two, which saves a kernel in
    every step of the backward loop. Also puts a barrier behind the slopes, so that the loop does not compute them.
    """
    structure, n_carry = layer.structure, len(layer.structure.carry_outs)
    ahead: Leaves = [None] * n_carry
    first: Leaves = [None] * n_carry
    if not structure.shared:
        carry = list(linear.slopes[0].carry)
        for leaf in set(range(n_carry)) - mixed_leaves(layer.cell, primal.params, primal.first):
            own = carry[leaf]
            if linear.hold[leaf] is None and carry_has_slope(structure, leaf):
                one = jnp.ones_like(own[:1])
                ahead[leaf] = jnp.concatenate([one, own[:-1]] if layer.reverse else [own[1:], one])
                first[leaf] = own[-1] if layer.reverse else own[0]
                carry[leaf] = None
        linear = linear._replace(slopes=[linear.slopes[0]._replace(carry=carry)])
    return linear._replace(ahead=ahead, slopes=lax.optimization_barrier(linear.slopes)), first
