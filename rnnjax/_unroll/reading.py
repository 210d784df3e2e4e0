"""Sorts the equations of a step by what can leave the time loop; the only module that inspects a cell's equations.

    once      depends only on parameters: computed once
    ahead     does not need the carry: computed for all T at once
    inside    needs the carry; includes products with fixed weights, possibly in stages that feed each other, whose
    weight
              gradients leave the loop
    gates     the rest, elementwise between the products, with the structure of its Jacobian; or the reason why not

A cell is traced for one row, since all rows are alike; `jax.vmap` runs the result for many rows.
"""

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.equations import (
    ELEMENTWISE,
    LAYOUT,
    Equation,
    Program,
    Value,
    evaluate,
    needed_for,
    part,
    traced,
    users_of,
)
from rnnjax._unroll.gates import GateStructure, NotElementwise, read_gates
from rnnjax._unroll.normal_form import CARRY, Activation, Colours, X, bounds_of, normalise
from rnnjax.cell import Cell, PyTree


class Product(NamedTuple):
    """left @ weight (+ bias), where only the left operand depends on x or the carry, and it needs the carry."""

    equation: Equation
    left: Value
    fixed: tuple[Value, ...]  # the weight, and the bias if there is one

    @property
    def out(self) -> Value:
        return self.equation.output


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A step for one row, split into parts. It has shapes and equations, but no arrays.

    Attributes:
      params, closed_over, carry, x: the inputs: leaves of the parameters, arrays that the step closes over, leaves of
        the carry, the input.
      once, ahead, inside: the equations, in order.
      products: the products with fixed weights in `inside`.
      fixed: values from the parameters that `ahead`, `inside` or an output need.
      constants: those of `fixed` that do not depend on parameters.
      us: values from the input that `inside` or an output need, at every step.
      carry_outs, y_outs, y_tree: the outputs.
      activations: the merged activations of `inside`.
      gates: the structure of the gates between the products, if they are elementwise.
      why: the reason if they are not.
      only_scan: the reason why the equations cannot be split at all, or None.
      own_rule: the reason why JAX must differentiate the loop, though values without the carry leave it, or None.
    """

    params: list[Value]
    closed_over: list[Value]
    carry: list[Value]
    x: Value
    once: list[Equation]
    ahead: list[Equation]
    inside: list[Equation]
    products: list[Product]
    fixed: list[Value]
    constants: frozenset[Value]
    us: list[Value]
    carry_outs: list[Value]
    y_outs: list[Value]
    y_tree: Any
    activations: list[Activation]
    gates: GateStructure | None
    why: str
    only_scan: str | None
    own_rule: str | None

    def fixed_values(self, params: PyTree, closed_over: Sequence[Array]) -> list[Array]:
        """The values of `fixed`."""
        env = dict(zip(self.params, jax.tree.leaves(params), strict=True))
        env.update(zip(self.closed_over, closed_over, strict=True))
        evaluate(self.once, env)
        return [env[v] for v in self.fixed]

    @functools.cached_property
    def in_loop(self) -> "InLoop":
        return _cut_after_products(self)


class InLoop(NamedTuple):
    """Divides the equations without the carry between before and inside the loop, if no derivative is needed.

    Attributes:
      prepared: equations that depend only on parameters.
      early: equations for all T at once: up to the last product, and everything that is not elementwise.
      pieces: their values that the loop needs at every step.
      late: the rest, which fuses with the gates' kernels in the loop at no cost.
    """

    prepared: list[Equation]
    early: list[Equation]
    pieces: list[Value]
    late: list[Equation]


NOTHING_LEAVES = "nothing in its step can leave the loop"


class Read(NamedTuple):
    """A reading, and the arrays of this call that the step closes over."""

    reading: Reading
    closed_over: list[Array]


_READINGS: "weakref.WeakKeyDictionary[Any, dict[Any, Reading]]" = weakref.WeakKeyDictionary()


def read(
    cell: Cell, params: PyTree, carry: PyTree, x: jax.ShapeDtypeStruct, batched: bool, together: bool = True
) -> Read:
    """Reads a cell's step, once for equal cells, shapes, dtypes and contexts; `carry` and `x` are one row's.

    Arrays that the step closes over are read at every call, and not cached.

    Args:
      batched: whether the step will run with a batch axis, over which rows must be independent.
      together: whether to merge activations, for speed; a σ close to zero then loses its relative precision.
    """
    leaves, tree = jax.tree.flatten((params, carry, x))
    key = (tree, tuple([(leaf.shape, leaf.dtype) for leaf in leaves]), batched, together, _context())
    try:
        kept = _READINGS.get(cell)
    except TypeError:  # not hashable, as with a list among its fields, or it takes no weak references
        kept = {}
    if kept is not None and key in kept:
        return Read(kept[key], [])
    found = _read(cell, params, carry, x, batched, together)
    if not found.closed_over:
        with contextlib.suppress(TypeError):
            _READINGS.setdefault(cell, {})[key] = found.reading
    return found


def _context() -> tuple[Any, ...]:
    """Everything else that a trace depends on: JAX's switches, and the mesh."""
    config: Any = jax.config  # JAX adds its switches as attributes at run time
    return (
        config.jax_enable_x64,
        config.jax_default_matmul_precision,
        config.jax_numpy_dtype_promotion,
        config.jax_numpy_rank_promotion,
        config.jax_disable_jit,
        jax.sharding.get_abstract_mesh(),
    )


