"""The fast engine: every matmul that does not need the carry leaves the time loop, forwards *and* in the derivative.

The `Reading` of a step (`reading.py`) tells what can leave the loop. If the gates between the products are elementwise,
the derivative is a recurrence with diagonal slopes (`derivative.py`), which are also computed for all T at once. This
is implemented as a custom *JVP*, from which JAX derives the rest: reverse mode is its transpose, in which the gradient
of a recurrent weight is one matmul over all of time; forward mode and second derivatives work too. If the gates are not
elementwise, the weight gradients still leave the loop (`_run_any_gates`).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.arguments import Masks, select, varying_alike
from rnnjax._unroll.derivative import saving_run, tangents
from rnnjax._unroll.equations import Equation, Value, bytes_of, evaluate, value_in
from rnnjax._unroll.gates import GateStructure
from rnnjax._unroll.reading import Read, Reading
from rnnjax.cell import Cell, PyTree


def unroll_hoisted(
    found: Read,
    cell: Cell,
    params: PyTree,
    carry: PyTree,
    xs: Array,
    masks: Masks,
    *,
    unroll: int = 1,
    carries: bool = False,
) -> tuple[PyTree, PyTree, PyTree]:
    """`(carry, ys, carries)`; merges all batch axes into one, or none for a single row."""
    reading = found.reading
    features = reading.x.shape
    steps, batch_shape = xs.shape[0], xs.shape[1 : xs.ndim - len(features)]
    size = math.prod(batch_shape)
    rows = () if size == 1 else (size,)  # a matmul with one row is slower than with a vector

    def to_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(batch_shape)
        return jax.tree.map(lambda leaf: jnp.reshape(leaf, (*lead, *rows, *jnp.shape(leaf)[drop:])), tree)

    def from_rows(tree: PyTree, lead: tuple[int, ...] = ()) -> PyTree:
        drop = len(lead) + len(rows)
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *batch_shape, *leaf.shape[drop:]), tree)

    start = None
    if masks.resets is not None:
        start = jax.tree.leaves(to_rows(cell.initial_carry(params, batch_shape)))
    counts, resets = to_rows((masks.counts, masks.resets), (steps,))
    inputs = Inputs(
        reading.fixed_values(params, found.closed_over),
        xs.reshape(steps, *rows, *features),
        jax.tree.leaves(to_rows(carry)),
        counts,
        resets,
        start,
    )
    if reading.gates is None:
        out = _run_any_gates(reading, inputs, rows, masks.reverse, unroll, carries)
    else:
        slopes_in_loop = _large(reading, reading.gates, rows)
        remembers = _remembered(reading)
        layer = Layer(reading, reading.gates, rows, masks.reverse, unroll, carries, remembers, slopes_in_loop)
        out = _recurrence(layer, inputs)
    tree = jax.tree.structure(carry)
    last, ys = tree.unflatten(from_rows(out.last)), reading.y_tree.unflatten(from_rows(out.ys, (steps,)))
    return last, ys, tree.unflatten(from_rows(out.carries, (steps,))) if carries else None


class Inputs(NamedTuple):
    """The inputs of a layer; trees are lists of leaves.

    Attributes:
      fixed: the values of `reading.fixed`.
      xs: `[T, *rows, D]`, or `[T, *rows, *space, D]`.
      carry: the carry before the first step, each leaf `[*rows, ...]`.
      counts, resets: `[T, *rows]`, or None.
      start: the initial carry to which resets return, or None without resets.
    """

    fixed: list[Array]
    xs: Array
    carry: list[Array]
    counts: Array | None
    resets: Array | None
    start: list[Array] | None


class Outputs(NamedTuple):
    """The results of a layer: the last carry, the outputs, and the carry after each step if requested."""

    last: list[Array]
    ys: list[Array]
    carries: list[Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """The static description of a layer.

    Attributes:
      rows: the batch shape, one axis or none.
      carries: whether the carry after each step is requested.
      remembers: indices of the activations that can be stored for the derivative instead of the results of products.
      slopes_in_loop: whether the saving run computes the slopes of a step right after it, while its arrays are in
        cache.
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
        """The distinct outputs of the gates that are needed at every step."""
        return sorted({*self.structure.y_outs, *(self.structure.carry_outs if self.carries else ())})

    def scan(self, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any, xs: Array) -> tuple[Any, Any]:
        """A scan over all steps of `xs`; `inputs` may be empty."""
        steps = None if jax.tree.leaves(inputs) else xs.shape[0]
        return lax.scan(step, carry, inputs, length=steps, reverse=self.reverse, unroll=self.unroll)

    def us(self, fixed: list[Array], xs: Array) -> list[Array]:
        """The values computed from the input, for all steps of all rows, `[T, *rows, ...]`."""
        env = dict(zip(self.reading.fixed, fixed, strict=True))
        return _ahead(self.reading.x, env, xs, self.reading.ahead, self.reading.us)

    def pieces(self, fixed: list[Array], xs: Array) -> list[Array]:
        """The values that the loop needs from the input, for all steps of all rows, if no derivative is needed."""
        loop = self.reading.in_loop
        env = evaluate(loop.prepared, dict(zip(self.reading.fixed, fixed, strict=True)))
        return _ahead(self.reading.x, env, xs, loop.early, loop.pieces)

    def stepper(
        self, fixed: list[Array], equations: list[Equation], pieces: list[Value], wanted: Sequence[Value]
    ) -> Callable[[list[Any], list[Any]], list[Any]]:
        """One step as a function of the carry and the pieces, for all rows at once."""
        reading = self.reading
        env = dict(zip(reading.fixed, fixed, strict=True))
        evaluate(reading.in_loop.prepared, env)
        keys, known = list(env), list(env.values())

        def one(known: list[Any], rows: tuple[list[Any], list[Any]]) -> list[Any]:
            env = dict(zip(keys, known, strict=True))
            env.update(zip(reading.carry, rows[0], strict=True))
            env.update(zip(pieces, rows[1], strict=True))
            evaluate(equations, env)
            return [env[v] for v in wanted]

        many = jax.vmap(one, in_axes=(None, 0)) if self.rows else one
        return lambda carry, now: many(known, (carry, now))


