"""Properties of `fixed_points` for every cell of the registry, and the inputs that it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import dynamics, gradients
from tests.dynamics.confirmed import elman, stacked
from tests.registry import CELLS, normal, possible, sample

WITH_STEP = [name for name in CELLS if "bidirectional" not in name]
REAL = [
    name
    for name in WITH_STEP
    if all(
        leaf.dtype == jnp.float64
        for leaf in jax.tree.leaves(jax.eval_shape(CELLS[name].initial_carry, sample(name).params))
    )
]


@pytest.mark.parametrize("name", REAL)
def test_what_is_returned_is_true(name):
    """Residuals by `rnnjax.step`, eigenvalues by `gradients.jacobians`; every start is counted once."""
    cell, drawn = CELLS[name], sample(name, steps=1, batch_shape=())
    starts = jax.tree.map(lambda leaf: jnp.zeros((5, *leaf.shape)), drawn.carry)
    starts = possible(name, normal(starts, f"{name} starts"))
    found = dynamics.fixed_points(cell, drawn.params, drawn.xs[0], starts, iterations=30, certify=False)
    assert found.found.sum() == 5 and (np.diff(found.speed) >= 0).all()
    for i in range(min(2, len(found.speed))):
        carry = jax.tree.map(lambda leaf: jnp.asarray(leaf[i]), found.carry)  # noqa: B023
        after, _ = rnnjax.step(cell, drawn.params, carry, drawn.xs[0])
        off = np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (after, carry)), strict=True)])
        np.testing.assert_allclose(np.linalg.norm(off), found.residual[i], rtol=1e-6, atol=1e-12)
        matrix = gradients.jacobians(cell, drawn.params, drawn.xs[:1], carry=carry)[0]
        expected = np.linalg.eigvals(matrix)
        np.testing.assert_allclose(np.sum(found.eigenvalues[i]), np.trace(matrix), atol=1e-9)
        np.testing.assert_allclose(np.abs(found.eigenvalues[i]).max(), np.abs(expected).max(), atol=1e-7)


def test_a_random_wrapper_runs_without_noise():
    cell = rnnjax.wrappers.Dropout(rnnjax.GRU(3), 0.5)
    params = sample("gru").params
    starts = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    found = dynamics.fixed_points(cell, params, jnp.zeros(2), starts)
    same = dynamics.fixed_points(rnnjax.GRU(3), params, jnp.zeros(2), starts)
    np.testing.assert_allclose(stacked(found.carry), stacked(same.carry))


CELL, PARAMS, X = elman(np.eye(2) / 2)
STARTS = jnp.ones((3, 2))
LSTM = rnnjax.LSTM(2)


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (TypeError, ("expected a cell instance",), {"cell": rnnjax.Elman}),
        (TypeError, ("no single step", "one of its cells"), {"cell": rnnjax.Bidirectional(CELL, CELL)}),
        (ValueError, ("`x` is [4, 1]", "[D]", "without batch axes", "`x[0]`"), {"x": jnp.zeros((4, 1))}),
        (ValueError, ("`x` is []", "`x[..., None]`"), {"x": jnp.zeros(())}),
        (ValueError, ("`x` is not finite",), {"x": jnp.full(1, jnp.nan)}),
        (ValueError, ("expect 1 features",), {"x": jnp.zeros(2)}),
        (ValueError, ("`starts` is [2]", "leading axis", "leaf[None]"), {"starts": jnp.ones(2)}),
        (ValueError, ("`starts` is [3, 4]", "[3, 2]"), {"starts": jnp.ones((3, 4))}),
        (ValueError, ("leading axis of 0",), {"starts": jnp.ones((0, 2))}),
        (ValueError, ("not finite in 1 of 3", "number 1", "leave"), {"starts": STARTS.at[1, 0].set(jnp.nan)}),
        (TypeError, ("`starts` is float32", "float64"), {"starts": STARTS.astype("float32")}),
        (ValueError, ("`starts`", "LSTMCarry"), {"cell": LSTM, "params": LSTM.init(jax.random.key(0), 1)}),
        (ValueError, ("not finite at any", "`params`"), {"params": PARAMS._replace(b=jnp.full(2, jnp.nan))}),
        (ValueError, ("`cycle` is 0",), {"cycle": 0}),
        (ValueError, ("`iterations` is 1.5",), {"iterations": 1.5}),
        (ValueError, ("`tolerance` is -1",), {"tolerance": -1}),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_what_is_refused(error, words, change):
    given = {"cell": CELL, "params": PARAMS, "x": X, "starts": STARTS} | change
    with pytest.raises(error) as caught:
        dynamics.fixed_points(**given)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), str(caught.value)


def test_a_carry_that_is_no_real_vector_is_refused():
    """Counters, flags, complex states and half precision."""
    for dtype in ("int32", "complex128", "bfloat16"):

        def step(params, carry, x):
            return carry, carry[0]

        def start(params, batch_shape, dtype=dtype):
            return jnp.zeros((*batch_shape, 1)), jnp.zeros((*batch_shape, 1), dtype)

        cell = rnnjax.StepCell(step, start)
        with pytest.raises(TypeError, match=rf"`carry`\[\d\] .* {dtype}; .*float64.*counters"):
            dynamics.fixed_points(cell, None, X, (jnp.zeros((1, 1)), jnp.zeros((1, 1), dtype)))


def test_the_others_refuse_too():
    def linearize(x=X, carry=STARTS[0], **given):
        return dynamics.linearize(CELL, PARAMS, x, carry, **given)

    def follow(starts=STARTS, value=1.0, **given):
        def params_of(p):
            return PARAMS._replace(w_h=p * PARAMS.w_h)

        return dynamics.continue_in(CELL, params_of, X, starts, value, between=(0.0, 1.0), **given)

    calls = [
        (TypeError, "inside of `jax.jit`", lambda: jax.jit(linearize)(X)),
        (ValueError, "without batch axes.*: pick one", lambda: linearize(carry=STARTS)),
        (ValueError, r"`readout` is \[3, 1\].*\[2, O\]", lambda: linearize(readout=np.ones((3, 1)))),
        (ValueError, "`between` is", lambda: follow(value=2.0)),
        (ValueError, "`step` is 0", lambda: follow(step=0)),
        (ValueError, "leading axis", lambda: follow(STARTS[0])),
    ]
    for error, words, call in calls:
        with pytest.raises(error, match=words):
            call()


def test_arrays_that_a_step_closes_over_are_those_of_the_call():
    """No program that was compiled with their former values is used."""
    matrix, factor, none = jnp.array([[0.5]]), jnp.array(1.0), jnp.zeros(())

    def step(params, h, x):
        h = jnp.tanh(h @ matrix * params)
        return h, h

    cell = rnnjax.StepCell(step, lambda params, batch: jnp.full((*batch, 1), 0.0 * params))

    def params_of(p):
        return p * factor

    def found():
        ones = jnp.ones((1, 1))
        points = dynamics.fixed_points(cell, none + 1, jnp.zeros(1), ones, certify=False)
        slope = dynamics.linearize(cell, none + 1, jnp.zeros(1), jnp.zeros(1)).recurrent.item()
        (branch, *_) = dynamics.continue_in(cell, params_of, jnp.zeros(1), ones * 0, 0.1, between=(0.1, 3.0))
        return abs(points.carry.item()), slope, [round(each.value, 6) for each in branch.bifurcations]

    np.testing.assert_allclose(found()[0], 0, atol=1e-6)
    matrix = jnp.array([[2.0]])
    point, slope, (critical,) = found()
    np.testing.assert_allclose((point, slope, critical), (np.tanh(2 * point), 2, 0.5), rtol=1e-6)
    assert point > 0.9
    factor = jnp.array(0.5)
    assert found()[2] == [1.0]
