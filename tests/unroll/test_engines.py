"""Every engine gives the same values and derivatives to order two, with and without `jit` and `vmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import (
    CELLS,
    COMBINED,
    ENGINES,
    VARIANTS,
    B,
    Outputs,
    Sample,
    T,
    Times,
    assert_close,
    assert_identical,
    both_directions,
    compiled,
    cotangents,
    curvature,
    every_cell,
    normal,
    on_every_engine,
    pull,
    run,
    sample,
    unroller,
)


@on_every_engine(loop=False)
def test_every_engine_is_the_loop(name, engine):
    """Values, gradients, forward mode and Hessian-vector products, with lengths, gaps and resets.

    The loop is plain Python over `step`; `test_check_grads` compares its derivatives with finite differences.
    """
    got = curvature(name, engine, sample(name), COMBINED, cotangents(name))
    assert_close(got, curvature(name, "loop", sample(name), COMBINED, cotangents(name)))


@functools.cache
def second_derivatives(name: str, engine: str):
    """All four combinations of forward and reverse mode for second derivatives."""

    def function(drawn: Sample, tangents: Sample, weights: Outputs):
        outputs = unroller(name, engine, False, COMBINED)

        def pullback(*primals):
            return jax.vjp(outputs, *primals)[1](weights)

        def pushforward(*primals):
            return jax.jvp(outputs, primals, tuple(tangents))[1]

        return {
            "jvp of jvp": jax.jvp(pushforward, tuple(drawn), tuple(tangents)),
            "jvp of vjp": jax.jvp(pullback, tuple(drawn), tuple(tangents)),
            "vjp of jvp": jax.vjp(pushforward, *drawn)[1](weights),
            "vjp of vjp": jax.vjp(pullback, *drawn)[1](tuple(tangents)),
        }

    return compiled(engine, function)(sample(name), normal(sample(name), "tangents"), cotangents(name))


@pytest.mark.parametrize("engine", [e for e in (*ENGINES, "hoisted_checkpoint_2") if e not in ("loop", "scan")])
@pytest.mark.parametrize("name", ["custom"])
def test_every_second_derivative(name, engine):
    """Engines with custom derivative rules, also through recomputed segments."""
    assert_close(second_derivatives(name, engine), second_derivatives(name, "loop"))


@pytest.mark.parametrize("engine", VARIANTS)
@pytest.mark.parametrize("name", ["elman_tanh"])
def test_no_option_changes_a_number(name, engine):
    got = pull(name, engine, sample(name), COMBINED, cotangents(name))
    assert_close(got, pull(name, "loop", sample(name), COMBINED, cotangents(name)))


@on_every_engine(loop=False)
def test_every_engine_is_the_loop_in_reverse(name, engine):
    got = pull(name, engine, sample(name), COMBINED, cotangents(name), reverse=True)
    assert_close(got, pull(name, "loop", sample(name), COMBINED, cotangents(name), reverse=True))


@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "step_cell", "bidirectional"])
def test_jit_is_eager(name):
    """The scan outside `jit`, and the loop inside it, for the cell that compiles fastest."""
    eager = unroller(name, "scan", False, Times())(*sample(name))
    assert_close(run(name, "scan", sample(name)), eager)
    if name == "elman_tanh":
        jitted = jax.jit(unroller(name, "loop", False, COMBINED))(*sample(name))
        assert_close(jitted, run(name, "loop", sample(name), COMBINED))


@pytest.mark.parametrize("name", ["elman_tanh", "bidirectional"])
def test_auto_is_a_named_engine(name):
    """`auto` chooses one of the other engines, so its results are bitwise equal to theirs."""
    auto = jax.jit(lambda drawn: rnnjax.unroll(CELLS[name], **drawn._asdict()))(sample(name))
    named = [run(name, engine, sample(name)) for engine in ENGINES if engine != "loop"]
    assert any(all(map(np.array_equal, jax.tree.leaves(auto), jax.tree.leaves(other))) for other in named)


@on_every_engine(loop=False)
def test_vmap_over_rows_is_the_batch(name, engine):
    """vmap over rows without a batch axis, also over lengths, mask and resets."""

    def row(carry, xs, times):
        return unroller(name, engine, False, times)(sample(name).params, carry, xs)

    by_row = Times(lengths=0, mask=1, resets=1)
    rows = jax.jit(jax.vmap(row, in_axes=(0, 1, by_row), out_axes=(0, 1)))
    batch, _ = pull(name, engine, sample(name), COMBINED, cotangents(name))
    assert_close(rows(sample(name).carry, sample(name).xs, COMBINED), batch)


@every_cell
@pytest.mark.parametrize("batch_shape", [(), (1,), (2, 3)], ids=str)
def test_any_number_of_batch_axes(name, batch_shape):
    """Every output has the batch axes of `xs`. (Values: `test_forward.test_any_shape`, and rows by `vmap` above.)"""
    outputs = unroller(name, "scan", False, Times(mask=np.ones((T, *batch_shape), bool)))
    carry, ys = jax.eval_shape(outputs, *sample(name, batch_shape=batch_shape))
    one_row = sample(name, batch_shape=())
    expected_carry, expected_ys = jax.eval_shape(unroller(name, "scan", False, Times()), *one_row)
    assert ys.shape == (T, *batch_shape, *expected_ys.shape[1:])
    shapes = jax.tree.map(lambda leaf: (*batch_shape, *leaf.shape), expected_carry)
    assert jax.tree.map(lambda leaf: leaf.shape, carry) == shapes


@every_cell
@both_directions
def test_one_step_of_time_is_one_step(name, reverse):
    """T = 1 equals `cell.step`; for a bidirectional cell, those of its two cells."""
    params, carry, xs = sample(name)
    got = rnnjax.unroll(CELLS[name], params, xs[:1], carry=carry, reverse=reverse, engine="loop")

    def one_step(cell, params, carry, x):
        if isinstance(cell, rnnjax.Bidirectional):
            one, y_one = one_step(cell.forward, params.forward, carry.forward, x)
            other, y_other = one_step(cell.backward, params.backward, carry.backward, x)
            merged = y_one * y_other if cell.merge == "product" else jnp.concatenate([y_one, y_other], axis=-1)
            return rnnjax.BothWays(one, other), merged
        if isinstance(cell, rnnjax.Stack) and name == "stack_of_bidirectional":
            bottom, x = one_step(cell.cells[0], params[0], carry[0], x)
            top, y = one_step(cell.cells[1], params[1], carry[1], x)
            return (bottom, top), x + y
        return cell.step(params, carry, x)

    new_carry, y = one_step(CELLS[name], params, carry, xs[0])
    assert_close(got, (new_carry, y[None]))


@every_cell
def test_reverse_is_time_turned_round(name):
    """Without masks, `reverse` equals unrolling the reversed sequence, with reversed outputs."""
    params, carry, xs = sample(name)
    got_carry, ys = rnnjax.unroll(CELLS[name], params, xs, carry=carry, reverse=True, engine="loop")
    turned_carry, turned = rnnjax.unroll(CELLS[name], params, xs[::-1], carry=carry, engine="loop")
    assert_identical((got_carry, ys), (turned_carry, turned[::-1]))
    assert ys.shape[:2] == (T, B)
