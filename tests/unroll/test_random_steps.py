"""Twenty-four random steps, which together have every feature, compared with `jax.lax.scan`.

`python -m tests.unroll.random_steps 300` tests other steps, and each more thoroughly.
"""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import rnnjax
from tests.registry import assert_close
from tests.unroll.random_steps import Disagreement, by_lax_scan, check, growth_of_rows, hold
from tests.unroll.step_writer import FEATURES, write

SEEDS = (
    11, 16, 33, 79, 118, 145, 159, 176, 215, 227, 238, 247, 265, 278,
    296, 327, 328, 403, 412, 428, 430, 482, 527, 570,
)  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_engine_and_instrument_runs_this_step(seed):
    """Where it fails, `python -m tests.unroll.random_steps 1 --start SEED` prints the step."""
    written, _, _ = hold(seed, thorough=False)
    assert written.source == write(seed).source  # the first attempt, whose features are counted below


def test_every_feature_is_among_them():
    assert set(FEATURES) == set().union(*(write(seed).features for seed in SEEDS))


def test_a_seed_is_one_step():
    assert str(write(3)) == str(write(3)) != str(write(4))
    np.testing.assert_array_equal(write(3).arguments().xs, write(3).arguments().xs)


def test_a_difference_is_noticed():
    """Detects differences in value, shape, or NaN, beyond the tolerance."""
    right = {"a": np.ones(3), "b": np.zeros(2)}
    check("auto", "outputs", right, {"a": np.ones(3) + 1e-13, "b": np.zeros(2)}, 1e-12)
    for wrong in ({"a": np.ones(3) + 1e-11}, {"a": np.ones(2)}, {"a": np.full(3, np.nan)}, {"a": np.ones(3, int)}):
        with pytest.raises(Disagreement, match="auto: outputs differ at"):
            check("auto", "outputs", right | wrong, right, 1e-12)


def test_masks_of_the_reference():
    """The reference itself, for h_t = h_{t-1} + x_t over four steps of a row."""
    source = (
        "def make_step(closed):\n    def step(params, carry, x):\n        return carry + x, carry + x\n    return step"
    )
    at = next(write(seed) for seed in range(99) if write(seed).form == "bare" and not write(seed).learned_start)
    fields = vars(at) | {"source": source, "batch_shape": (1,), "given_carry": False, "homes": (0,), "reverse": False}
    written = type(at)(**fields)
    arguments = written.arguments()._replace(xs=jnp.array([1.0, 2, 4, 8])[:, None, None])
    mask, resets = jnp.array([1, 0, 1, 1], bool)[:, None], jnp.array([0, 0, 1, 0], bool)[:, None]
    found = by_lax_scan(written, arguments, {"mask": mask, "resets": resets, "lengths": jnp.array([4])})
    assert found.ys[:, 0, 0].tolist() == [1, 0, 4, 12] and found.carries[:, 0, 0].tolist() == [1, 1, 4, 12]
    found = by_lax_scan(written, arguments, {"lengths": jnp.array([2]), "resets": resets})
    assert found.ys[:, 0, 0].tolist() == [1, 3, 0, 0] and found.carries[:, 0, 0].tolist() == [1, 3, 3, 3]


def test_growth_of_a_diagonal_matrix():
    """The reference for exponents, for known ones."""
    matrices = np.broadcast_to(np.diag([3.0, 0.5]), (60, 2, 2))
    growth, known = growth_of_rows(matrices, np.array([[1.0, 1.0], [0.3, -1.0]]))
    assert known.all()
    np.testing.assert_allclose(growth[-1], np.log([3.0, 0.5]), atol=1e-10)


def leaky_towards(level):
    """A cell whose step closes over an array."""

    def step(params, h, x):
        h = jnp.tanh(h @ params["w"] + x) * level
        return h, h

    return rnnjax.StepCell(step, lambda params, batch_shape: jnp.zeros((*batch_shape, 3)))


def test_closures_of_one_function_are_told_apart():
    """Two cells of the same code with different arrays, with and without `jit`, in either order."""
    params, xs = {"w": jnp.eye(3)}, jnp.linspace(-1, 1, 24).reshape(4, 2, 3)

    def outputs(level):
        return rnnjax.unroll(cell=leaky_towards(level), params=params, xs=xs)[1]

    for run in (outputs, jax.jit(outputs)):
        for level in (jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, -1.0, 0.1]), jnp.array([1.0, 2.0, 3.0])):
            step = leaky_towards(level).step_function
            right = lax.scan(lambda h, x, step=step: step(params, h, x), jnp.zeros((2, 3)), xs)[1]
            assert_close(run(level), right)


@pytest.mark.parametrize("engine", ["auto", "scan"])
def test_no_cache_keeps_a_closed_array(engine):
    """A deleted cell frees the arrays of its closure."""
    params, xs = {"w": jnp.eye(3)}, jnp.ones((4, 2, 3))
    level = jnp.array([1.0, 2.0, 3.0]) + 0.5
    known = weakref.ref(level)

    def use(cell):
        rnnjax.unroll(cell=cell, params=params, xs=xs, engine=engine)
        rnnjax.explain(cell=cell, params=params, xs=xs, engine=engine)
        jax.grad(lambda p: rnnjax.unroll(cell=cell, params=p, xs=xs, engine=engine)[1].sum())(params)

    use(leaky_towards(level))
    del level
    gc.collect()
    assert known() is None


def test_no_tracer_leaks_from_a_closure():
    """A step that closes over a tracer does not leak it, by JAX's own check."""
    params, xs = {"w": jnp.eye(3)}, jnp.ones((4, 2, 3))

    def loss(level):
        return rnnjax.unroll(cell=leaky_towards(level), params=params, xs=xs)[1].sum()

    with jax.checking_leaks():
        first = jax.grad(loss)(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(first, jax.grad(loss)(jnp.array([1.0, 2.0, 3.0])), rtol=1e-12)
