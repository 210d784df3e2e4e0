"""linen: the same parameters, outputs and gradients as Flax's RNN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from tests.flax.cells import (
    FUNCTIONS,
    KEY,
    LENGTHS,
    B,
    H,
    T,
    carry_of,
    compiled,
    every_cell,
    every_function,
    inputs,
    linen,
    linen_cell,
    our_linen,
    valid,
    weights_of,
)
from tests.flax.linen_models import Compact, SetUp, pulled, variables_of
from tests.registry import assert_close, assert_identical, normal


def pair(name, **options):
    """Ours and Flax's RNN around the same cell."""
    return [library.RNN(linen_cell(name), **options) for library in (our_linen, linen)]


@every_cell
def test_init_gives_the_same_tree_and_numbers(name):
    """An RNN alone, with the cell in the model's scope, and with the cell inside the RNN of a Bidirectional."""
    pairs = [pair(name)]
    if name in ("optimized_lstm", "simple"):
        pairs += [[model(library, name) for library in (our_linen, linen)] for model in (Compact, SetUp)]
    for got, expected in compiled(lambda key: [[m.init(key, inputs()) for m in both] for both in pairs])(KEY):
        assert_identical(got, expected)


def test_init_with_flax_s_default_initializers():
    ours, theirs = (library.RNN(linen.SimpleCell(features=H)) for library in (our_linen, linen))
    x = inputs("float32")
    got, expected = compiled(lambda key: [m.init(key, x) for m in (ours, theirs)])(KEY)
    assert_identical(got, expected)


@pytest.mark.parametrize("name", ["optimized_lstm", "gru", "simple"])
def test_values_and_gradients(name):
    """In float64 at 1e-12, for rows of different lengths, without the outputs in the padding."""
    modules = pair(name, return_carry=True)
    carry_weights, weights = weights_of(name)
    run = compiled(
        lambda *args: [pulled(m, (carry_weights, valid(weights)), *args, seq_lengths=LENGTHS) for m in modules]
    )
    (outputs, gradients), (expected, expected_gradients) = run(variables_of(modules[0]), inputs(), carry_of(name))
    assert_close(outputs, (expected[0], valid(expected[1])))
    assert_identical(outputs[1], valid(outputs[1]))
    assert_close(gradients, expected_gradients)


@every_cell
def test_float32(name):
    modules = [library.RNN(linen_cell(name, "float32")) for library in (our_linen, linen)]
    variables = variables_of(modules[0], inputs("float32"))
    got, expected = compiled(lambda v, x: [m.apply(v, x) for m in modules])(variables, inputs("float32"))
    assert got.dtype == jnp.float32
    assert_close(got, expected, 1e-6)


def test_call_conventions():
    """Every combination of the options, as fields and as arguments of the call."""
    variables = variables_of(our_linen.RNN(linen_cell("optimized_lstm")))
    cases = [
        ({"time_major": major, "reverse": reverse, "keep_order": keep, "return_carry": True}, lengths)
        for major in (False, True)
        for reverse, keep in [(False, False), (True, False), (True, True)]
        for lengths in (None, LENGTHS)
    ]

    @compiled
    def everything(variables, x):
        results = []
        for chosen, lengths in cases:
            turned = x.swapaxes(0, 1) if chosen["time_major"] else x
            usual, _ = pair("optimized_lstm")
            fields = [m.apply(variables, turned, seq_lengths=lengths) for m in pair("optimized_lstm", **chosen)]
            results.append((*fields, usual.apply(variables, turned, seq_lengths=lengths, **chosen)))
        return results

    for (chosen, lengths), ((carry, ys), (expected_carry, expected), given) in zip(
        cases, everything(variables, inputs()), strict=True
    ):
        assert_identical(given, (carry, ys))
        assert_close(carry, expected_carry)
        if chosen["time_major"]:
            ys, expected = ys.swapaxes(0, 1), expected.swapaxes(0, 1)
        assert_close(ys, expected if lengths is None else valid(expected))


@every_function
def test_functions_of_a_cell(name):
    """`gate_fn`, `activation_fn` and `residual` are supported."""
    cell, functions = FUNCTIONS[name]
    modules = [library.RNN(linen_cell(cell, **functions)) for library in (our_linen, linen)]
    modules.append(our_linen.RNN(linen_cell(cell)))
    run = compiled(lambda v, x: [m.apply(v, x) for m in modules])
    got, expected, usual = run(variables_of(modules[0]), inputs())
    assert_close(got, expected)
    assert not np.allclose(got, usual)


