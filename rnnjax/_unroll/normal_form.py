"""Rewrites equivalent steps into one form, which shows what can leave the time loop.

    concatenate([x, h]) @ w       becomes  x @ w[:D] + h @ w[D:]
    w @ h, einsum, h @ w.T        becomes  h @ w
    h @ w_r, h @ w_z              becomes  one product h @ [w_r, w_z], then split; the same for x, and for casts of both
    (x @ w_x + h @ w_h) + b       becomes  (x @ w_x + b) + h @ w_h: terms without the carry are added first
    h @ w_h + b                   becomes  one product with a bias, also if the bias is added to one gate only
    σ(x)                          becomes  ½ + ½ tanh(x / 2); if all blocks of an array go through σ or tanh, one tanh

Values change at most by rounding. The last rewrite is for speed: inside a loop, launching a kernel costs as much as
running it, and XLA vectorises one kernel over `[B, nH]` much better than n kernels that each slice out `[B, H]`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnjax._unroll.equations import (
    Equation,
    Program,
    Value,
    add,
    cut,
    joined,
    matmul,
    needed_for,
    part,
    transpose,
    users_of,
)

PARAMS, CARRY, X = 1, 2, 4
"""What a value depends on, as a bit mask."""


class Colours(dict[Value, int]):
    """The dependencies of each value; a value that is not in the dict has none."""

    def __init__(self, program: Program, n_params: int, n_carry: int):
        super().__init__()
        for i, value in enumerate(program.inputs):
            self[value] = PARAMS if i < n_params else CARRY if i < n_params + n_carry else X
        self.update(dict.fromkeys(program.closed_over, PARAMS))
        self.see(program.equations)

    def see(self, equations: Sequence[Equation]) -> None:
        for eqn in equations:
            mask = 0
            for value in eqn.inputs:
                mask |= self.get(value, 0)
            self.update(dict.fromkeys(eqn.outputs, mask))

    def carried(self, value: Value) -> bool:
        return bool(self.get(value, 0) & CARRY)

    def fixed(self, value: Value) -> bool:
        """Whether it depends on nothing but parameters."""
        return not self.get(value, 0) & (CARRY | X)


class Activation(NamedTuple):
    """t = tanh(scaled), which replaces the σ and tanh of all blocks of an array."""

    scaled: Value
    t: Value


def normalise(
    program: Program, n_params: int, n_carry: int, together: bool
) -> tuple[Program, Colours, list[Activation]]:
    """Rewrites the equations of one row's step; inputs and outputs do not change."""
    colours = Colours(program, n_params, n_carry)
    equations = needed_for(program.outputs, program.equations)
    equations, outputs = _one_cast_of_each_value(equations, list(program.outputs))
    equations = _plain_products(equations, colours)
    equations = _one_product_for_one_left_side(equations, colours)
    equations = _sums_without_carry_first(equations, colours, outputs)
    equations, outputs = _biases_into_products(equations, colours, outputs)
    equations = _cuts_first(equations, colours, outputs)
    equations = _sums_of_whole_products(equations, colours, outputs)
    activations: list[Activation] = []
    if together:
        equations, outputs, activations = _activations_together(equations, colours, outputs)
    return Program(needed_for(outputs, equations), program.inputs, program.closed_over, outputs), colours, activations


def _one_cast_of_each_value(equations: Sequence[Equation], outputs: list[Value]) -> tuple[list[Equation], list[Value]]:
    """Merges equal casts: in mixed precision, each product of a state may cast it anew."""
    casts: dict[tuple[Value, str], Value] = {}
    names: dict[Value, Value] = {}
    for eqn in equations:
        if eqn.name == "convert_element_type":
            first = casts.setdefault((eqn.inputs[0], str(eqn.params)), eqn.output)
            if first is not eqn.output:
                names[eqn.output] = first
    return _rename([eqn for eqn in equations if eqn.output not in names], outputs, names)


def _plain_products(equations: Sequence[Equation], colours: Colours) -> list[Equation]:
    """Rewrites every product of a vector with a fixed matrix as `matmul(x, w)`, and splits concatenations."""
    made = {eqn.output: eqn for eqn in equations if eqn.name == "concatenate"}
    found: list[Equation] = []

    def emit(*new: Equation) -> Value:
        colours.see(new)
        found.extend(new)
        return new[-1].output

    for eqn in equations:
        sides = _vector_and_matrix(eqn, colours) if eqn.name == "dot_general" else None
        if sides is None:
            found.append(eqn)
            continue
        x, w, contracted = sides
        if contracted == 1:
            w = emit(transpose(w))
        parts = made[x].inputs if x in made else [x]
        if len({colours.get(v, 0) & (CARRY | X) for v in parts}) < 2:
            emit(_times(x, w, eqn, colours, eqn.output))
            continue
        start, total = 0, None
        for i, v in enumerate(parts):
            rows = emit(part(w, start, start + v.shape[0], 0))
            start += v.shape[0]
            product = emit(_times(v, rows, eqn, colours))
            last = i == len(parts) - 1
            total = product if total is None else emit(add(total, product, eqn.output if last else None))
    return found


