"""Convolutional cells beyond the properties of every cell: three dimensions, composites, wrappers, errors, and Flax.

The property tests run on `conv_lstm` in one dimension and `conv_gru` in two.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import cells, gradients, wrappers
from tests import oracles, paper_steps
from tests.registry import COMBINED, B, D, T, assert_close, normal

KEY = jax.random.key(3)
TIMES = COMBINED._asdict()

COMPOSED: dict[str, Any] = {
    "3d_lstm": cells.ConvLSTM(2, (2, 3, 2)),
    "3d_gru": cells.ConvGRU(2, (2, 3, 2)),
    "stack": rnnjax.Stack((cells.ConvLSTM(2, (2, 3)), cells.ConvGRU(3, (2, 3), kernel=1))),
    "bidirectional": rnnjax.Bidirectional(cells.ConvGRU(2, (3,)), cells.ConvLSTM(1, (3,))),
    "readout": rnnjax.Readout(rnnjax.LearnedCarry(cells.ConvGRU(2, (2, 2))), 3),
    "dropout": wrappers.Dropout(cells.ConvLSTM(2, (2, 3)), 0.5),
    "output_dropout": wrappers.Skip(wrappers.Dropout(cells.ConvGRU(2, (2, 3)), 0.5, "output")),
    "state_noise": wrappers.StateNoise(wrappers.Dropout(cells.ConvGRU(2, (2, 3)), 0.5, "state", tied=True), 0.3),
    "zoneout": rnnjax.Stack((wrappers.Zoneout(cells.ConvLSTM(2, (3,)), 0.3), cells.ConvGRU(2, (3,)))),
    "drop_connect": wrappers.LayerNorm(wrappers.DropConnect(cells.ConvLSTM(2, (3,)), 0.5), "state"),
}
EVERY = pytest.mark.parametrize("name", COMPOSED)
WITHOUT_NOISE = pytest.mark.parametrize("name", ["3d_lstm", "3d_gru", "stack"])


@functools.cache
def given(name: str) -> tuple[Any, Any]:
    """`(params, xs)`."""
    cell, params = COMPOSED[name], None
    params = normal(jax.eval_shape(lambda key: cell.init(key, D), KEY), name, scale=0.4)
    held = cell
    while not hasattr(held, "space"):
        held = held.cells[0] if hasattr(held, "cells") else held.forward if hasattr(held, "forward") else held.cell
    return params, normal(jax.ShapeDtypeStruct((T, B, *held.space, D), "float64"), f"{name} xs")


@EVERY
@pytest.mark.one_in(2)
def test_engines_agree_in_values_and_gradients(name):
    """With lengths, gaps, resets, and noise if there is any; in segments and chunks too."""
    cell, (params, xs) = COMPOSED[name], given(name)

    def loss(params, xs, reverse, **options):
        found = rnnjax.unroll(cell, params, xs, **TIMES, key=KEY, reverse=reverse, **options)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(found))

    def both(**options):
        return jax.jit(jax.value_and_grad(functools.partial(loss, **options), argnums=(0, 1)))(params, xs)

    for reverse in (False, True):
        expected = jax.value_and_grad(functools.partial(loss, reverse=reverse, engine="loop"), argnums=(0, 1))(
            params, xs
        )
        for options in ({"engine": "scan"}, {"engine": "hoisted"}, {"checkpoint": 2, "chunk": 1}):
            assert_close(both(reverse=reverse, **options), expected)


@EVERY
def test_outputs_keep_the_space_and_padding_is_zero(name):
    params, xs = given(name)
    space = xs.shape[2:-1]
    _, ys = rnnjax.unroll(COMPOSED[name], params, xs, **TIMES)
    assert ys.shape[:-1] == (T, B, *space)
    counts = (np.arange(T)[:, None] < COMBINED.lengths) & COMBINED.mask
    assert not ys[~counts].any() and all(row.any() for row in np.asarray(ys)[counts])


@pytest.mark.parametrize("name", ["conv_lstm", "conv_gru"])
def test_three_dimensions_are_the_paper(name, monkeypatch):
    which = "3d_" + name.removeprefix("conv_")
    params, xs = given(which)
    monkeypatch.setitem(oracles.ROWS, which, oracles.plain(paper_steps.STEPS[name]))
    monkeypatch.setitem(oracles.SPACE_AXES, which, 3)
    carry = normal(COMPOSED[which].initial_carry(params, (B,)), "carry")
    expected = oracles.unroll(which, params, carry, xs, **TIMES)
    assert_close(rnnjax.unroll(COMPOSED[which], params, xs, carry=carry, **TIMES), expected)


@WITHOUT_NOISE
def test_steps_are_the_sequence(name):
    """`rnnjax.step` with a mask and resets; no, one and two batch axes."""
    cell, (params, xs) = COMPOSED[name], given(name)
    mask, resets = TIMES["mask"], TIMES["resets"]
    last, ys = rnnjax.unroll(cell, params, xs, mask=mask, resets=resets)
    carry = None
    for t in range(T):
        carry, y = rnnjax.step(cell, params, carry, xs[t], mask=mask[t], resets=resets[t])
        assert_close(y, ys[t])
    assert_close(carry, last)
    assert_close(rnnjax.unroll(cell, params, xs[:, 0], mask=mask[:, 0], resets=resets[:, 0])[1], ys[:, 0])
    wide = rnnjax.unroll(cell, params, xs[:, None], mask=mask[:, None], resets=resets[:, None])
    assert_close(wide[1][:, 0], ys)


@pytest.mark.parametrize(("name", "products"), [("3d_lstm", [1]), ("3d_gru", [2]), ("stack", [1, 2])])
def test_convolutions_without_the_carry_leave_the_loop(name, products):
    """And so do the gradients of kernels: one convolution for each product with the carry stays in either pass."""
    cell, (params, xs) = COMPOSED[name], given(name)
    for layer, count in zip(rnnjax.explain(cell, params, xs).layers, products, strict=True):
        assert layer.engine == "hoisted"
        assert f"leaves the loop (1 products), and so do the weight gradients of {count} products" in layer.why

    def inside(engine):
        gradient = jax.grad(lambda p: rnnjax.unroll(cell, p, xs, engine=engine)[1].sum())
        return convolutions_in_loops(jax.make_jaxpr(gradient)(params).jaxpr, False)

    assert inside("hoisted") == 2 * sum(products)
    assert inside("scan") >= 4 * sum(products)


def convolutions_in_loops(jaxpr, inside):
    count = 0
    for eqn in jaxpr.eqns:
        count += inside and eqn.primitive.name == "conv_general_dilated"
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    count += convolutions_in_loops(inner, inside or eqn.primitive.name == "scan")
    return count


def test_flops_count_convolutions():
    """2 T B places (D + H) 4H 3²."""
    cell = cells.ConvLSTM(5, (8, 8))
    params = jax.eval_shape(lambda key: cell.init(key, D), KEY)
    plan = rnnjax.explain(cell, params, jax.ShapeDtypeStruct((T, B, 8, 8, D), "float64"))
    assert plan.forward_flops == 2 * T * B * 64 * (D + 5) * 4 * 5 * 9


@WITHOUT_NOISE
@pytest.mark.one_in(2)
def test_instruments(name):
    """The two adjoints agree; exponents, Jacobians and splits have one row for each of the batch."""
    cell, (params, xs) = COMPOSED[name], given(name)

    def loss(ys):
        return (ys**2).sum()

    found = gradients.adjoint(cell, params, xs, loss, **TIMES, split=name != "stack")
    perturbed = gradients.adjoint_by_perturbation(cell, params, xs, loss, **TIMES)
    factor = jnp.exp(found.log_norm)
    plain = jax.tree.map(
        lambda leaf: leaf * factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim)), found.direction
    )
    assert_close(plain, perturbed, 1e-11)
    size = sum(leaf.size for leaf in jax.tree.leaves(cell.initial_carry(params)))
    assert gradients.jacobians(cell, params, xs).shape == (T, B, size, size)
    first = gradients.leading_exponent(cell, params, xs)
    assert first.exponent.shape == (B,) and bool(jnp.isfinite(first.exponent).all())
    spectrum = gradients.lyapunov_spectrum(cell, params, xs, k=2)
    assert spectrum.exponents.shape == (B, 2) and bool((spectrum.finite_steps == T).all())
    ratio, counts = gradients.norm_ratios(cell, params, xs, loss, **TIMES, through="step")
    assert ratio.shape == counts.shape == (T, B)
    if name != "stack":
        through, _ = gradients.norm_ratios(cell, params, xs, loss, **TIMES, through="mix")
        assert through.shape == (T, B) and bool(jnp.isfinite(jnp.where(counts, through, 0)).all())
        assert found.split is not None and found.split.growth.shape == (T, B)


def test_errors_are_in_the_callers_axes():
    cell = cells.ConvLSTM(2, shape=(8, 8))
    params = cell.init(KEY, D, "float64")
    xs = jnp.ones((T, B, 8, 8, D))
    of = r"ConvLSTM\(hidden_size=2, shape=\(8, 8\), .*\) expects \[T, \*batch, 8, 8, D\]; resize your data"
    for wrong, shape in (
        (xs[:, :, 1:], r"\[5, 3, 7, 8, 2\]"),
        (xs[0, 0], r"\[8, 8, 2\]"),
        (xs[..., 0], r"\[5, 3, 8, 8\]"),
    ):
        for call in (
            lambda wrong=wrong: rnnjax.unroll(cell, params, wrong),
            lambda wrong=wrong: rnnjax.explain(cell, params, wrong),
            lambda wrong=wrong: gradients.adjoint(cell, params, wrong, jnp.sum),
            lambda wrong=wrong: gradients.jacobians(cell, params, wrong),
        ):
            with pytest.raises(ValueError, match=f"`xs` is {shape}.*, but {of}"):
                call()
    with pytest.raises(ValueError, match=r"`x` is \[3, 7, 8, 2\], but .* expects \[\*batch, 8, 8, D\]"):
        rnnjax.step(cell, params, None, xs[0, :, 1:])
    with pytest.raises(ValueError, match=r"`xs` is \[5, 3, 8, 8, 1\], but this cell expects \[\*batch, 8, 8, 2\]"):
        rnnjax.unroll(cell, params, xs[..., :1])
    with pytest.raises(ValueError, match=r"`mask` is \[5, 3, 8, 8\]; .* pass \[T, \*batch\] = \[5, 3\]"):
        rnnjax.unroll(cell, params, xs, mask=jnp.ones((T, B, 8, 8), bool))
    with pytest.raises(ValueError, match=r"`resets` is \[3, 8, 8\]; pass one flag a row, \[3\]"):
        rnnjax.step(cell, params, None, xs[0], resets=jnp.ones((B, 8, 8), bool))
    with pytest.raises(ValueError, match=r"`lengths` is \[3, 8, 8\]; .* a batch of shape \[3\]"):
        rnnjax.unroll(cell, params, xs, lengths=jnp.ones((B, 8, 8), int))
    with pytest.raises(
        ValueError, match=r"initial_carry\(params, \(3,\)\)` makes one that fits `xs` \[5, 3, 8, 8, 2\]"
    ):
        rnnjax.unroll(cell, params, xs, carry=cell.initial_carry(params, (2,)))
    other = rnnjax.Stack((cell, cells.ConvGRU(2, shape=(4, 4))))
    own = (params, cells.ConvGRU(2, shape=(4, 4)).init(KEY, 2, "float64"))
    with pytest.raises(ValueError, match=r"`xs` is \[5, 3, 8, 8, 2\], but this cell expects \[\*batch, 4, 4, 2\]"):
        rnnjax.unroll(other, own, xs)


def in_flax(params):
    """The parameters of Flax's cell: blocks i, g, f, o, and a forget bias of 1 inside of the step."""

    def ordered(leaf):
        i, f, g, o = jnp.split(leaf, 4, axis=-1)
        return jnp.concatenate([i, g, f, o], axis=-1)

    size = params.b.shape[0] // 4
    b = ordered(params.b.at[size : 2 * size].add(-1))
    return {"ih": {"kernel": ordered(params.w_x)}, "hh": {"kernel": ordered(params.w_h), "bias": b}}


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 2)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_flax_agrees(shape, kernel):
    """Values and gradients, over all steps."""
    cell = cells.ConvLSTM(3, shape, kernel)
    params = normal(jax.eval_shape(lambda key: cell.init(key, D), KEY), "params", scale=0.4)
    xs = normal(jax.ShapeDtypeStruct((T, B, *shape, D), "float64"), "xs")
    carry = normal(cell.initial_carry(params, (B,)), "carry")
    theirs = nn.ConvLSTMCell(3, (kernel,) * len(shape), dtype="float64", param_dtype="float64")

    def ours(params, carry, xs):
        last, ys = rnnjax.unroll(cell, params, xs, carry=carry)
        return jnp.sin(ys).sum(), (last, ys)

    def expected(params, carry, xs):
        weights = in_flax(params)
        weights["ih"]["bias"] = jnp.zeros_like(weights["hh"]["bias"])
        state, ys = (carry.c, carry.h), []
        for x in xs:
            state, y = theirs.apply({"params": weights}, state, x)
            ys.append(y)
        return jnp.sin(jnp.stack(ys)).sum(), (cells.ConvLSTMCarry(h=state[1], c=state[0]), jnp.stack(ys))

    def both(run):
        return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))(params, carry, xs)

    with jax.numpy_dtype_promotion("standard"):
        assert_close(both(ours), both(expected))
