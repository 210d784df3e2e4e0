"""Textbook steps are hoisted according to `explain` and the HLO, and give the results of `lax.scan`.

Sizes are chosen so that shapes identify products: an axis of D or D + H belongs to the input, and a sum over B is part
of a weight gradient.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import rnnjax
import rnnjax.flax
from tests.registry import assert_close, normal
from tests.unroll.loop_products import Loops, Product, loops_of
from tests.unroll.random_steps import quickly
from tests.unroll.textbook_cells import HOISTED, LAYER_NORM, PROJECTED, H

D, B, T = 7, 11, 13
OF_INPUT = {D, D + H, D + PROJECTED}

CELLS: dict[str, Any] = {**HOISTED, "layer_norm": LAYER_NORM, "lstm": rnnjax.LSTM(H), "gru": rnnjax.GRU(H)}

every_textbook_cell = pytest.mark.parametrize("cell_name", HOISTED)


class Given(NamedTuple):
    params: Any
    carry: Any
    xs: Any


@functools.cache
def given(name: str) -> Given:
    cell = CELLS[name]
    params = cell.init(jax.random.key(0), D, jnp.float64)
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), params)
    return Given(
        normal(params, name, scale=0.5),
        normal(carry, f"{name} carry"),
        normal(jax.ShapeDtypeStruct((T, B, D), "float64"), f"{name} xs"),
    )


def by_unroll(name: str, of: Given) -> Any:
    return rnnjax.unroll(cell=CELLS[name], params=of.params, carry=of.carry, xs=of.xs)


def by_scan(name: str, of: Given) -> Any:
    return lax.scan(functools.partial(CELLS[name].step, of.params), of.carry, of.xs)


class Program(NamedTuple):
    """Outputs and gradients for parameters, carry and inputs, and the loops of their program."""

    outputs: Any
    gradient: Any
    loops: Loops


@functools.cache
def program(run: Any, name: str) -> Program:
    return compiled(functools.partial(run, name), given(name))


def compiled(run: Any, of: Any) -> Program:
    def loss(of: Any):
        outputs = run(of)
        return sum(jnp.sin(leaf + i).sum() for i, leaf in enumerate(jax.tree.leaves(outputs))), outputs

    whole = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(of).compile(compiler_options=quickly())
    (_, outputs), gradient = whole(of)
    return Program(outputs, gradient, loops_of(str(whole.as_text())))


def of_the_input(loops: Loops) -> list[Product]:
    return [product for product in loops.products if product.touches(OF_INPUT)]


def of_a_gradient(loops: Loops) -> list[Product]:
    return [product for product in loops.products if product.sums_over(B)]


def accumulated(loops: Loops, params: Any) -> set[tuple[int, ...]]:
    """Shapes of parameters, transposed or not, that are summed in a loop."""
    shapes = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim}
    return (shapes | {shape[::-1] for shape in shapes}) & set(loops.sums)


@every_textbook_cell
def test_the_counter_finds_them_in_a_plain_scan(cell_name):
    """With everything inside the loop: products with the input, and weight gradients summed step by step."""
    loops = program(by_scan, cell_name).loops
    assert loops.count >= 2 and of_the_input(loops) and of_a_gradient(loops)
    assert accumulated(loops, given(cell_name).params)


@every_textbook_cell
def test_explain_says_hoisted(cell_name):
    of = given(cell_name)
    layer = rnnjax.explain(cell=CELLS[cell_name], params=of.params, carry=of.carry, xs=of.xs).layers[0]
    assert layer.engine == "hoisted", layer.why


@pytest.mark.parametrize("cell_name", CELLS)
def test_numbers_are_those_of_scan(cell_name):
    """Outputs, and gradients for parameters, carry and inputs."""
    got, right = program(by_unroll, cell_name), program(by_scan, cell_name)
    assert_close(jax.tree.leaves(got.outputs), jax.tree.leaves(right.outputs), 1e-12)
    assert_close(got.gradient, right.gradient, 1e-10)


@pytest.mark.parametrize("cell_name", [*HOISTED, "lstm", "gru"])
def test_the_compiled_gradient_shows_it(cell_name):
    """No product with the input and no weight gradient inside a loop, forwards or backwards."""
    loops = program(by_unroll, cell_name).loops
    assert loops.count >= 2  # otherwise the test proves nothing
    assert bool(loops.products) == (cell_name != "independent")
    assert not of_the_input(loops)
    assert not of_a_gradient(loops)
    assert not accumulated(loops, given(cell_name).params)


def test_no_more_products_than_the_recurrence_has():
    """Each product with the carry appears once forwards, and its transpose once backwards."""
    of_step = {"gru_reset_before": 3, "minimal_gated_unit": 2, "rates": 1, "lstm_of_concatenation": 1, "lstm": 1}
    for name, count in of_step.items():
        assert len(program(by_unroll, name).loops.products) <= 2 * count, name


def test_layer_norm_runs_and_says_what_left_the_loop():
    """Its gates mix all units of a row: `why` names what stays inside, but the input projection leaves the loop."""
    of = given("layer_norm")
    layer = rnnjax.explain(cell=LAYER_NORM, params=of.params, carry=of.carry, xs=of.xs).layers[0]
    assert any(word in layer.why for word in ("reduce_sum", "sum", "mean", "elementwise")), layer.why
    assert any(word in layer.why for word in ("leave", "left", "ahead", "outside")), layer.why
    assert not of_the_input(program(by_unroll, "layer_norm").loops)


OF_FLAX = {"OptimizedLSTMCell": 1, "LSTMCell": 1, "GRUCell": 1, "SimpleCell": 1, "MGUCell": 2}
"""Flax's cells, and their products with the carry."""


