"""Runs a step that is linear in its carry by a parallel scan over time, `jax.lax.associative_scan`.

The equations of the step must show, for each leaf c of the carry, one of

    c_t = A_t c_{t-1} + b_t            elementwise, where A_t and b_t do not depend on c
    c_t = max(c_{t-1} + a_t, b_t)      elementwise (the stabilisers of exponential gates)

A and b may depend on the input and on other leaves, as long as those can be solved before; leaves that depend on each
other are solved together, with a small matrix A for each element (a complex number as two real ones). Both forms are
associative, and so are they with masked steps (A = 1, b = 0) and resets (A = 0, b = the initial carry's update).

Then all outputs follow from one call of the step for all T at once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.arguments import Masks, select
from rnnjax._unroll.equations import Equation, Program, Value, evaluate, needed_for, traced, value_in
from rnnjax.cell import Cell, PyTree, batch_shape_of


class NotLinear(ValueError):
    """The engine is "associative", but the step is not linear in its carry; the message says where."""


class Group(NamedTuple):
    """Leaves of the carry that are solved together.

    Attributes:
      leaves: their places.
      summands: for a maximum, the values c + a and b of the step; else None.
    """

    leaves: tuple[int, ...]
    summands: tuple[Value, Value] | None = None


class Linear(NamedTuple):
    """A step that is linear in its carry: its equations, and the groups in the order in which they can be solved."""

    program: Program
    closed_over: list[Array]
    groups: list[Group]

    @property
    def width(self) -> int:
        """The most leaves that are solved together."""
        return max([len(group.leaves) for group in self.groups])


def read_linear(cell: Cell, params: PyTree, carry: PyTree, x: jax.ShapeDtypeStruct) -> Linear:
    """Reads the form of a step from its equations; `carry` and `x` are one row's.

    Raises:
      NotLinear: the step has another form.
    """
    program, closed_over, _, _ = traced(cell.step, params, carry, x)
    named = [(f"carry{jax.tree_util.keystr(path)}", leaf) for path, leaf in jax.tree.leaves_with_path(carry)]
    for name, leaf in named:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise NotLinear(f"`{name}` is {leaf.dtype}, and only real and complex states are solved for")
    ins = program.inputs[len(jax.tree.leaves(params)) : -1]
    outs = program.outputs[: len(ins)]
    needs = _needs(program, ins)
    above = [{i for i in range(len(ins)) if needs.get(out, 0) >> i & 1} for out in outs]
    for _ in ins:  # the transitive closure
        above = [leaf | {k for j in leaf for k in above[j]} for leaf in above]
    groups = {tuple(sorted({j, *(i for i in above[j] if j in above[i])})) for j in range(len(ins))}
    ordered = sorted(groups, key=lambda group: len(above[group[0]] | set(group)))
    read = [_read_group(program, group, ins, outs, [name for name, _ in named]) for group in ordered]
    return Linear(program, closed_over, read)


def _needs(program: Program, ins: Sequence[Value]) -> dict[Value, int]:
    """For each value, the leaves of the carry that it depends on, as bits."""
    needs = {leaf: 1 << i for i, leaf in enumerate(ins)}
    for eqn in program.equations:
        bits = 0
        for v in eqn.inputs:
            bits |= needs.get(v, 0)
        if bits:
            needs.update(dict.fromkeys(eqn.outputs, bits))
    return needs


_SHIFTED, _AFFINE, _MAXIMUM = 1, 2, 3
"""A leaf plus something; a linear function of leaves plus something; a maximum of the first and something."""


def _read_group(
    program: Program, group: tuple[int, ...], ins: Sequence[Value], outs: Sequence[Value], names: list[str]
) -> Group:
    forms: dict[Value, int] = {ins[i]: _SHIFTED for i in group}
    obstacles: dict[Value, str] = {}
    summands: dict[Value, tuple[Value, Value]] = {}
    shape = ins[min(group)].shape
    for eqn in program.equations:
        dependent = [v for v in eqn.inputs if v in forms or v in obstacles]
        if not dependent:
            continue
        hindered = [obstacles[v] for v in dependent if v in obstacles]
        form, obstacle = (None, hindered[0]) if hindered else _form(eqn, forms, shape)
        if form is None:
            obstacles.update(dict.fromkeys(eqn.outputs, obstacle))
            continue
        forms.update(dict.fromkeys(eqn.outputs, form))
        if eqn.name == "max":
            one, other = sorted(eqn.inputs, key=lambda v: v not in forms)
            summands[eqn.output] = one, other
        elif form == _MAXIMUM:  # only passed on
            summands[eqn.output] = summands[dependent[0]]
    for i in group:
        if outs[i] in obstacles:
            raise NotLinear(f"`{names[i]}` {obstacles[outs[i]]}")
        if outs[i] in forms and outs[i].shape != shape:
            raise NotLinear(f"`{names[i]}` depends on a state of another shape")
    if any([forms.get(outs[i]) == _MAXIMUM for i in group]):
        if len(group) > 1:
            raise NotLinear(f"`{names[group[0]]}` is a maximum that depends on other states")
        return Group(group, summands[outs[min(group)]])
    return Group(group)


def _form(eqn: Equation, forms: dict[Value, int], shape: tuple[int, ...]) -> tuple[int | None, str]:
    """The form of an equation's output in the leaves of a group; or None, and what is not linear."""
    inside = [forms[v] for v in eqn.inputs if v in forms]
    wrong = f"goes through `{eqn.name}`, which is not linear in it"
    if eqn.output.shape != shape:
        return None, f"goes through `{eqn.name}`, which mixes its elements or changes their number"
    if eqn.name in ("copy", "copy_p", "convert_element_type") or (eqn.name == "reshape" and len(inside) == 1):
        return inside[0], ""
    if _MAXIMUM in inside:
        return None, wrong
    if eqn.name == "add" or (eqn.name == "sub" and eqn.inputs[0] in forms):
        return (_AFFINE if len(inside) > 1 else inside[0]), ""
    if eqn.name in ("sub", "neg"):
        return _AFFINE, ""
    if eqn.name == "mul" or (eqn.name == "div" and eqn.inputs[0] in forms):
        return (_AFFINE, "") if len(inside) == 1 else (None, wrong)
    if eqn.name == "select_n" and eqn.inputs[0] not in forms:
        return _AFFINE, ""
    if eqn.name == "max" and inside == [_SHIFTED]:
        return _MAXIMUM, ""
    return None, wrong


