"""The time loop of the `hoisted` engine, for the values alone, and with all that the derivative is built from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.diagonals import Diagonals, Gates, Leaves, counted
from rnnjax._unroll.equations import Equation, Value, evaluate
from rnnjax._unroll.gates import GateStructure
from rnnjax._unroll.masking import select
from rnnjax._unroll.reading import Reading


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """What is known of one layer before any array is.

    Attributes:
      rows: the batch shape, one axis or none.
      carries: the carry after each step is wanted too.
      remembers: indices of the activations that can be stored for the derivative in place of what products give.
      slopes_in_loop: the saving run computes the slopes of a step right after it, while its arrays are in cache.
    """

    reading: Reading
    structure: GateStructure
    rows: tuple[int, ...]
    reverse: bool
    unroll: int
    carries: bool
    remembers: tuple[int, ...] | None
    slopes_in_loop: bool

    @property
    def stacked(self) -> list[int]:
        """The distinct outputs of the gates that are wanted at every step."""
        return sorted({*self.structure.y_outs, *(self.structure.carry_outs if self.carries else ())})

    def scan(self, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any, xs: Array) -> tuple[Any, Any]:
        """Over all steps of `xs`, of which `inputs` may hold nothing."""
        steps = None if jax.tree.leaves(inputs) else xs.shape[0]
        return lax.scan(step, carry, inputs, length=steps, reverse=self.reverse, unroll=self.unroll)

    def us(self, fixed: list[Array], xs: Array) -> list[Array]:
        """What the input adds, for all steps of all rows, `[T, *rows, ...]`."""
        env = dict(zip(self.reading.fixed, fixed, strict=True))
        return ahead(self.reading.x, env, xs, self.reading.ahead, self.reading.us)


class Inputs(NamedTuple):
    """What a layer is run on; leaves of trees are lists.

    Attributes:
      fixed: the values of `reading.fixed`.
      xs: `[T, *rows, D]`.
      carry: before the first step, each leaf `[*rows, ...]`.
      counts, resets: `[T, *rows]`, or None.
      start: the initial carry that a reset goes back to, or None without resets.
    """

    fixed: list[Array]
    xs: Array
    carry: list[Array]
    counts: Array | None
    resets: Array | None
    start: list[Array] | None


class Primal(NamedTuple):
    """A run of the recurrence, from which its derivative is built; arrays are `[T, *rows, ...]`."""

    inputs: Inputs
    previous: list[Array]  # carry_{t-1}, after a reset; zeros for leaves that nobody reads
    carries: list[Array]  # carry_t, held where a step is masked; zeros for leaves that nobody reads
    outputs: dict[int, Array]  # the distinct outputs of the gates that y has or that products multiply
    slopes: list[Diagonals]  # masked steps are written into them
    gates: Gates | None  # None where the slopes were computed in the loop


class Outputs(NamedTuple):
    """What a layer gives: the last carry, the outputs, and the carry after each step if it is wanted."""

    last: list[Array]
    ys: list[Array]
    carries: list[Array]


def ahead(x: Value, env: dict[Value, Any], xs: Array, equations: list[Equation], wanted: list[Value]) -> list[Array]:
    """`wanted` for all steps of all rows, with one axis for them in a product."""
    if wanted == [x]:
        return [xs]
    keys, known = list(env), list(env.values())

    def one(known: list[Any], row: Array) -> list[Any]:
        found = evaluate(equations, {**dict(zip(keys, known, strict=True)), x: row})
        return [found[v] for v in wanted]

    flat = jax.vmap(one, in_axes=(None, 0))(known, xs.reshape(-1, xs.shape[-1]))
    return [u.reshape(*xs.shape[:-1], *u.shape[1:]) for u in flat]


def stepper(
    layer: Layer, fixed: list[Array], equations: list[Equation], pieces: list[Value], wanted: Sequence[Value]
) -> Callable[[list[Any], list[Any]], list[Any]]:
    """One step as a function of the carry and the pieces, with all rows at once."""
    reading = layer.reading
    env = dict(zip(reading.fixed, fixed, strict=True))
    evaluate(reading.in_loop.prepared, env)
    keys, known = list(env), list(env.values())

    def one(known: list[Any], rows: tuple[list[Any], list[Any]]) -> list[Any]:
        env = dict(zip(keys, known, strict=True))
        env.update(zip(reading.carry, rows[0], strict=True))
        env.update(zip(pieces, rows[1], strict=True))
        evaluate(equations, env)
        return [env[v] for v in wanted]

    many = jax.vmap(one, in_axes=(None, 0)) if layer.rows else one
    return lambda carry, now: many(known, (carry, now))


def plain_run(layer: Layer, inputs: Inputs) -> Outputs:
    """The values alone."""
    reading, structure, (fixed, xs, carry, counts, resets, start) = layer.reading, layer.structure, inputs
    loop, n_carry = reading.in_loop, len(reading.carry)
    pieces = ahead(reading.x, _prepared(reading, fixed), xs, loop.early, loop.pieces)
    wanted = [*reading.carry_outs, *[structure.outs[k] for k in layer.stacked]]
    step = stepper(layer, fixed, [*loop.late, *reading.inside], loop.pieces, wanted)
    in_carry = {k: leaf for leaf, k in enumerate(structure.carry_outs)}

    def body(carry: list[Any], now: tuple[list[Any], Any, Any]) -> tuple[list[Any], list[Any]]:
        """The outputs of masked steps are made zero after the loop: that is one kernel a step less, and one in all."""
        pieces, counts, resets = now
        if resets is not None:
            carry = select(resets, start, carry)
        found = step(carry, pieces)
        new, stacked = found[:n_carry], found[n_carry:]
        if counts is not None:
            new = select(counts, new, carry)
            stacked = [new[in_carry[k]] if k in in_carry else v for k, v in zip(layer.stacked, stacked, strict=True)]
        return new, stacked

    last, stacked = layer.scan(body, carry, (pieces, counts, resets), xs)
    return outputs_of(layer, last, dict(zip(layer.stacked, stacked, strict=True)), counts)


def outputs_of(
    layer: Layer, last: list[Array], stacked: dict[int, Array], counts: Array | None, carries: Any = None
) -> Outputs:
    """Outputs from what is stacked at every step; those of masked steps become zero, and the carry is held there."""
    ys = [stacked[k] for k in layer.structure.y_outs]
    if counts is not None:
        ys = select(counts, ys, [jnp.zeros_like(y) for y in ys])
    if not layer.carries:
        return Outputs(last, ys, [])
    return Outputs(last, ys, [stacked[k] for k in layer.structure.carry_outs] if carries is None else carries)


def saving_run(layer: Layer, inputs: Inputs) -> tuple[list[Array], Primal]:
    """`(carry_T, primal)`."""
    return _run_with_slopes(layer, inputs) if layer.slopes_in_loop else _run_then_slopes(layer, inputs)


def _run_with_slopes(layer: Layer, inputs: Inputs) -> tuple[list[Array], Primal]:
    """Every step leaves its slopes and what products and y read, which saves the passes of `_run_then_slopes`.

    The loop has more kernels a step. Where a step is large that is cheaper than to read its arrays again later.
    """
    reading, structure, (fixed, xs, carry, counts, resets, start) = layer.reading, layer.structure, inputs
    loop = reading.in_loop
    pieces = ahead(reading.x, _prepared(reading, fixed), xs, loop.early, loop.pieces)
    read = set(structure.mixed) | {leaf for leaf, k in enumerate(structure.carry_outs) if k in layer.stacked}
    elsewhere = [k for k in sorted({*layer.stacked, *_lefts(structure)}) if k not in structure.carry_outs]
    rs = [p.out for p in reading.products]
    wanted = [*structure.outs, *reading.us, *rs]
    step = stepper(layer, fixed, [*loop.late, *reading.inside], loop.pieces, wanted)
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
    """How the slopes of one step are stored in few arrays: as few outputs of the loop as can be.

    Stored as [..., 1, n], so that XLA does not start this loop and the one that runs backwards from one array of zeros,
    of which it would make a copy.
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


