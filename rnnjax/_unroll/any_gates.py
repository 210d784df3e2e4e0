"""Hoisting for gates of any kind, such as a layer norm: the products with the input and the weights' gradients leave.

For each product of something that needs the carry with a fixed weight, r_t = m_t W,

    dr_t = dm_t W + m_t dW

The second term enters the loop as the tangent of a summand e_t that is zero, computed for all T in one matmul; its
transpose is the weight's gradient, one matmul too. The rest JAX derives from the scan itself.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax._unroll.equations import Value, evaluate, value_in
from rnnjax._unroll.forward import Inputs, Outputs, ahead
from rnnjax._unroll.masking import select
from rnnjax._unroll.placement import varying_alike
from rnnjax._unroll.reading import Reading


def run_any_gates(
    reading: Reading, inputs: Inputs, rows: tuple[int, ...], reverse: bool, unroll: int, carries: bool
) -> Outputs:
    """The loop over time of one layer, whatever lies between its products."""
    env = dict(zip(reading.fixed, inputs.fixed, strict=True))
    us = ahead(reading.x, env, inputs.xs, reading.ahead, reading.us)
    weights = [[env[v] for v in p.fixed] for p in reading.products]
    others = [v for v in reading.fixed if v in _read_apart_from_products(reading)]
    leaves, steps = len(inputs.carry), inputs.xs.shape[0]

    def loop(operands: Sequence[Any], extras: list[Array]) -> tuple[Any, Any, Any]:
        """`(last, (ys, carries), left sides of products)`."""
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
                    out = _run(product, env[product.left], weights[i])
                    return out if extra is None else _with_tangent_of(out, extra)

                rules[product.out] = times
                for v in product.fixed:
                    env.setdefault(v, None)  # not looked at
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
    """value + extra, where `extra` is known to be zero: nobody reads it."""
    return value


@_with_tangent_of.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _with_tangent_of(*primals), tangents[0] + tangents[1]


def _read_apart_from_products(reading: Reading) -> set[Value]:
    """What is read elsewhere than as the weight of a product."""
    products = {p.equation for p in reading.products}
    read = {v for eqn in reading.inside if eqn not in products for v in eqn.inputs}
    return read | {*reading.carry_outs, *reading.y_outs} | {p.left for p in reading.products}


def _run(product: Any, left: Any, fixed: list[Any]) -> Any:
    """One product, its inputs in the order of its equation."""
    by_value = dict(zip(product.fixed, fixed, strict=True))
    return product.equation.run(*[left if v is product.left else by_value[v] for v in product.equation.inputs])[0]


def _times_dweights(product: Any, left: Array, weights: list[Array], dweights: list[Array], axes: int) -> Array:
    """m_t dW for all T and rows, with one axis for them."""
    lead = left.shape[:axes]
    flat = left.reshape(-1, *left.shape[axes:])

    def of_weights(weights: list[Array]) -> Array:
        return jax.vmap(lambda row: _run(product, row, weights))(flat)

    tangent = jax.jvp(of_weights, (weights,), (dweights,))[1]
    return tangent.reshape(*lead, *tangent.shape[1:])
