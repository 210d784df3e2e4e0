"""Kronecker-factored real-time recurrent learning: the influence of a weight matrix as one random Kronecker product."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.equations import Equation, Program, Value, evaluate, traced, users_of
from rnnjax.cell import Cell, PyTree
from rnnjax.online.moment import LossGradient, Moment, Stepped, in_rows, outcome, row_shapes
from rnnjax.online.rule import Rule, need_key
from rnnjax.online.uoro import balance, linked, norm, signs_of
from rnnjax.online.vectors import flat, floats, merged, reals, unflat


class Factors(NamedTuple):
    """The estimate for a matrix `[M, N]` that multiplies a value a `[M]` of the step: J_t ≈ left ⊗ right on average.

    Attributes:
      left: `[*batch, M]`.
      right: `[*batch, S, N]`.
    """

    left: Array
    right: Array


class Kronecker(NamedTuple):
    """The trace of `KFRTRL`.

    Attributes:
      parts: for each floating parameter, `Factors`, or, for a vector or number, J_t itself, `[*batch, S, *leaf]`; None
        where the state does not depend on it.
      fresh: `[*batch]` booleans, rows whose carry is the initial one.
    """

    parts: list[Any]
    fresh: Array


class Product(NamedTuple):
    """The equation of a product a W, the vector a, and the axis of W along which they meet."""

    equation: Equation
    vector: Value
    axis: int

    @property
    def out(self) -> Value:
        return self.equation.output


class _Step(NamedTuple):
    """The step of one row, and in it the products with matrices.

    Attributes:
      program: from the parameters, the state, the carry and the input to the state after the step.
      products: for each parameter its product, or None for a vector or number.
      unused: for each parameter whether the state does not depend on it, as on a read-out's weights.
    """

    program: Program
    closed_over: list[Array]
    products: list[Product | None]
    unused: list[bool]

    def run(self, thetas: list[Array], state: Array, rest: list[Array], added: list[Any]) -> tuple[Array, list[Any]]:
        """The state after the step, with `added` to each product, and each product's a."""
        program = self.program
        env: dict[Value, Any] = dict(zip(program.inputs, [*thetas, state, *rest], strict=True))
        env.update(zip(program.closed_over, self.closed_over, strict=True))
        rules = {
            product.out: lambda *values, run=product.equation.run, more=more: run(*values)[0] + more
            for product, more in zip(self.products, added, strict=True)
            if product is not None
        }
        evaluate(program.equations, env, rules=rules)
        return env[program.outputs[0]], [None if product is None else env[product.vector] for product in self.products]


@dataclasses.dataclass(frozen=True)
class KFRTRL(Rule):
    """Kronecker-factored real-time recurrent learning: J_t of each weight matrix is estimated by one Kronecker product.

    A matrix W is used in one product z = a W of the step, with a the carry, the input, or a value made of them:

        u_t = c1 p1 u_{t-1} + c2 p2 a_t        A_t = c1/p1 D_t A_{t-1} + c2/p2 ∂s_t/∂z_t        E[u_t ⊗ A_t] = J_t

    with two random signs c1, c2 a step and row, and p1, p2 that give both factors one norm. The mean of the gradient is
    exact, with less variance than `UORO`'s, at S times its memory and at the cost of S² N a step. The influence of
    vectors, such as biases, costs no more, so it is kept exactly.

    `step` takes a `key`, or the signs themselves, `[*batch, 2]` of 1.0 and -1.0.

    Reference: Mujika, Meier and Steger, Approximating real-time recurrent learning with random Kronecker factors,
    NeurIPS 2018 (arXiv:1805.10842).
    """

    @property
    def random(self) -> bool:
        return True

    def _start(self, cell: Cell, params: PyTree, batch_shape: tuple[int, ...], input_size: int | None) -> Kronecker:
        carry, x = row_shapes(cell, params, input_size)
        found = _read(cell, params, carry, x)
        state = jax.eval_shape(lambda carry: flat(carry, 0), carry)

        def zeros(*shape: int) -> Array:
            return jnp.zeros(shape, state.dtype)

        def part(theta: Array, product: Product | None, unused: bool) -> Any:
            if unused:
                return None
            if product is None:
                return zeros(*state.shape, *theta.shape)
            return Factors(zeros(*product.vector.shape), zeros(*state.shape, *product.out.shape))

        parts = [part(*each) for each in zip(reals(params), found.products, found.unused, strict=True)]
        return Kronecker(in_rows(parts, batch_shape), jnp.ones(batch_shape, bool))

    def _advance(self, moment: Moment, trace: Kronecker, dloss: LossGradient, key: Array | None) -> Stepped:
        found_step = _read(moment.cell, moment.params, *moment.row_shapes())
        fresh, ndim = moment.fresh(trace.fresh), moment.batch_ndim
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[ndim:], leaf.dtype), trace.parts)
        parts = moment.cleared(trace.parts, none)
        found = outcome(moment, dloss, fresh)
        pairs = zip(found_step.products, parts, found.direct, strict=True)
        further = [
            jnp.zeros_like(direct) if part is None else _pulled(product, found.adjoint, part)
            for product, part, direct in pairs
        ]
        like = jnp.zeros((*moment.batch_shape, 2), found.adjoint.dtype)
        signs = signs_of(need_key(self, key), like)
        after = moment.kept(_updated(moment, found_step, parts, fresh, signs), parts)
        trace = Kronecker(after, moment.kept(jnp.zeros_like(fresh), fresh))
        return Stepped(found.carry, trace, found.gradient(moment.params, further), found.y)