def _vector_and_matrix(eqn: Equation, colours: Colours) -> tuple[Value, Value, int] | None:
    """x, w and the contracted axis of w, if the equation is a product of a vector and a fixed matrix."""
    (left, right), batch = eqn.params["dimension_numbers"]
    (a, b), batched = eqn.inputs, batch != ((), ())
    for x, w, axes in ((a, b, right), (b, a, left)):
        plain = not batched and len(axes) == 1 and len(x.shape) == 1 and len(w.shape) == 2
        if plain and x.constant is None and w.constant is None and colours.fixed(w) and not colours.fixed(x):
            return x, w, int(axes[0])
    return None


def _times(x: Value, w: Value, like: Equation, colours: Colours, out: Value | None = None) -> Equation:
    """x @ w; a single feature is multiplied by its row, which is elementwise and so may stay in the loop."""
    if x.shape == (1,) and not colours.carried(x) and x.dtype == w.dtype == like.output.dtype:
        out = out or Value(w.shape[1:], w.dtype)
        return Equation("feature", [x, w], [out], lambda x, w: (x * w[0],))
    return matmul(x, w, like, out)


def _one_product_for_one_left_side(equations: Sequence[Equation], colours: Colours) -> list[Equation]:
    """Merges products of the same vector with several matrices into one, which is then split."""
    groups: dict[tuple, list[Equation]] = {}
    for eqn in equations:
        if eqn.name in ("matmul", "feature"):
            w = eqn.inputs[1]
            key = (eqn.name, eqn.inputs[0], w.dtype, eqn.output.dtype, str(eqn.params.get("precision")))
            groups.setdefault(key, []).append(eqn)
    merged: dict[Equation, list[Equation]] = {}
    dropped: set[Equation] = set()
    for group in groups.values():
        if len(group) < 2:
            continue
        weight = joined([eqn.inputs[1] for eqn in group], axis=1)
        product = Equation(
            group[0].name,
            [group[0].inputs[0], weight.output],
            [Value(weight.output.shape[1:], group[0].output.dtype)],
            group[0].run,
            group[0].params,
        )
        merged[group[0]] = [weight, product, cut(product.output, [eqn.output for eqn in group])]
        colours.see(merged[group[0]])
        dropped.update(group[1:])
    # a matrix may be computed after the first product, so fixed equations go first
    found, others = _fixed_first(equations, colours)
    for eqn in others:
        if eqn not in dropped:
            found.extend(merged.get(eqn, [eqn]))
    return found


def _fixed_first(equations: Sequence[Equation], colours: Colours) -> tuple[list[Equation], list[Equation]]:
    """The equations that depend only on parameters, and the others."""
    varies = CARRY | X
    return (
        [eqn for eqn in equations if not colours.get(eqn.output, 0) & varies],
        [eqn for eqn in equations if colours.get(eqn.output, 0) & varies],
    )


def _sums_without_carry_first(
    equations: Sequence[Equation], colours: Colours, outputs: Sequence[Value]
) -> list[Equation]:
    """In a sum of several terms, adds those without the carry first, so that they leave the loop."""
    users = users_of(equations)
    sums = {}
    for eqn in equations:
        alike = all([v.shape == eqn.output.shape and v.constant is None for v in eqn.inputs]) if eqn.outputs else False
        if eqn.name == "add" and alike and colours.carried(eqn.output):
            sums[eqn.output] = eqn
    products = {v for eqn in equations if eqn.name == "matmul" for v in _blocks_of(eqn, users)}
    inner = {v for v, eqn in sums.items() if v not in outputs and [u.output in sums for u in users[v]] == [True]}

    def terms(eqn: Equation) -> list[Value]:
        found = []
        for v in eqn.inputs:
            found.extend(terms(sums[v]) if v in inner else [v])
        return found

    found = []
    for eqn in equations:
        if eqn.output not in sums:
            found.append(eqn)
            continue
        if eqn.output in inner:
            continue
        all_terms = terms(eqn)
        free = [v for v in all_terms if not colours.carried(v)]
        free.sort(key=lambda v: -colours.get(v, 0))  # values from the input first, then parameters
        bound = [v for v in all_terms if colours.carried(v)]
        new: list[Equation] = []

        def total(values: list[Value], out: Value | None = None, new: list[Equation] = new) -> Value:
            result = values[0]
            for i, v in enumerate(values[1:], start=2):
                new.append(add(result, v, out if i == len(values) else None))
                result = new[-1].output
            return result

        if free and all([colours.fixed(v) for v in free]):  # next to a product, which will absorb it
            bound.sort(key=lambda v: v not in products)
            total([bound[0], total(free), *bound[1:]], eqn.output)
        elif free:
            total([total(free), total(bound)], eqn.output)
        else:
            total(bound, eqn.output)
        colours.see(new)
        found.extend(new)
    return found


