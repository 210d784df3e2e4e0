"""Splits a step into gates and products with the carry, for measurements that treat them separately.

r_i = m_i W_i        m_1 = a leaf of the carry, or, like every later m_i, a value computed in the step
carry_t = gates(carry_{t-1}, x_t, r_1, r_2, ...)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax._unroll.equations import evaluate, value_in
from rnnjax._unroll.reading import NOTHING_LEAVES, Product, read
from rnnjax.cell import Cell, PyTree
from rnnjax.gradients.sequence import accurate_rules


class Stages:
    """The step of a cell for one row and given parameters, split into gates and products; carries are lists of leaves.

    Raises:
      TypeError: the step cannot be split.
    """

    def __init__(self, cell: Cell, params: PyTree, carry: PyTree, x: Array, batch_ndim: int):
        """`carry` and `x` have `batch_ndim` batch axes."""

        def row(leaf: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape[batch_ndim:], leaf.dtype)

        found = read(cell, params, jax.tree.map(row, carry), row(x), batched=batch_ndim > 0, together=False)
        obstacle = found.reading.only_scan or found.reading.own_rule
        if obstacle is not None and obstacle != NOTHING_LEAVES:
            raise TypeError(f"{cell!r} has a step that cannot be split into gates and products: {obstacle}.")
        self.reading, self.closed_over = found
        self.fixed = self.reading.fixed_values(params, self.closed_over)
        self.rules = accurate_rules(self.reading.inside)

    @property
    def products(self) -> list[Product]:
        return self.reading.products

    def run(self, carry: list[Any], x: Any, rs: list[Any] | None = None) -> tuple[list[Any], list[Any], list[Any]]:
        """`(carry_t, left operands of the products, results of the products)`; `rs` replaces the results, if given."""
        reading = self.reading
        env: dict[Any, Any] = dict(zip(reading.fixed, self.fixed, strict=True))
        env.update(zip(reading.carry, carry, strict=True))
        env[reading.x] = x
        if rs is not None:
            env.update([(p.out, r) for p, r in zip(reading.products, rs, strict=True)])
        evaluate([*reading.ahead, *reading.inside], env, rules=self.rules)
        new = [value_in(env, v) for v in reading.carry_outs]
        return new, [env[p.left] for p in reading.products], [env[p.out] for p in reading.products]

    def weights(self, params: PyTree) -> list[list[Array]]:
        """The weights and biases of each product, for these parameters."""
        values = dict(zip(self.reading.fixed, self.reading.fixed_values(params, self.closed_over), strict=True))
        return [[values[v] for v in p.fixed] for p in self.products]


def linear_product(product: Product, dm: Array, fixed: list[Array]) -> Array:
    """dm W, without the bias."""
    by_value = dict(zip(product.fixed, fixed, strict=True))

    def run(m: Array) -> Array:
        return product.equation.run(*[m if v is product.left else by_value[v] for v in product.equation.inputs])[0]

    return jax.jvp(run, (jnp.zeros_like(dm),), (dm,))[1]