def _read(cell: Cell, params: PyTree, carry: PyTree, x: jax.ShapeDtypeStruct, batched: bool, together: bool) -> Read:
    try:
        program, closed_over, (new_carry, y), has_effects = traced(cell.step, params, carry, x)
    except Exception as error:  # raised by the step, which may still run on a batch
        return _not_read(f"its step does not run for a single row ({type(error).__name__}: {error})")
    before, after = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (carry, new_carry))
    if before != after:
        return _not_read(f"for a single row its step returns a carry of {after} for one of {before}")
    only_scan = _why_only_scan(program, has_effects) or (_why_rows_meet(cell, params, carry, x) if batched else None)
    if only_scan is not None:
        return _not_read(only_scan)
    n_params, n_carry = len(jax.tree.leaves(params)), len(jax.tree.leaves(carry))
    program, colours, activations = normalise(program, n_params, n_carry, together)
    once, ahead, inside = [], [], []
    for eqn in program.equations:
        mask = 0
        for v in eqn.inputs:
            mask |= colours.get(v, 0)
        (inside if mask & CARRY else ahead if mask & X else once).append(eqn)
    needed = [v for eqn in inside for v in eqn.inputs] + program.outputs
    us = list(dict.fromkeys([v for v in needed if colours.get(v, 0) & X and not colours.carried(v)]))
    later = [v for eqn in ahead for v in eqn.inputs] + needed
    fixed = list(dict.fromkeys([v for v in later if v.constant is None and colours.fixed(v)]))
    reading = Reading(
        params=program.inputs[:n_params],
        closed_over=program.closed_over,
        carry=program.inputs[n_params : n_params + n_carry],
        x=program.inputs[-1],
        once=once,
        ahead=ahead,
        inside=inside,
        products=[p for p in [_as_product(eqn, colours) for eqn in inside] if p is not None],
        fixed=fixed,
        constants=frozenset([v for v in fixed if not colours.get(v, 0)]),
        us=us,
        carry_outs=program.outputs[:n_carry],
        y_outs=program.outputs[n_carry:],
        y_tree=jax.tree.structure(y),
        activations=activations,
        gates=None,
        why="",
        only_scan=None,
        own_rule=_OWN_RULE if _has_own_rule(inside) else None,
    )
    if not reading.products and not ahead:
        reading = dataclasses.replace(reading, only_scan=NOTHING_LEAVES)
    if _has_own_rule([*ahead, *inside]):
        reading = dataclasses.replace(reading, why="it has a backward pass of its own (`jax.custom_vjp`)")
    else:
        try:
            reading = dataclasses.replace(reading, gates=read_gates(reading))
        except NotElementwise as reason:
            reading = dataclasses.replace(reading, why=str(reason))
    return Read(reading, closed_over)


def _not_read(reason: str) -> Read:
    """The result for a step whose equations cannot be split."""
    x = Value((), None)
    nothing = Reading([], [], [], x, [], [], [], [], [], frozenset(), [], [], [], None, [], None, "", reason, None)
    return Read(nothing, [])


def _as_product(eqn: Equation, colours: Colours) -> Product | None:
    """The equation as a product of one value that needs the carry with fixed values, if it is one."""
    if eqn.name not in ("matmul", "dot_general", "conv_general_dilated") or not jnp.issubdtype(
        eqn.output.dtype, jnp.inexact
    ):
        return None
    varying = [v for v in eqn.inputs if not colours.fixed(v)]
    if len(varying) != 1 or any([v.constant is not None for v in eqn.inputs]):
        return None
    return Product(eqn, varying[0], tuple([v for v in eqn.inputs if v is not varying[0]]))


def _why_only_scan(program: Program, has_effects: bool) -> str | None:
    if has_effects:
        return "its step has side effects, which the loop must keep in their order"
    if not program.inputs or any([_is_extended(v.dtype) for v in program.inputs]):
        return "its step carries keys or other values that are not numbers"
    return None


_OWN_RULE = (
    "its step has a backward pass of its own (`jax.custom_vjp`), which may be nonlinear, for example if it clips"
)


def _has_own_rule(equations: Sequence[Equation]) -> bool:
    return any([eqn.name.startswith("custom_vjp") for eqn in equations])