def _recurrence(layer: Layer, inputs: Inputs) -> Outputs:
    """The loop over time of one layer."""

    @jax.custom_jvp
    def run(*inputs: Any) -> Outputs:
        return _plain_run(layer, Inputs(*inputs))

    @run.defjvp
    def _(primals: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Outputs, Outputs]:
        inputs = Inputs(*primals)
        last, primal = saving_run(layer, inputs)
        dlast, dstacked = tangents(layer, primal, Inputs(*given))
        carries = primal.carries if layer.carries else None
        out = _outputs_of(layer, last, primal.outputs, inputs.counts, carries)
        return out, _outputs_of(layer, dlast, dstacked, inputs.counts)

    return run(*inputs)


def _plain_run(layer: Layer, inputs: Inputs) -> Outputs:
    """Computes only the values."""
    reading, structure, (fixed, xs, carry, counts, resets, start) = layer.reading, layer.structure, inputs
    loop, n_carry = reading.in_loop, len(reading.carry)
    pieces = layer.pieces(fixed, xs)
    wanted = [*reading.carry_outs, *[structure.outs[k] for k in layer.stacked]]
    step = layer.stepper(fixed, [*loop.late, *reading.inside], loop.pieces, wanted)
    in_carry = {k: leaf for leaf, k in enumerate(structure.carry_outs)}

    def body(carry: list[Any], now: tuple[list[Any], Any, Any]) -> tuple[list[Any], list[Any]]:
        """Outputs of masked steps are set to zero after the loop, which takes one kernel instead of one per step."""
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
    return _outputs_of(layer, last, dict(zip(layer.stacked, stacked, strict=True)), counts)