def unroll_associative(
    linear: Linear, cell: Cell, params: PyTree, carry: PyTree, xs: Array, masks: Masks
) -> tuple[PyTree, tuple[PyTree, PyTree]]:
    """`(carry, (ys, carries))`, in a number of parallel steps that grows like log T."""
    steps, batch_shape = xs.shape[0], batch_shape_of(cell, xs)
    counts, resets = masks.counts, masks.resets
    if masks.reverse:
        xs, counts, resets = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), (xs, counts, resets))
    first, tree = jax.tree.flatten(carry)
    start = jax.tree.leaves(cell.initial_carry(params, batch_shape)) if resets is not None else first
    before: list[Array] = [jnp.broadcast_to(leaf, (steps, *leaf.shape)) for leaf in first]  # c_{t-1}, as solved so far
    after: list[Array] = list(before)
    run = jax.vmap(cell.step, (None, 0, 0))
    for group in linear.groups:

        def updates(states: list[Array], group: Group = group) -> list[Array]:
            """The leaves of the group after each step, from the leaves before it."""
            given = list(before)
            for i, state in zip(group.leaves, states, strict=True):
                given[i] = state
            new = jax.tree.leaves(run(params, tree.unflatten(given), xs)[0])
            return [new[i] for i in group.leaves]

        here = [(first[i], start[i]) for i in group.leaves]
        if group.summands is None:
            solved = _solve_affine(updates, here, steps, counts, resets)
        else:
            a, b = _summands(linear, params, tree, before, xs, group)
            solved = [_solve_maximum(a, b, *here[0], counts, resets)]
        for i, states in zip(group.leaves, solved, strict=True):
            after[i] = states = _held(states, first[i], counts, resets)
            moved = jnp.concatenate([first[i][None], states[:-1]])
            reset_to = jnp.broadcast_to(start[i], moved.shape)
            before[i] = moved if resets is None else select(resets, reset_to, moved)
    _, ys = run(params, tree.unflatten(before), xs)
    if counts is not None:
        ys = select(counts, ys, jax.tree.map(jnp.zeros_like, ys))
    last = tree.unflatten([states[-1] for states in after])
    found = (ys, tree.unflatten(after))
    return last, jax.tree.map(lambda leaf: jnp.flip(leaf, 0), found) if masks.reverse else found