def _run_then_slopes(layer: Layer, inputs: Inputs) -> tuple[list[Array], Primal]:
    """The slopes of all steps at once, after the loop.

    The loop has few outputs, as each costs a kernel a step. It stores the activations if the derivative can do with
    them, else what the products give; and those leaves of the carry that cannot be had from these for all steps at
    once, as the LSTM's h_t = σ(o) tanh(c_t) can.
    """
    reading, structure, (fixed, xs, carry, counts, resets, start) = layer.reading, layer.structure, inputs
    n_carry, steps = len(carry), xs.shape[0]
    us = layer.us(fixed, xs)  # where activations are stored nobody reads its values
    if layer.remembers is not None:
        loop = reading.in_loop
        pieces, values = ahead(reading.x, _prepared(reading, fixed), xs, loop.early, loop.pieces), loop.pieces
        equations = [*loop.late, *reading.inside]
        saved_values = [reading.activations[i].t for i in layer.remembers]
    else:
        pieces, values, equations = us, reading.us, reading.inside
        saved_values = [p.out for p in reading.products]
    step = stepper(layer, fixed, equations, values, [*reading.carry_outs, *saved_values])
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
        rs = [jnp.zeros((steps, *layer.rows, *p.out.shape), p.out.dtype) for p in reading.products]  # not read yet
    else:
        ts, rs = {}, saved
    axes = 1 + len(layer.rows)
    if len(stored) < n_carry:  # none of the other leaves reads carry_{t-1}
        unread = [jnp.zeros((steps, *leaf.shape), leaf.dtype) for leaf in carry]
        known = {structure.carry_outs[leaf]: value for leaf, value in stored.items()}
        all_outputs = Gates(reading, structure, fixed, unread, us, rs, ts, axes).outputs(known, as_inputs=True)
        stored |= {i: all_outputs[k] for i, k in enumerate(structure.carry_outs) if i not in stored}
    carries = [stored[leaf] for leaf in range(n_carry)]
    previous = _previous(layer, inputs, carries)
    if layer.remembers is not None:  # nobody reads their values, only their derivative, so they cost nothing
        rs = Gates(reading, structure, fixed, previous, us, rs, ts, axes).products()
    gates = Gates(reading, structure, fixed, previous, us, rs, ts, axes)
    # a held carry is not what the gates gave
    known = dict(zip(structure.carry_outs, carries, strict=True)) if counts is None else {}
    outputs = [known.get(k, out) for k, out in enumerate(gates.outputs(known))]
    slopes = counted(structure, gates.slopes(outputs), counts, resets)
    return last, Primal(inputs, previous, carries, dict(enumerate(outputs)), slopes, gates)


