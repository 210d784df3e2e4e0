"""The derivative of a recurrence: another recurrence, with everything that does not need dcarry computed before its
loop.

    dr_t    = dm_t W + v_t                                 v_t = m_t dW: one matmul for all T
    dout_t  = drive_t + Σ S_t dr_t + Σ C_t dcarry_{t-1} + Σ Q_t dout'_t

for each product r = m W and each distinct output of the gates, where m is a leaf of the carry or an earlier output, and
out' are the outputs from which it is computed. S, C and Q are the slopes of `diagonals.py`. Masks and resets are part
of
the coefficients: a masked step has S = C = Q = drive = 0 and keeps dcarry (`hold`). A reset adds the tangent of the
initial carry, which replaces dcarry_{t-1}, to the drive, and sets C, and S of products with the carry itself, to zero.

`saving_run` runs the recurrence and stores what the derivative needs; `tangents` is the loop of the derivative.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.arguments import select
from rnnjax._unroll.diagonals import Diagonals, Gates, Leaves, carry_has_slope, counted, held, sum_of, times
from rnnjax._unroll.gates import GateStructure

if TYPE_CHECKING:
    from rnnjax._unroll.hoist import Inputs, Layer


class Primal(NamedTuple):
    """A run of the recurrence, from which its derivative is computed; arrays are `[T, *rows, ...]`."""

    inputs: "Inputs"
    previous: list[Array]  # carry_{t-1}, after a reset; zeros for unused leaves
    carries: list[Array]  # carry_t, unchanged at masked steps; zeros for unused leaves
    outputs: dict[int, Array]  # the distinct outputs of the gates that are part of y or multiplied by products
    slopes: list[Diagonals]  # include masking
    gates: Gates | None  # None if the slopes were computed in the loop


def saving_run(layer: "Layer", inputs: "Inputs") -> tuple[list[Array], Primal]:
    """`(carry_T, primal)`."""
    return _run_with_slopes(layer, inputs) if layer.slopes_in_loop else _run_then_slopes(layer, inputs)


def _run_with_slopes(layer: "Layer", inputs: "Inputs") -> tuple[list[Array], Primal]:
    """Stores the slopes of every step, and the values that products and y read, without the passes of
    `_run_then_slopes`.

    The loop has more kernels per step, but for large steps this is cheaper than reading the arrays again later.
    """
    reading, structure, (fixed, xs, carry, counts, resets, start) = layer.reading, layer.structure, inputs
    loop = reading.in_loop
    pieces = layer.pieces(fixed, xs)
    needed = {*layer.stacked, *_lefts(structure)}
    read = set(structure.mixed) | {leaf for leaf, k in enumerate(structure.carry_outs) if k in needed}
    elsewhere = [k for k in sorted(needed) if k not in structure.carry_outs]
    rs = [p.out for p in reading.products]
    wanted = [*structure.outs, *reading.us, *rs]
    step = layer.stepper(fixed, [*loop.late, *reading.inside], loop.pieces, wanted)
    packing: list[_Packing] = []

    def body(carry: list[Any], now: tuple[list[Any], Any, Any]):
        pieces, counts, resets = now
        if resets is not None:
            carry = select(resets, start, carry)
        found = step(carry, pieces)
        outputs, us, rs = (
            found[: len(structure.outs)],
            found[len(structure.outs) : len(structure.outs) + len(reading.us)],
            found[len(structure.outs) + len(reading.us) :],
        )
        gates = Gates(reading, structure, fixed, carry, us, rs, {}, len(layer.rows))
        slopes = counted(structure, gates.slopes(outputs), counts, resets)
        packing[:] = [_Packing.of(group) for group in slopes]
        packed = [how.pack(group) for how, group in zip(packing, slopes, strict=True)]
        new = [outputs[k] for k in structure.carry_outs]
        new = new if counts is None else select(counts, new, carry)
        return new, ({leaf: new[leaf] for leaf in read}, {k: outputs[k] for k in elsewhere}, packed)

    last, (stored, outputs, packed) = layer.scan(body, carry, (pieces, counts, resets), xs)
    slopes = [how.unpack(group) for how, group in zip(packing, packed, strict=True)]
    carries = [
        stored[i] if i in stored else jnp.zeros((xs.shape[0], *leaf.shape), leaf.dtype) for i, leaf in enumerate(carry)
    ]
    outputs |= {structure.carry_outs[leaf]: value for leaf, value in stored.items()}
    return last, Primal(inputs, _previous(layer, inputs, carries), carries, outputs, slopes, None)


class _Packing(NamedTuple):
    """Packs the slopes of one step into few arrays, so that the loop has few outputs.

    Arrays are stored as [..., 1, n], so that XLA does not start this loop and the backward loop from the same array of
    zeros, which it would have to copy.
    """

    alike: dict[int, int]  # for leaves of u: the leaf of r that has the same slope
    widths: list[int]  # of the other leaves of u, side by side in one array

    @classmethod
    def of(cls, slopes: Diagonals) -> "_Packing":
        alike = {
            i: next(j for j, r in enumerate(slopes.r) if r is u)
            for i, u in enumerate(slopes.u)
            if u is not None and any([r is u for r in slopes.r])
        }
        return cls(alike, [u.shape[-1] for i, u in enumerate(slopes.u) if u is not None and i not in alike])

    def pack(self, slopes: Diagonals) -> Diagonals:
        apart = [u for i, u in enumerate(slopes.u) if u is not None and i not in self.alike]
        together: Leaves = [None if u is None or i in self.alike else () for i, u in enumerate(slopes.u)]
        joined = [jnp.concatenate(apart, -1)] if len({u.dtype for u in apart}) == 1 else apart
        packed = slopes._replace(u=[together, joined])
        return jax.tree.map(lambda slope: slope[..., None, :], packed)

    def unpack(self, packed: Diagonals) -> Diagonals:
        packed = jax.tree.map(lambda slope: slope[..., 0, :], packed)
        together, joined = packed.u
        if len(joined) == 1:
            edges = [sum(self.widths[:i]) for i in range(1, len(self.widths))]
            joined = jnp.split(joined[0], edges, axis=-1) if edges else joined
        parts = iter(joined)
        u = [
            packed.r[self.alike[i]] if i in self.alike else None if v is None else next(parts)
            for i, v in enumerate(together)
        ]
        return packed._replace(u=u)


def _run_then_slopes(layer: "Layer", inputs: "Inputs") -> tuple[list[Array], Primal]:
    """Computes the slopes of all steps at once, after the loop.

    The loop has few outputs, since each costs a kernel per step. It stores the activations if they suffice for the
    derivative, else the results of the products. It also stores those leaves of the carry that cannot be recomputed
    from these for all steps at once. (The LSTM's h_t = σ(o) tanh(c_t) can.)
    """
    reading, structure, (fixed, xs, carry, counts, resets, start) = layer.reading, layer.structure, inputs
    n_carry, steps = len(carry), xs.shape[0]
    us = layer.us(fixed, xs)  # unused if activations are stored
    if layer.remembers is not None:
        loop = reading.in_loop
        pieces, values = layer.pieces(fixed, xs), loop.pieces
        equations = [*loop.late, *reading.inside]
        saved_values = [reading.activations[i].t for i in layer.remembers]
    else:
        pieces, values, equations = us, reading.us, reading.inside
        saved_values = [p.out for p in reading.products]
    step = layer.stepper(fixed, equations, values, [*reading.carry_outs, *saved_values])
    kept = _to_be_kept(structure) if counts is None else set(range(n_carry))

    def body(carry: list[Any], now: tuple[list[Any], Any, Any]):
        pieces, counts, resets = now
        if resets is not None:
            carry = select(resets, start, carry)
        found = step(carry, pieces)
        new = found[:n_carry] if counts is None else select(counts, found[:n_carry], carry)
        return new, ({i: new[i] for i in kept}, found[n_carry:])

    last, (stored, saved) = layer.scan(body, carry, (pieces, counts, resets), xs)
    if layer.remembers is not None:
        ts = dict(zip(layer.remembers, saved, strict=True))
        rs = [jnp.zeros((steps, *layer.rows, *p.out.shape), p.out.dtype) for p in reading.products]  # placeholders
    else:
        ts, rs = {}, saved
    axes = 1 + len(layer.rows)
    if len(stored) < n_carry:  # the other leaves do not depend on carry_{t-1}
        unread = [jnp.zeros((steps, *leaf.shape), leaf.dtype) for leaf in carry]
        known = {structure.carry_outs[leaf]: value for leaf, value in stored.items()}
        all_outputs = Gates(reading, structure, fixed, unread, us, rs, ts, axes).outputs(known, as_inputs=True)
        stored |= {i: all_outputs[k] for i, k in enumerate(structure.carry_outs) if i not in stored}
    carries = [stored[leaf] for leaf in range(n_carry)]
    previous = _previous(layer, inputs, carries)
    if layer.remembers is not None:  # only their derivative is used, so the values cost nothing
        rs = Gates(reading, structure, fixed, previous, us, rs, ts, axes).products()
    gates = Gates(reading, structure, fixed, previous, us, rs, ts, axes)
    # at masked steps the carry is not the output of the gates
    known = dict(zip(structure.carry_outs, carries, strict=True)) if counts is None else {}
    outputs = [known.get(k, out) for k, out in enumerate(gates.outputs(known))]
    slopes = counted(structure, gates.slopes(outputs), counts, resets)
    return last, Primal(inputs, previous, carries, dict(enumerate(outputs)), slopes, gates)


def _lefts(structure: GateStructure) -> set[int]:
    """The outputs that are left operands of products."""
    return {k for kind, k in structure.lefts if kind == "out"}


def _to_be_kept(structure: GateStructure) -> set[int]:
    """The leaves of the carry that cannot be computed from u, r and the other leaves without carry_{t-1}."""
    kept: set[int] = set()
    from_carry: set[int] = set()  # outputs that depend on carry_{t-1}, also through one that is not stored
    for out, needed in enumerate(structure.needs):
        if any([block.kind == "carry" or (block.kind == "cut" and block.leaf in from_carry) for block in needed]):
            stored = {leaf for leaf, of in enumerate(structure.carry_outs) if of == out}
            kept |= stored
            from_carry |= set() if stored else {out}
    return kept


def _previous(layer: "Layer", inputs: "Inputs", carries: list[Array]) -> list[Array]:
    """carry_{t-1} for all t, `[T, *rows, H]`, after a reset."""

    def shifted(one: Array, many: Array) -> Array:
        return jnp.concatenate([many[1:], one[None]] if layer.reverse else [one[None], many[:-1]])

    previous = [shifted(*both) for both in zip(inputs.carry, carries, strict=True)]
    if inputs.resets is None or inputs.start is None:
        return previous
    start = [jnp.broadcast_to(s, p.shape) for s, p in zip(inputs.start, previous, strict=True)]
    return select(inputs.resets, start, previous)


class StepLinear(NamedTuple):
    """The coefficients of one step; over all of time each array has a leading T."""

    slopes: list[Diagonals]
    drive: Leaves  # for each output
    v: Leaves  # for each product: added to dr in the loop, or None if the drive includes it
    ahead: Leaves  # for each leaf of the carry: C_{t+1}, or None
    hold: Leaves  # for each leaf of the carry: 1 at masked steps where C does not express it, or None


def tangents(layer: "Layer", primal: Primal, tangent: "Inputs") -> tuple[list[Array], dict[int, Array]]:
    """The last dcarry, and the tangents of the stacked outputs, by index."""
    dus = jax.jvp(layer.us, (primal.inputs.fixed, primal.inputs.xs), (tangent.fixed, tangent.xs))[1]
    linear, scale = _linearize(layer, primal, tangent, dus)
    dcarry = [d if c is None else c * d for d, c in zip(tangent.carry, scale, strict=True)]
    last, stacked = _run(layer, primal, linear, dcarry)
    return last, dict(zip(layer.stacked, stacked, strict=True))


def _linearize(layer: "Layer", primal: Primal, tangent: "Inputs", dus: list[Array]) -> tuple[StepLinear, Leaves]:
    """The coefficients of the tangent recurrence for all steps, and C_1, which multiplies the first dcarry."""
    structure, slopes, resets = layer.structure, primal.slopes, primal.inputs.resets
    v: Leaves = _times_dweights(layer, primal, tangent)
    dstart = None
    if resets is not None and tangent.start is not None:
        multiply = _multiplications(layer, primal.inputs)
        for i, (kind, leaf) in enumerate(structure.lefts):
            if kind == "carry":
                v[i] = v[i] + _where_reset(resets, multiply[i](tangent.start[leaf]))
        dstart = [_where_reset(resets, d) for d in tangent.start]
    du: Leaves = [None if d.dtype == jax.dtypes.float0 else d for d in dus]  # of a boolean, such as x > 0

    inside: Leaves = [None] * len(v)
    if resets is None:
        for i in range(
            len(v)
        ):  # if the gates read u + r, one multiplication of the sum by the slope suffices, in the loop
            j = _same_slope(slopes, i)
            if j is not None and du[j] is not None:  # of several products that are added, the first takes u
                inside[i], du[j], v[i] = v[i] + du[j], None, None
    drive = times(structure, slopes, carry=dstart, u=du, r=v)
    if structure.reads_params and primal.gates is not None:
        outputs = [primal.outputs[k] for k in sorted(primal.outputs)]
        for k, more in enumerate(primal.gates.through_params(outputs, tangent.fixed)):
            drive[k] = sum_of(drive[k], more)
    linear = StepLinear([s._replace(u=[]) for s in slopes], drive, inside, [], [])
    return _carried_ahead(layer, _timed(layer, linear, primal, dstart))


def _same_slope(slopes: list[Diagonals], r: int) -> int | None:
    """The leaf of u that is always added to this product, so that both have the same slope, if there is one."""
    for u in range(len(slopes[0].u)):
        if slopes[0].r[r] is not None and all([s.u[u] is s.r[r] for s in slopes]):
            return u
    return None


def _run(layer: "Layer", primal: Primal, linear: StepLinear, dcarry: Leaves) -> tuple[list[Array], list[Array]]:
    """The loop. Returns the last dcarry and the tangents of all stacked outputs, `[T, *rows, H]`."""
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


def _multiplications(layer: "Layer", inputs: "Inputs") -> list[Any]:
    """Functions that map dm to dm W, for each product.

    Every matrix [K, N] is stored transposed, [N, K], so that the backward loop multiplies by a matrix in its memory
    order (for a single row, ten times as fast).
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


def _times_dweights(layer: "Layer", primal: Primal, tangent: "Inputs") -> list[Array]:
    """v_t for all t; rows have a single axis, so that the transpose contracts one axis."""
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


def _timed(layer: "Layer", linear: StepLinear, primal: Primal, dstart: Leaves | None) -> StepLinear:
    """Applies masks and resets to the coefficients; the slopes already include masking."""
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


def _carried_ahead(layer: "Layer", linear: StepLinear) -> tuple[StepLinear, Leaves]:
    """If a leaf of the carry enters the next step only through its C, the loop carries C_{t+1} dcarry_t.

    This is the case for the LSTM's cell state. The transpose then uses its gradient only once, which saves a kernel in
    every step of the backward loop. A barrier after the slopes keeps XLA from computing them inside the loop.
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
