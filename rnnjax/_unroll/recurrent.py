"""Finds what multiplies the carry in a step: the recurrent weights, by the equations and not by their names.

A factor is a value of parameters alone, in a product with a value that depends on the carry, on a path from the carry
back to itself. A chain of products that is linear in the carry, as in h U V, has one factor, its first; after a
nonlinear function the next product has another one, as each depth of a recurrent highway cell. If some factors of a
state are parameters, or linear in one (a slice, W - Wᵀ, a masked W), only these count, and the parameter is what can be
scaled; otherwise values computed from parameters do, as the eigenvalues exp(-exp(ν) + i exp(θ)) of a linear recurrent
unit. States that depend on each other count as one, the layers of a stack do not.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array

from rnnjax._unroll.equations import LAYOUT, Equation, Program, Value, evaluate, needed_for, traced, value_in
from rnnjax.cell import PyTree

PRODUCTS = ("dot_general", "mul", "conv_general_dilated")
_AS_IT_IS = LAYOUT | {"transpose", "convert_element_type", "copy", "copy_p", "stop_gradient", "rev", "pvary"}
_LINEAR = _AS_IT_IS | {"add", "sub", "neg", "reduce_sum", "select_n", "dynamic_slice", "gather", "cumsum"}
_HIDDEN = ("scan", "while", "cond", "custom_jvp_call", "custom_vjp_call")
"""What has equations of its own inside, which are not read."""

_COPY, _LINEAR_IN_ONE, _COMPUTED = range(3)


class Factor(NamedTuple):
    """One product with the carry.

    Attributes:
      equation: the product.
      weight: its operand that depends on parameters alone.
      leaves: the leaves of the parameters that `weight` depends on.
      kind: how: the leaf itself up to its layout, linear in it, or computed from several or nonlinearly.
      states: the leaves of the carry that it multiplies and to which the product returns.
    """

    equation: Equation
    weight: Value
    leaves: frozenset[int]
    kind: int
    states: frozenset[int]

    @property
    def is_copy(self) -> bool:
        """Whether the factor is (a part of) a parameter as it is."""
        return self.kind == _COPY


class Factors(NamedTuple):
    """The step's program, and its factors."""

    program: Program
    closed_over: list[Array]
    result: PyTree
    factors: list[Factor]

    def scaled(self, inputs: Sequence[Any], scale: Array) -> PyTree:
        """The result of the step with every parameter that is a factor, or else every factor, times `scale`."""
        inputs, rules = list(inputs), {}
        for factor in self.factors:
            if factor.kind == _COMPUTED:
                rules[factor.equation.output] = _with_scale(factor, scale)
        for i in {i for factor in self.factors if factor.kind < _COMPUTED for i in factor.leaves}:
            inputs[i] = inputs[i] * scale.astype(inputs[i].dtype)
        env = dict(zip(self.program.inputs, inputs, strict=True))
        env.update(zip(self.program.closed_over, self.closed_over, strict=True))
        evaluate(self.program.equations, env, rules=rules)
        return jax.tree.unflatten(jax.tree.structure(self.result), [value_in(env, out) for out in self.program.outputs])


def _with_scale(factor: Factor, scale: Array) -> Callable[..., Array]:
    place = factor.equation.inputs.index(factor.weight)

    def run(*values: Array) -> Array:
        weight = values[place] * scale.astype(values[place].dtype)
        return factor.equation.run(*values[:place], weight, *values[place + 1 :])[0]

    return run


def find_factors(step: Callable[..., PyTree], params: PyTree, carry: PyTree, x: Any) -> Factors:
    """Reads the factors of `step(params, carry, x)`.

    Raises:
      ValueError: a product with the carry may be inside of a loop, a branch or a function with a derivative of its own.
    """
    program, closed_over, result, _ = traced(step, params, carry, x)
    n_params, n_carry = len(jax.tree.leaves(params)), len(jax.tree.leaves(carry))
    ins, outs = program.inputs[n_params : n_params + n_carry], program.outputs[:n_carry]
    needs = [_depends_on(program, out) for out in outs]
    reaches = _reached_in_time(needs, ins)
    fixed = {v: (frozenset([i]), _COPY) for i, v in enumerate(program.inputs[:n_params])}
    carried = {v: frozenset([i]) for i, v in enumerate(ins)}  # the leaves of the carry on which a value depends
    in_product: set[Value] = set()  # values that are linear in a product found before
    others = set(program.inputs[n_params + n_carry :])
    found: list[Factor] = []
    for eqn in program.equations:
        through = [v for v in eqn.inputs if v in carried]
        if not through:
            if others.isdisjoint(eqn.inputs):
                _follow(eqn, fixed)
            else:
                others.update(eqn.outputs)
            continue
        weights = [v for v in eqn.inputs if v in fixed]
        leaves = frozenset().union(*[carried[v] for v in through])
        inside = any([v in in_product for v in through])
        if eqn.name in _HIDDEN and weights:
            raise ValueError(
                f"`{eqn.name}` in the step gets both parameters and the carry, so the products in it cannot be found; "
                "write it without (a loop in Python, for example), or give the cell a `knob`."
            )
        if eqn.name in PRODUCTS and len(through) == 1 and weights:
            back = frozenset().union(*[reaches[j] & leaves for j, need in enumerate(needs) if eqn.output in need])
            if back and not inside:
                found.append(Factor(eqn, weights[0], *fixed[weights[0]], back))
            inside = True
        elif eqn.name not in _LINEAR and (len(through) > 1 or eqn.name not in (*PRODUCTS, "div")):
            inside = False
        carried.update(dict.fromkeys(eqn.outputs, leaves))
        if inside:
            in_product.update(eqn.outputs)
    scalable = frozenset().union(*[factor.states for factor in found if factor.kind < _COMPUTED])
    scalable = scalable.union(*[reaches[i] & {j for j in range(n_carry) if i in reaches[j]} for i in scalable])
    factors = [factor for factor in found if factor.kind < _COMPUTED or scalable.isdisjoint(factor.states)]
    return Factors(program, closed_over, result, factors)


def _follow(eqn: Equation, fixed: dict[Value, tuple[frozenset[int], int]]) -> None:
    """Notes of a value of parameters alone which leaves it comes from, and how."""
    known = [fixed[v] for v in eqn.inputs if v in fixed]
    if not known:
        return
    leaves, kind = frozenset().union(*[leaf for leaf, _ in known]), max([kind for _, kind in known])
    if eqn.name not in _AS_IT_IS or len(known) > 1:
        by_number = eqn.name in PRODUCTS or eqn.name == "div"
        linear = eqn.name in _LINEAR or (by_number and len(known) == 1 and eqn.inputs[0] in fixed)
        linear = linear or (eqn.name == "mul" and len(known) == 1)
        kind = max(kind, _LINEAR_IN_ONE) if linear and len(leaves) == 1 else _COMPUTED
    fixed.update(dict.fromkeys(eqn.outputs, (leaves, kind)))


def _depends_on(program: Program, out: Value) -> set[Value]:
    return {v for eqn in needed_for([out], program.equations) for v in eqn.inputs} | {out}


def _reached_in_time(needs: Sequence[set[Value]], ins: Sequence[Value]) -> list[frozenset[int]]:
    """For each leaf of the carry, the leaves that it reaches in this step or in later ones, itself included."""
    count = range(len(ins))
    reaches = [{i} | {j for j in count if ins[i] in needs[j]} for i in count]
    for _ in count:  # the transitive closure
        reaches = [own | {k for j in own for k in reaches[j]} for own in reaches]
    return [frozenset(own) for own in reaches]