def test_carry_init_and_init_key():
    """A random initial carry is drawn with the same key."""
    cell = linen_cell("optimized_lstm", carry_init=linen.initializers.normal(1.0))
    variables = variables_of(linen.RNN(cell))
    run = compiled(
        lambda v, x: [
            [library.RNN(cell).apply(v, x, **chosen) for chosen in ({}, {"init_key": KEY})]
            for library in (our_linen, linen)
        ]
    )
    got, expected = run(variables, inputs())
    assert_close(got, expected)
    assert not np.allclose(*got)


def test_bidirectional():
    """Padding, given and random carries, and `merge_fn` as in Flax."""
    carry, options = (carry_of("gru"), carry_of("lstm")), {"seq_lengths": LENGTHS, "init_key": KEY}
    drawn = linen.initializers.normal(1.0)
    modules = [
        library.Bidirectional(
            *(library.RNN(linen_cell(name, carry_init=drawn)) for name in ("gru", "lstm")),
            merge_fn=lambda a, b: a - 2 * b,
            return_carry=True,
        )
        for library in (our_linen, linen)
    ]
    run = compiled(lambda v, x: [[m.apply(v, x, initial_carry=c, **options) for c in (None, carry)] for m in modules])
    for got, expected in zip(*run(variables_of(modules[0]), inputs()), strict=True):
        assert_close(got, (expected[0], valid(expected[1])))


def test_an_old_checkpoint_loads():
    """A checkpoint of Flax's model, as bytes, loads into the model with our RNN and gives the same results."""
    ours, theirs = (SetUp(library, "optimized_lstm") for library in (our_linen, linen))
    old = variables_of(theirs)
    blank = jax.tree.map(jnp.zeros_like, variables_of(ours))
    loaded = serialization.from_bytes(blank, serialization.to_bytes(old))
    assert_identical(loaded, jax.tree.map(np.asarray, old))
    assert_close(*compiled(lambda v, x: [m.apply(v, x) for m in (ours, theirs)])(loaded, inputs()))


def test_one_line_swap_trains_the_same():
    """A small model with our RNN instead of Flax's has the same loss and gradients at every step."""
    x, target = inputs(), valid(normal(jnp.zeros((B, T, 1)), "target"))

    def trained(model):
        def loss(variables):
            return jnp.mean((valid(model.apply(variables, x, seq_lengths=LENGTHS)) - target) ** 2)

        def step(variables, _):
            value, gradient = jax.value_and_grad(loss)(variables)
            return jax.tree.map(lambda v, g: v - 0.1 * g, variables, gradient), value

        return jax.lax.scan(step, variables_of(model), length=5)

    got, expected = compiled(lambda: [trained(Compact(library, "optimized_lstm")) for library in (our_linen, linen)])()
    assert_close(got, expected, 1e-10)
    assert got[1][-1] < got[1][0]


@pytest.mark.parametrize(
    "lift",
    [lambda rnn: linen.vmap(rnn, variable_axes={"params": 0}, split_rngs={"params": True}), linen.remat],
    ids=["vmap", "remat"],
)
def test_under_lifted_transforms(lift):
    """Flax's module transforms handle the parameters as in Flax's RNN."""
    modules = [lift(library.RNN)(linen_cell("gru")) for library in (our_linen, linen)]

    @compiled
    def both(key, x):
        variables = [m.init(key, x) for m in modules]
        return variables, [jax.grad(lambda v, m=m: (m.apply(v, x) ** 2).sum())(variables[1]) for m in modules]

    for got, expected in both(KEY, inputs()):
        assert_close(got, expected)


def test_partitioned_parameters():
    """`init` keeps metadata boxes around parameters, and the step unboxes them."""
    boxed = linen.with_partitioning(linen.initializers.lecun_normal(), (None, "model"))
    modules = [library.RNN(linen_cell("gru", kernel_init=boxed)) for library in (our_linen, linen)]
    variables, expected_variables = compiled(lambda key: [m.init(key, inputs()) for m in modules])(KEY)
    assert_identical(variables, expected_variables)
    assert_close(*compiled(lambda v, x: [m.apply(v, x) for m in modules])(variables, inputs()))