def _outputs_of(
    layer: Layer, last: list[Array], stacked: dict[int, Array], counts: Array | None, carries: Any = None
) -> Outputs:
    """Creates the outputs from values stacked at every step; at masked steps outputs are zero, carries constant."""
    ys = [stacked[k] for k in layer.structure.y_outs]
    if counts is not None:
        ys = select(counts, ys, [jnp.zeros_like(y) for y in ys])
    if not layer.carries:
        return Outputs(last, ys, [])
    return Outputs(last, ys, [stacked[k] for k in layer.structure.carry_outs] if carries is None else carries)


def _ahead(x: Value, env: dict[Value, Any], xs: Array, equations: list[Equation], wanted: list[Value]) -> list[Array]:
    """Computes `wanted` for all steps of all rows, which are merged into one axis."""
    if wanted == [x]:
        return [xs]
    keys, known = list(env), list(env.values())

    def one(known: list[Any], row: Array) -> list[Any]:
        found = evaluate(equations, {**dict(zip(keys, known, strict=True)), x: row})
        return [found[v] for v in wanted]

    lead = xs.shape[: xs.ndim - len(x.shape)]
    flat = jax.vmap(one, in_axes=(None, 0))(known, xs.reshape(-1, *x.shape))
    return [u.reshape(*lead, *u.shape[1:]) for u in flat]


def _remembered(reading: Reading) -> tuple[int, ...] | None:
    """The activations whose tanh can be stored for the derivative instead of the results of the products.

    This works if products are only added to other values before they enter activations; then neither values nor slopes
    need the products. None otherwise, for example in a GRU, whose reset gate multiplies a product.
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


_LARGE_STEP = 12_000
"""From this many bytes per step, the slopes of r are computed inside the loop.