def _blocks_of(product: Equation, users: dict[Value, list[Equation]]) -> list[Value]:
    """A product, and the blocks into which it is split."""
    return [product.output, *[v for eqn in users.get(product.output, []) if eqn.name == "split" for v in eqn.outputs]]


def _biases_into_products(
    equations: Sequence[Equation], colours: Colours, outputs: Sequence[Value]
) -> tuple[list[Equation], list[Value]]:
    """Moves fixed values that are added to a product, or to a block of it, into the product as its bias."""
    users = users_of(equations)
    outputs = list(outputs)
    renamed: dict[Value, Value] = {}
    biases: dict[Equation, list[Equation]] = {}  # the equations of each product's bias
    dropped: set[Equation] = set()

    def added(value: Value) -> tuple[Equation, Value] | None:
        """The only equation that reads `value`, if it adds a fixed value to it; and that value."""
        reads = users.get(value, [])
        if value in outputs or len(reads) != 1 or reads[0].name != "add":
            return None
        others = [v for v in reads[0].inputs if v is not value]
        if len(others) == 1 and others[0].shape == value.shape and colours.fixed(others[0]):
            return reads[0], others[0]
        return None

    for eqn in equations:
        if eqn.name != "matmul" or not colours.carried(eqn.output):
            continue
        reads = users.get(eqn.output, [])
        whole = added(eqn.output)
        if whole is not None:
            biases[eqn] = []
            eqn.inputs.append(whole[1])
            renamed[whole[0].output] = eqn.output
            dropped.add(whole[0])
        elif len(reads) == 1 and reads[0].name == "split" and eqn.output not in outputs:
            found = [added(block) for block in reads[0].outputs]
            if any(found):
                dtype = eqn.output.dtype
                pieces = [
                    one[1] if one else Value(block.shape, dtype, np.zeros(block.shape, dtype))
                    for one, block in zip(found, reads[0].outputs, strict=True)
                ]
                biases[eqn] = [joined(pieces, axis=0)]
                eqn.inputs.append(biases[eqn][0].output)
                for one, block in zip(found, reads[0].outputs, strict=True):
                    if one:
                        renamed[one[0].output] = block
                        dropped.add(one[0])
    for eqn, made in biases.items():
        colours.see(made)
        times = eqn.run
        eqn.run = lambda x, w, b, times=times: (lax.add(times(x, w)[0], b),)
        eqn.name = "matmul"
    before = [eqn for made in biases.values() for eqn in made]
    fixed, others = _fixed_first([eqn for eqn in equations if eqn not in dropped], colours)
    kept = [*fixed, *before, *others]
    return _rename(kept, outputs, renamed)


def _rename(
    equations: list[Equation], outputs: list[Value], names: dict[Value, Value]
) -> tuple[list[Equation], list[Value]]:
    if names:
        for eqn in equations:
            eqn.inputs = [names.get(v, v) for v in eqn.inputs]
        outputs = [names.get(v, v) for v in outputs]
    return equations, outputs