def _held(states: Array, first: Array, counts: Array | None, resets: Array | None) -> Array:
    """The states with those of masked steps equal to the last ones before, to the bit.

    A scan adds the same numbers up in another order at each step, so it holds a state only up to rounding.
    """
    if counts is None:
        return states
    steps = jnp.arange(states.shape[0]).reshape(-1, *(1 for _ in counts.shape[1:]))
    changes = counts if resets is None else counts | resets
    last = lax.cummax(jnp.where(changes, steps + 1, jnp.zeros_like(steps)), axis=0)
    last = last.reshape(*last.shape, *(1 for _ in range(states.ndim - last.ndim)))
    return jnp.take_along_axis(jnp.concatenate([first[None], states]), last, axis=0)


def _solve_affine(
    updates: Any, here: list[tuple[Array, Array]], steps: int, counts: Array | None, resets: Array | None
) -> list[Array]:
    """All c_t of c_t = A_t c_{t-1} + b_t, elementwise; A_t is a matrix over the leaves of a group."""
    zeros = [jnp.zeros((steps, *first.shape), first.dtype) for first, _ in here]
    b, push = jax.linearize(updates, zeros)
    count = range(len(here))
    columns = [push([jnp.ones_like(z) if i == j else z for i, z in enumerate(zeros)]) for j in count]
    a = [[columns[j][i] for j in count] for i in count]
    if counts is not None:
        for i in count:
            b[i] = select(counts, b[i], zeros[i])
            for j in count:
                a[i][j] = select(counts, a[i][j], jnp.ones_like(zeros[i]) if i == j else zeros[i])

    def restarted(flags: Array | None, starts: list[Array], a: Any, b: Any) -> tuple[Any, Any]:
        """A = 0 and b = A c + b at flagged steps, where the state before the step is known."""
        there = [b[i] + _sum([a[i][j] * starts[j] for j in count]) for i in count]
        if flags is None:
            return [[jnp.zeros_like(x) for x in row] for row in a], there
        a = [[select(flags, jnp.zeros_like(x), x) for x in row] for row in a]
        return a, [select(flags, there[i], b[i]) for i in count]

    if resets is not None:
        a, b = restarted(
            resets, [jnp.broadcast_to(start, z.shape) for (_, start), z in zip(here, zeros, strict=True)], a, b
        )
    head = jax.tree.map(lambda leaf: leaf[:1], (a, b))
    head = restarted(None, [first[None] for first, _ in here], *head)
    a, b = jax.tree.map(lambda one, all_: jnp.concatenate([one, all_[1:]]), head, (a, b))

    def combine(earlier: Any, later: Any) -> Any:
        (a_1, b_1), (a_2, b_2) = earlier, later
        a = [[_sum([a_2[i][k] * a_1[k][j] for k in count]) for j in count] for i in count]
        return a, [b_2[i] + _sum([a_2[i][k] * b_1[k] for k in count]) for i in count]

    return lax.associative_scan(combine, (a, b))[1]


def _solve_maximum(a: Array, b: Array, first: Array, start: Array, counts: Array | None, resets: Array | None) -> Array:
    """All c_t of c_t = max(c_{t-1} + a_t, b_t), elementwise."""
    never = jnp.full_like(a, -jnp.inf)
    if counts is not None:
        a, b = select(counts, a, jnp.zeros_like(a)), select(counts, b, never)
    if resets is not None:
        b = select(resets, jnp.maximum(jnp.broadcast_to(start, a.shape) + a, b), b)
        a = select(resets, never, a)
    b = jnp.concatenate([jnp.maximum(first[None] + a[:1], b[:1]), b[1:]])
    a = jnp.concatenate([never[:1], a[1:]])

    def combine(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] + later[0], jnp.maximum(earlier[1] + later[0], later[1])

    return lax.associative_scan(combine, (a, b))[1]


def _summands(
    linear: Linear, params: PyTree, tree: Any, before: list[Array], xs: Array, group: Group
) -> tuple[Array, Array]:
    """a_t and b_t of a maximum, for all steps: its two operands where c is zero."""
    assert group.summands is not None
    program, (place,) = linear.program, group.leaves
    equations = needed_for(group.summands, program.equations)

    def of_row(leaves: list[Array], x: Array) -> tuple[Array, Array]:
        inputs = [*jax.tree.leaves(params), *leaves, x]
        env = dict(zip(program.inputs, inputs, strict=True)) | dict(
            zip(program.closed_over, linear.closed_over, strict=True)
        )
        evaluate(equations, env)
        a, b = (value_in(env, v) for v in group.summands or ())
        return a, b

    leaves = [jnp.zeros_like(leaf) if i == place else leaf for i, leaf in enumerate(before)]
    run = of_row
    for _ in xs.shape[: xs.ndim - len(program.inputs[-1].shape)]:
        run = jax.vmap(run)
    return run(leaves, xs)


def _sum(terms: list[Array]) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