def through_the_door(name: str, dtype: str, compute: str | None = None) -> tuple[Program, Program, Any]:
    """The programs of `rnnjax.flax.linen.RNN` and of Flax's own, and the cell's parameters."""
    cell = getattr(nn, name)(H, param_dtype=jnp.dtype(dtype), dtype=compute)
    ours, flax = (library.RNN(cell, return_carry=True) for library in (rnnjax.flax.linen, nn))
    xs = normal(jax.ShapeDtypeStruct((B, T, D), dtype), "door xs")
    params = normal(jax.eval_shape(flax.init, jax.random.key(0), xs)["params"], "door", scale=0.5)

    def run(module: Any, of: Any):
        return module.apply({"params": of[0]}, of[1])

    got, right = (compiled(functools.partial(run, module), (params, xs)) for module in (ours, flax))
    return got, right, params


@pytest.mark.parametrize("name", OF_FLAX)
def test_flax_through_the_door(name):
    """`rnnjax.flax.linen.RNN` of a cell of Flax equals Flax's RNN, and is hoisted."""
    got, right, params = through_the_door(name, "float64")
    assert_close(jax.tree.leaves(got.outputs), jax.tree.leaves(right.outputs), 1e-12)
    assert_close(got.gradient, right.gradient, 1e-10)
    assert of_the_input(right.loops) and of_a_gradient(right.loops)
    assert got.loops.count >= 2 and 0 < len(got.loops.products) <= 2 * OF_FLAX[name]
    assert not of_the_input(got.loops) and not of_a_gradient(got.loops) and not accumulated(got.loops, params)


@pytest.mark.parametrize("name", ["OptimizedLSTMCell", "LSTMCell", "GRUCell"])
def test_mixed_precision_is_hoisted(name):
    """Each gate casts the state for its own product, and they still are one product."""
    with jax.numpy_dtype_promotion("standard"):
        got, right, params = through_the_door(name, "float32", "bfloat16")
    assert_close(jax.tree.leaves(got.outputs), jax.tree.leaves(right.outputs), 5e-2)
    assert got.loops.count >= 2 and 0 < len(got.loops.products) <= 2 * OF_FLAX[name]
    assert not of_the_input(got.loops) and not of_a_gradient(got.loops) and not accumulated(got.loops, params)


HLO = """
HloModule made_up

%inner (p: f64[11,5], w: f64[5,5]) -> f64[11,5] {
  %p = f64[11,5]{1,0} parameter(0)
  %w = f64[5,5]{1,0} parameter(1)
  ROOT %d.1 = f64[11,5]{1,0} dot(%p, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (t: (f64[11,5], f64[5,5])) -> (f64[11,5], f64[5,5]) {
  %t = (f64[11,5]{1,0}, f64[5,5]{1,0}) parameter(0)
  %g = f64[11,5]{1,0} get-tuple-element(%t), index=0
  %v = f64[5,5]{1,0} get-tuple-element(%t), index=1
  %f = f64[11,5]{1,0} fusion(%g, %v), kind=kOutput, calls=%inner
  %k = f64[5,5]{1,0} custom-call(f64[11,5]{1,0} %g, f64[11,5]{1,0} %f), custom_call_target="__onednn$matmul"
  %s = f64[5,5]{1,0} add(%v, %k)
  ROOT %r = (f64[11,5]{1,0}, f64[5,5]{1,0}) tuple(%f, %s)
}

%cond (t: (f64[11,5], f64[5,5])) -> pred[] {
  %t = (f64[11,5]{1,0}, f64[5,5]{1,0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: f64[11,5], b: f64[5,5]) -> (f64[11,5], f64[5,5]) {
  %a = f64[11,5]{1,0} parameter(0)
  %b = f64[5,5]{1,0} parameter(1)
  %outside = f64[5,5]{1,0} dot(%b, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %i = (f64[11,5]{1,0}, f64[5,5]{1,0}) tuple(%a, %outside)
  ROOT %loop = (f64[11,5]{1,0}, f64[5,5]{1,0}) while(%i), condition=%cond, body=%body
}
"""


def test_the_counter_reads_fusions_and_calls_of_libraries():
    loops = loops_of(HLO)
    within = [Product((11, 5), (5, 5), (11, 5)), Product((11, 5), (11, 5), (5, 5))]
    assert loops == Loops(1, within, [(5, 5)])
    assert [product.sums_over(11) for product in within] == [False, True]