def _is_extended(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.extended)


_ROWS = 1009
"""A number of rows that differs from all sizes of a cell, so that the axis of rows is identified by its length."""


def _why_rows_meet(cell: Cell, params: PyTree, carry: PyTree, x: jax.ShapeDtypeStruct) -> str | None:
    """The reason if rows of a batch are not independent, or a batch does not run like a single row."""

    try:
        program, *_ = traced(cell.step, params, *jax.tree.map(_in_rows, (carry, x)))
    except Exception as error:  # raised by the step, which may support only a certain number of rows
        return f"its step does not run for {_ROWS} rows ({type(error).__name__}: {error})"
    n_params = len(jax.tree.leaves(params))
    colours = Colours(program, n_params, len(program.inputs) - n_params - 1)
    for eqn in program.equations:
        for v in eqn.outputs:
            if not colours.fixed(v) and v.shape.count(_ROWS) != 1:
                return f"in a batch, `{eqn.name}` in its step brings rows together"
    return None


def _in_rows(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((_ROWS, *leaf.shape), leaf.dtype)


def _cut_after_products(reading: Reading) -> InLoop:
    """`early` has everything that cannot fuse with a kernel, and what it needs; `pieces` are never wider than `us`.

    If a u is only split into blocks, as in a GRU, each block gets its own product, since XLA vectorises a kernel over
    `[B, H]` much better than over a slice of `[B, nH]`.
    """
    prepared: list[Equation] = []
    ahead: list[Equation] = []
    from_x = {reading.x}
    for eqn in _blockwise(reading):
        if from_x.isdisjoint(eqn.inputs):
            prepared.append(eqn)
        else:
            ahead.append(eqn)
            from_x.update(eqn.outputs)
    needed_early: set[Value] = set()
    early, late = [], []
    for eqn in reversed(ahead):
        if eqn.name in _CHEAP and needed_early.isdisjoint(eqn.outputs):
            late.append(eqn)
        else:
            early.append(eqn)
            needed_early.update(eqn.inputs)
    made_late = {v for eqn in late for v in eqn.outputs}
    read = [v for eqn in late for v in eqn.inputs if v in from_x] + reading.us
    pieces = list(dict.fromkeys([v for v in read if v not in made_late]))
    if _size(pieces) > _size(reading.us):
        return InLoop([], reading.ahead, reading.us, [])
    return InLoop(prepared, early[::-1], pieces, late[::-1])


_CHEAP = ELEMENTWISE | LAYOUT | {"feature"}


def _blockwise(reading: Reading) -> list[Equation]:
    """`ahead`, with values that are only split into blocks computed block by block."""
    equations = list(reading.ahead)
    users = users_of([*equations, *reading.inside])
    made = {v: eqn for eqn in equations for v in eqn.outputs}
    kept = {reading.x, *reading.us}
    for split in [eqn for eqn in equations if eqn.name == "split"]:
        starts, sizes = bounds_of(split)
        found: list[Equation] = []
        for start, size, out in zip(starts or [], sizes, split.outputs, strict=True):
            of_block = _block(split.inputs[0], start, start + size, out, made, users, kept)
            if of_block is None:
                break
            found += of_block
        else:
            equations = [eqn for eqn in equations if eqn is not split] + found
    return needed_for(reading.us, equations)


def _block(
    value: Value,
    start: int,
    stop: int,
    out: Value,
    made: dict[Value, Equation],
    users: dict[Value, list[Equation]],
    kept: set[Value],
) -> list[Equation] | None:
    """Equations that compute `value[start:stop]` without `value`; None if it does not consist of products and sums."""
    eqn = made.get(value)
    if value in kept or any([user.name not in ("split", "add") for user in users[value]]):
        return None
    if eqn is None:  # fixed
        return [part(value, start, stop, 0, out)] if value.constant is None else None
    if eqn.name in ("matmul", "feature"):
        x, w = eqn.inputs
        columns = part(w, start, stop, 1)
        return [columns, Equation(eqn.name, [x, columns.output], [out], eqn.run, eqn.params)]
    if eqn.name == "split":
        before = sum([v.shape[0] for v in eqn.outputs[: eqn.outputs.index(value)]])
        return _block(eqn.inputs[0], before + start, before + stop, out, made, users, kept)
    if eqn.name != "add":
        return None
    sides, found = [], []
    for v in eqn.inputs:
        sides.append(Value((stop - start,), v.dtype))
        of_side = _block(v, start, stop, sides[-1], made, users, kept)
        if of_side is None:
            return None
        found += of_side
    return [*found, Equation("add", sides, [out], eqn.run, eqn.params)]


def _size(values: Sequence[Value]) -> int:
    return sum([v.shape[-1] if v.shape else 1 for v in values])