def _pulled(product: Product | None, adjoint: Array, part: Any) -> Array:
    """adjoint J, summed over rows of the batch, in the shape of the parameter."""
    if product is None:
        return jnp.tensordot(adjoint, part, axes=adjoint.ndim)
    of_product = jnp.einsum("...s,...sn->...n", adjoint, part.right)
    rows = part.left.reshape(-1, part.left.shape[-1]), of_product.reshape(-1, of_product.shape[-1])
    whole = rows[0].T @ rows[1]
    return whole if product.axis == 0 else whole.T


def _updated(moment: Moment, step: _Step, parts: list[Any], fresh: Array, signs: Array) -> list[Any]:
    thetas = reals(moment.params)

    def row(carry: PyTree, x: Array, parts: list[Any], fresh: Array, signs: Array) -> list[Any]:
        now, rest = flat(carry, 0), [*jax.tree.leaves(carry), x]
        vectors = [theta for theta, product in zip(thetas, step.products, strict=True) if product is None]

        def after(vectors: list[Array], state: Array, added: list[Any]):
            given = iter(vectors)
            own = [next(given) if p is None else t for t, p in zip(thetas, step.products, strict=True)]
            return step.run(own, linked(moment, own, state, fresh), rest, added)

        zeros = [
            None if p is None else jnp.zeros(p.equation.output.shape, p.equation.output.dtype) for p in step.products
        ]
        _, pull, inputs = jax.vjp(after, vectors, now, zeros, has_aux=True)
        of_vectors, recurrent, of_products = jax.vmap(pull)(jnp.eye(now.size, dtype=now.dtype))
        exact = iter(of_vectors)
        found: list[Any] = []
        for part, left, right in zip(parts, inputs, of_products, strict=True):
            if part is None:
                found.append(None)
                next(exact)
                continue
            if left is None:
                found.append(jnp.tensordot(recurrent, part, axes=1) + next(exact).astype(part.dtype))
                continue
            left, right, pushed = left.astype(now.dtype), right.astype(now.dtype), recurrent @ part.right
            past, present = balance(norm([pushed]), norm([part.left])), balance(norm([right]), norm([left]))
            found.append(
                Factors(
                    signs[0] * past * part.left + signs[1] * present * left,
                    signs[0] / past * pushed + signs[1] / present * right,
                )
            )
        return found

    for _ in moment.batch_shape:
        row = jax.vmap(row)
    return row(moment.carry, moment.inputs.x, parts, fresh, signs)


def _read(cell: Cell, params: PyTree, carry: PyTree, x: Any) -> _Step:
    """The step for one row, and its products with matrices.

    Raises:
      TypeError: a matrix is used otherwise than once, in a product with a vector.
    """

    def after(thetas: list[Array], state: Array, carry: PyTree, x: Array) -> Array:
        return flat(cell.step(merged(thetas, params), unflat(state, carry, 0), x)[0], 0)

    thetas, state = jax.eval_shape(lambda params, carry: (reals(params), flat(carry, 0)), params, carry)
    program, closed_over, _, _ = traced(after, thetas, state, carry, x)
    users = users_of(program.equations)
    at_start, *_ = traced(lambda thetas: flat(cell.initial_carry(merged(thetas, params)), 0), thetas)
    read = {v for eqn in at_start.equations for v in eqn.inputs} | set(at_start.outputs)
    of_start = [value in read for value in at_start.inputs]
    names = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(params) if floats(leaf)]
    products: list[Product | None] = []
    for name, value in zip(names, program.inputs, strict=False):
        uses = users.get(value, [])
        product = _as_product(uses, value)
        products.append(product)
        if len(value.shape) > 1 and product is None and uses:
            raise TypeError(
                f"KF-RTRL needs every matrix to multiply one vector of the step, once, but `params{name}` of {cell!r} "
                f"is used by {', '.join([f'`{eqn.name}`' for eqn in uses])}; use `UORO`, `SnAp` or `RTRL`."
            )
    if any([starts and len(value.shape) > 1 for starts, value in zip(of_start, program.inputs, strict=False)]):
        raise TypeError(f"KF-RTRL needs the initial carry of {cell!r} to depend on vectors of the parameters alone.")
    unused = [value not in users and not starts for starts, value in zip(of_start, program.inputs, strict=False)]
    return _Step(program, closed_over, products, unused)


def _as_product(uses: list[Equation], weight: Value) -> Product | None:
    if len(uses) != 1 or uses[0].name != "dot_general" or len(weight.shape) != 2:
        return None
    (eqn,) = uses
    contracted, batched = eqn.params["dimension_numbers"]
    place = eqn.inputs.index(weight)
    vector = eqn.inputs[1 - place]
    if vector is weight or len(vector.shape) != 1 or batched != ((), ()):
        return None
    return Product(eqn, vector, contracted[place][0])