Measured on two cores, forward and backward: with 8 rows of 64 LSTM units (8 kB) both are equally fast; in the loop, one
row (1 kB) is 1.6 times slower, 16 rows of 128 units (32 kB) 1.1 times faster, 64 rows of 256 GRU units (196 kB) 1.2
times.
"""


def _large(reading: Reading, structure: GateStructure, rows: tuple[int, ...]) -> bool:
    blocks = {block for needed in structure.needs for block in needed if block.kind == "r"}
    if structure.reads_params or len(blocks) < 2:
        return False  # one block needs as few passes over memory after the loop as in it
    size = math.prod(rows)
    return isinstance(size, int) and size * bytes_of([p.out for p in reading.products]) >= _LARGE_STEP


def _run_any_gates(
    reading: Reading, inputs: Inputs, rows: tuple[int, ...], reverse: bool, unroll: int, carries: bool
) -> Outputs:
    """The loop over time of one layer with arbitrary gates between its products, such as a layer norm.

    For each product of a value that needs the carry with a fixed weight, r_t = m_t W,

        dr_t = dm_t W + m_t dW

    The second term enters the loop as the tangent of a zero summand e_t, which one matmul computes for all T. Its
    transpose, the gradient of the weight, is also one matmul. JAX differentiates the rest of the scan.
    """
    env = dict(zip(reading.fixed, inputs.fixed, strict=True))
    us = _ahead(reading.x, env, inputs.xs, reading.ahead, reading.us)
    weights = [[env[v] for v in p.fixed] for p in reading.products]
    others = [v for v in reading.fixed if v in _read_apart_from_products(reading)]
    leaves, steps = len(inputs.carry), inputs.xs.shape[0]

    def loop(operands: Sequence[Any], extras: list[Array]) -> tuple[Any, Any, Any]:
        """`(last, (ys, carries), left operands of products)`."""
        weights, values, carry, us, counts, resets, start = operands

        def one(weights: Any, values: Any, row: Any) -> Any:
            carry, us, extras = row
            env = dict(zip(others, values, strict=True))
            env.update(zip(reading.carry, carry, strict=True))
            env.update(zip(reading.us, us, strict=True))
            rules = {}
            for i, product in enumerate(reading.products):
                extra = extras[i] if extras else None

                def times(*_: Any, i: int = i, product: Any = product, extra: Any = extra) -> Any:
                    out = _product(product, env[product.left], weights[i])
                    return out if extra is None else _with_tangent_of(out, extra)

                rules[product.out] = times
                for v in product.fixed:
                    env.setdefault(v, None)  # not used
            evaluate(reading.inside, env, rules=rules)
            read = [value_in(env, v) for v in (*reading.carry_outs, *reading.y_outs)]
            return read[:leaves], read[leaves:], [env[p.left] for p in reading.products]

        step = jax.vmap(one, in_axes=(None, None, 0)) if rows else one

        def body(carry: Any, now: Any) -> Any:
            us, extras, counts, resets = now
            if resets is not None:
                carry = select(resets, start, carry)
            new, ys, lefts = step(weights, values, (carry, us, extras))
            if counts is not None:
                new = select(counts, new, carry)
                ys = select(counts, ys, [jnp.zeros_like(y) for y in ys])
            return new, (ys, new if carries else [], lefts)

        last, (ys, every, lefts) = lax.scan(
            body,
            carry,
            (us, extras, counts, resets),
            length=None if jax.tree.leaves((us, extras, counts, resets)) else steps,
            reverse=reverse,
            unroll=unroll,
        )
        return last, (ys, every), lefts

    def plain(*operands: Any) -> Outputs:
        last, (ys, every), _ = loop(operands, [])
        return Outputs(last, ys, every)

    operands = (weights, [env[v] for v in others], inputs.carry, us, inputs.counts, inputs.resets, inputs.start)
    if reading.own_rule is not None:
        return plain(*operands)
    run = jax.custom_jvp(plain)

    @run.defjvp
    def _(primals: Any, given: Any) -> Any:
        weights, *rest = primals
        dweights, *drest = given
        extras = [jnp.zeros((steps, *rows, *p.out.shape), p.out.dtype) for p in reading.products]
        _, extras = varying_alike((inputs.xs, extras))
        flat, tree = jax.tree.flatten(rest)
        floats = [i for i, leaf in enumerate(flat) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

        def of_floats(given: list[Array], extras: list[Array]) -> Any:
            merged = list(flat)
            for i, leaf in zip(floats, given, strict=True):
                merged[i] = leaf
            return loop((weights, *tree.unflatten(merged)), extras)

        (last, (ys, every), lefts), linear = jax.linearize(of_floats, [flat[i] for i in floats], extras)
        dextras = [
            _times_dweights(product, left, w, dw, len(rows) + 1)
            for product, left, w, dw in zip(reading.products, lefts, weights, dweights, strict=True)
        ]
        dflat = jax.tree.leaves(drest)
        dlast, (dys, devery), _ = linear([dflat[i] for i in floats], dextras)
        return Outputs(last, ys, every), Outputs(dlast, dys, devery)

    return run(*operands)


@jax.custom_jvp
def _with_tangent_of(value: Array, extra: Array) -> Array:
    """value + extra, where `extra` is known to be zero and only its tangent is used."""
    return value


@_with_tangent_of.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _with_tangent_of(*primals), tangents[0] + tangents[1]


def _read_apart_from_products(reading: Reading) -> set[Value]:
    """The values that are used other than as the weight of a product."""
    products = {p.equation for p in reading.products}
    read = {v for eqn in reading.inside if eqn not in products for v in eqn.inputs}
    return read | {*reading.carry_outs, *reading.y_outs} | {p.left for p in reading.products}


def _product(product: Any, left: Any, fixed: list[Any]) -> Any:
    """Computes one product, with its inputs in the order of its equation."""
    by_value = dict(zip(product.fixed, fixed, strict=True))
    return product.equation.run(*[left if v is product.left else by_value[v] for v in product.equation.inputs])[0]


def _times_dweights(product: Any, left: Array, weights: list[Array], dweights: list[Array], axes: int) -> Array:
    """m_t dW for all T and rows, which are merged into one axis."""
    lead = left.shape[:axes]
    flat = left.reshape(-1, *left.shape[axes:])

    def of_weights(weights: list[Array]) -> Array:
        return jax.vmap(lambda row: _product(product, row, weights))(flat)

    tangent = jax.jvp(of_weights, (weights,), (dweights,))[1]
    return tangent.reshape(*lead, *tangent.shape[1:])