def _prepared(reading: Reading, fixed: list[Array]) -> dict[Value, Any]:
    return evaluate(reading.in_loop.prepared, dict(zip(reading.fixed, fixed, strict=True)))


def _lefts(structure: GateStructure) -> set[int]:
    """The outputs that products multiply."""
    return {k for kind, k in structure.lefts if kind == "out"}


def _to_be_kept(structure: GateStructure) -> set[int]:
    """The leaves of the carry that cannot be computed from u, r and the others without carry_{t-1}."""
    kept: set[int] = set()
    from_carry: set[int] = set()  # outputs that read carry_{t-1}, also through one that is not stored
    for out, needed in enumerate(structure.needs):
        if any([block.kind == "carry" or (block.kind == "cut" and block.leaf in from_carry) for block in needed]):
            stored = {leaf for leaf, of in enumerate(structure.carry_outs) if of == out}
            kept |= stored
            from_carry |= set() if stored else {out}
    return kept


def _previous(layer: Layer, inputs: Inputs, carries: list[Array]) -> list[Array]:
    """carry_{t-1} for all t, `[T, *rows, H]`, after a reset."""

    def shifted(one: Array, many: Array) -> Array:
        return jnp.concatenate([many[1:], one[None]] if layer.reverse else [one[None], many[:-1]])

    previous = [shifted(*both) for both in zip(inputs.carry, carries, strict=True)]
    if inputs.resets is None or inputs.start is None:
        return previous
    start = [jnp.broadcast_to(s, p.shape) for s, p in zip(inputs.start, previous, strict=True)]
    return select(inputs.resets, start, previous)


def remembered(reading: Reading) -> tuple[int, ...] | None:
    """The activations whose t can be stored for the derivative in place of what the products give.

    That is so if the products do nothing but be added to something on their way into activations: neither values nor
    slopes then need them. None if they do more, as the GRU's do, whose reset gate multiplies one.
    """
    direct = {p.out for p in reading.products}
    products = {p.equation for p in reading.products}
    bent = {activation.t: i for i, activation in enumerate(reading.activations)}
    if not direct.isdisjoint([*reading.carry_outs, *reading.y_outs]):
        return None
    for eqn in reading.inside:
        if not direct.isdisjoint(eqn.inputs) and not (eqn.name == "tanh" and eqn.output in bent):
            if eqn in products or eqn.name not in _ADDITIVE:
                return None
            direct.update(eqn.outputs)
            if not direct.isdisjoint([*reading.carry_outs, *reading.y_outs]):
                return None
    return tuple([i for i, activation in enumerate(reading.activations) if activation.scaled in direct])


_ADDITIVE = frozenset(
    ["add", "sub", "neg", "split", "slice", "concatenate", "reshape", "squeeze", "broadcast_in_dim", "scale"]
)