def _cuts_first(equations: Sequence[Equation], colours: Colours, outputs: Sequence[Value]) -> list[Equation]:
    """If a product goes through elementwise equations and is split afterwards, splits it first."""
    equations = list(equations)
    for split in [eqn for eqn in equations if eqn.name == "split" and colours.carried(eqn.output)]:
        users = users_of(equations)
        made = {v: eqn for eqn in equations for v in eqn.outputs}
        chain: list[Equation] = []
        value = split.inputs[0]
        while (
            (below := _elementwise_of_one(made.get(value), colours)) and len(users[value]) == 1 and value not in outputs
        ):
            chain.append(made[value])
            value = below
        parent = made.get(value)
        if not chain or parent is None or parent.name != "split" or len(users[value]) != 1 or value in outputs:
            continue
        if parent.inputs[0] not in made or made[parent.inputs[0]].name != "matmul":
            continue
        sizes = [v.shape[0] for v in split.outputs]
        blocks = [Value((size,), value.dtype) for size in sizes]
        at = parent.outputs.index(value)
        whole = cut(parent.inputs[0], [*parent.outputs[:at], *blocks, *parent.outputs[at + 1 :]])
        new: list[Equation] = []
        for i, eqn in enumerate(reversed(chain)):
            last = i == len(chain) - 1
            results = list(split.outputs) if last else [Value((size,), eqn.output.dtype) for size in sizes]
            sides: list[list[Value]] = []
            for v in eqn.inputs:
                if colours.carried(v):
                    sides.append(blocks)
                elif v.constant is not None or v.shape == ():
                    sides.append([v] * len(sizes))
                else:
                    sides.append([Value((size,), v.dtype) for size in sizes])
                    new.append(cut(v, sides[-1]))
            for row, result in zip(zip(*sides, strict=True), results, strict=True):
                new.append(Equation(eqn.name, row, [result], eqn.run, eqn.params))
            blocks = results
        colours.see([whole, *new])
        kept = []
        for eqn in equations:
            if eqn is split:
                kept += new
            elif eqn not in chain:
                kept.append(whole if eqn is parent else eqn)
        equations = kept
    return equations


def _elementwise_of_one(eqn: Equation | None, colours: Colours) -> Value | None:
    """The only input that needs the carry, if the equation is elementwise on vectors."""
    if eqn is None or eqn.name not in _SIMPLE_ELEMENTWISE:
        return None
    carried = [v for v in eqn.inputs if colours.carried(v)]
    alike = all([v.shape in ((), eqn.output.shape) for v in eqn.inputs])
    return carried[0] if alike and len(carried) == 1 and carried[0].shape == eqn.output.shape else None


_SIMPLE_ELEMENTWISE = frozenset(["add", "sub", "mul", "neg", "logistic", "tanh"])


def _sums_of_whole_products(
    equations: Sequence[Equation], colours: Colours, outputs: Sequence[Value]
) -> list[Equation]:
    """If values without the carry are added to every block of a product, adds them to the product before the split."""
    users = users_of(equations)
    made = {v: eqn for eqn in equations for v in eqn.outputs}
    found = list(equations)
    for product in [eqn for eqn in equations if eqn.name == "matmul" and colours.carried(eqn.output)]:
        reads = users.get(product.output, [])
        if len(reads) != 1 or reads[0].name != "split" or product.output in outputs:
            continue
        sums = [users.get(block, []) for block in reads[0].outputs]
        if any([len(s) != 1 or s[0].name != "add" for s in sums]) or any([b in outputs for b in reads[0].outputs]):
            continue
        adds = [s[0] for s in sums]
        free = [next((v for v in eqn.inputs if not colours.carried(v)), None) for eqn in adds]
        if len(adds) < 2 or any([v is None or v.shape != eqn.output.shape for v, eqn in zip(free, adds, strict=True)]):
            continue
        new, terms = _joined_or_whole([v for v in free if v is not None], made, colours)
        total = add(terms, product.output)
        new += [total, cut(total.output, [eqn.output for eqn in adds])]
        colours.see(new)
        first = min([found.index(eqn) for eqn in adds])
        found[first:first] = new
        found = [eqn for eqn in found if eqn not in adds and eqn is not reads[0]]
    return found


def _joined_or_whole(
    values: list[Value], made: dict[Value, Equation], colours: Colours
) -> tuple[list[Equation], Value]:
    """Concatenates blocks; all blocks of one product, or their sums with fixed values, are that product, or one sum."""

    def whole(blocks: list[Value]) -> Value | None:
        split = made.get(blocks[0])
        return split.inputs[0] if split and split.name == "split" and list(split.outputs) == blocks else None

    eqns = [made.get(v) for v in values]
    if all([eqn is not None and eqn.name == "add" and len(eqn.inputs) == 2 for eqn in eqns]):
        blocks, biases = zip(*[sorted(eqn.inputs, key=colours.fixed) for eqn in eqns if eqn is not None], strict=True)
        product = whole(list(blocks))
        if product is not None and all(map(colours.fixed, biases)):
            bias = joined(biases, axis=0)
            total = add(product, bias.output)
            return [bias, total], total.output
    product, together = whole(values), joined(values, axis=0)
    return ([], product) if product is not None else ([together], together.output)


def _activations_together(
    equations: Sequence[Equation], colours: Colours, outputs: Sequence[Value]
) -> tuple[list[Equation], list[Value], list[Activation]]:
    """Rewrites σ and tanh of values that need the carry as tanh, and those of all blocks of one array as one tanh."""
    users = users_of(equations)
    made = {v: eqn for eqn in equations for v in eqn.outputs}
    bent = {eqn.output: eqn for eqn in equations if _bends(eqn, colours)}
    activations: list[Activation] = []
    replaced: dict[Equation, list[Equation]] = {}
    gone: set[Equation] = set()

    def as_tanh(x: Value, bends: list[Equation], widths: list[int]) -> list[Equation]:
        sigmoid = [eqn.name == "logistic" for eqn in bends]
        new = []
        if any(sigmoid):
            scale = np.repeat(np.where(sigmoid, 0.5, 1.0), widths).astype(x.dtype) if not all(sigmoid) else 0.5
            new.append(Equation("scale", [x], [Value(x.shape, x.dtype)], lambda x: (x * scale,)))
        scaled = new[-1].output if new else x
        single = len(bends) == 1
        t = bends[0].output if single and not sigmoid[0] else Value(x.shape, x.dtype)
        new.append(Equation("tanh", [scaled], [t], lambda x: (jnp.tanh(x),)))
        activations.append(Activation(scaled, t))
        blocks = (
            [t]
            if single
            else [
                Value((width,), x.dtype) if s else eqn.output
                for eqn, width, s in zip(bends, widths, sigmoid, strict=True)
            ]
        )
        if not single:
            new.append(cut(t, blocks))
        for eqn, block, s in zip(bends, blocks, sigmoid, strict=True):
            if s:
                new.append(Equation("shift", [block], [eqn.output], lambda t: (0.5 * t + 0.5,)))
        return new

    for x, reads in users.items():
        tiles = _tiles(x, reads) if x in made and colours.carried(x) and x not in outputs else None
        if tiles is None or len(tiles) < 2:
            continue
        after = [users.get(tile, []) for tile in tiles]
        bends = [eqns[0] for eqns in after if len(eqns) == 1 and eqns[0].output in bent]
        if len(bends) == len(tiles) and not any([tile in outputs for tile in tiles]):
            replaced[min(bends, key=equations.index)] = as_tanh(x, bends, [tile.shape[0] for tile in tiles])
            gone.update([*reads, *bends])
    for eqn in equations:
        if eqn.output in bent and eqn not in gone and eqn not in replaced:
            replaced[eqn] = as_tanh(eqn.inputs[0], [eqn], [eqn.output.shape[0]])
    found: list[Equation] = []
    for eqn in equations:
        if eqn in replaced:
            found.extend(replaced[eqn])
        elif eqn not in gone:
            found.append(eqn)
    colours.see(found)
    return found, list(outputs), activations


def _bends(eqn: Equation, colours: Colours) -> bool:
    return (
        eqn.name in ("logistic", "tanh")
        and colours.carried(eqn.output)
        and len(eqn.output.shape) == 1
        and eqn.inputs[0].constant is None
        and jnp.issubdtype(eqn.output.dtype, jnp.floating)
        and eqn.params.get("accuracy") is None
    )


def _tiles(value: Value, reads: Sequence[Equation]) -> list[Value] | None:
    """The blocks into which a vector is split, in order, if they tile it and it has no other use."""
    if len(value.shape) != 1 or any([eqn.name not in ("split", "slice") for eqn in reads]):
        return None
    pieces = []
    for eqn in reads:
        starts, sizes = bounds_of(eqn)
        if starts is None:
            return None
        pieces += [(start, start + size, v) for start, size, v in zip(starts, sizes, eqn.outputs, strict=True)]
    pieces.sort(key=lambda piece: piece[0])
    edges = [0, *[stop for _, stop, _ in pieces]]
    return [v for *_, v in pieces] if [p[0] for p in pieces] == edges[:-1] and edges[-1] == value.shape[0] else None


def bounds_of(eqn: Equation) -> tuple[list[int] | None, list[int]]:
    """The starts and sizes of the blocks of a `split` or `slice` of a vector; None if the slice has a stride."""
    if eqn.name == "split":
        sizes = [int(size) for size in eqn.params["sizes"]]
        return [0, *[int(edge) for edge in np.cumsum(sizes)[:-1]]], sizes
    start, stop, strides = (eqn.params[name] for name in ("start_indices", "limit_indices", "strides"))
    if strides is not None and tuple(strides) != (1,):
        return None, []
    return [start[0]], [stop[0] - start[0]]
