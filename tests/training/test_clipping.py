"""Clipping: equal to Optax up to rounding where Optax is right, and no silent NaN or zero elsewhere."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.training.optimizers import clip_states, norm

CLIPS: dict[str, Any] = {
    "global": training.clip_by_global_norm,
    "value": lambda bound: training.counted(optax.clip(bound)),
    "adaptive": lambda bound: training.counted(optax.adaptive_grad_clip(bound)),
}
every_clip = pytest.mark.parametrize("name", CLIPS)


def tree(seed=0, scale=1.0, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"b": (3,), "s": (), "w": (4, 3)}
    return {name: jnp.asarray(np.asarray(scale * rng.normal(size=shape), dtype)) for name, shape in shapes.items()}


WEIGHTS = tree(9)


def run(clip, gradient, params: Any = WEIGHTS) -> Any:
    return clip.update(gradient, clip.init(gradient), params)


@functools.cache
def compiled(name):
    """One program per clip, with a traced bound, since compilation takes most of the time."""
    return jax.jit(lambda bound, gradient, params: run(CLIPS[name](bound), gradient, params))


ORACLES: dict[str, Any] = {
    "global": lambda bound, g, w: optax.clip_by_global_norm(bound).update(g, optax.EmptyState()),
    "value": lambda bound, g, w: optax.clip(bound).update(g, optax.EmptyState()),
    "adaptive": lambda bound, g, w: optax.adaptive_grad_clip(bound).update(g, optax.EmptyState(), w),
}


def leaves(*trees):
    return zip(*map(jax.tree.leaves, trees), strict=True)


@every_clip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_optax_in_range(name, dtype):
    """From far below the bound to far above it; up to a few rounding errors, since compilers reorder sums."""
    oracle = jax.jit(ORACLES[name])
    weights = jax.tree.map(lambda leaf: leaf.astype(dtype), WEIGHTS)
    counts = set()
    for seed, scale in enumerate([1e-5, 0.01, 0.3, 1.0, 30.0, 1e6]):
        for bound in (0.05, 1.0, 7.5):
            gradient, bound = tree(seed, scale, dtype), jnp.asarray(bound, dtype)
            ours, state = compiled(name)(bound, gradient, weights)
            for got, expected, before in leaves(ours, oracle(bound, gradient, weights)[0], gradient):
                assert got.dtype == before.dtype
                np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)
            assert int(state.clipped) == any((a != b).any() for a, b in leaves(ours, gradient))
            counts.add(int(state.clipped))
    assert counts == {0, 1}


def test_the_bound_itself_is_within():
    """(3, 4) with bound 5 does not count as clipped, since nothing changes."""
    update, state = run(training.clip_by_global_norm(5.0), jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(update, [3.0, 4.0], rtol=1e-15)
    assert int(state.clipped) == 0


def oracle_norm(gradient):
    """The norm in scaled float64, which is exact for all float32 values."""
    flat = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(gradient)])
    largest = np.abs(flat).max()
    return largest * np.sqrt(np.sum((flat / largest) ** 2))


SIZES = [1e-36, 1e-25, 1e-19, 1.0, 1e18, 1e19, 1e25, 1e30, 3e37]
NORM = jax.jit(norm)


@pytest.mark.parametrize("size", SIZES)
def test_norm_at_every_size_of_float32(size):
    """Squares of the smallest and largest numbers are out of float32's range, but the norm is not."""
    gradient = tree(1, size)
    for function in (norm, NORM):  # a compiler may merge operations that are separate in eager mode
        np.testing.assert_allclose(float(function(gradient)), oracle_norm(gradient), rtol=1e-6)


def test_norm_of_float64_beyond_its_squares():
    for size in (1e-300, 1e-200, 1e200, 1e307):
        gradient = tree(1, size, np.float64)
        np.testing.assert_allclose(float(NORM(gradient)), oracle_norm(gradient), rtol=1e-14)


@pytest.mark.parametrize("size", [1e18, 1e25, 1e30, 3e37])
def test_a_huge_gradient_keeps_its_direction(size):
    """Where Optax gives an all-zero update, or NaN, the result is (g / norm) c, computed in float64."""
    gradient = tree(2, size)
    clip = training.clip_by_global_norm(0.5)
    true = oracle_norm(gradient)
    for ours, state in (run(clip, gradient), compiled("global")(jnp.float32(0.5), gradient, WEIGHTS)):
        for got, leaf in leaves(ours, gradient):
            np.testing.assert_allclose(got, np.asarray(leaf, np.float64) / true * 0.5, rtol=1e-6)
        assert int(state.clipped) == 1 and int(state.nonfinite) == 0
        np.testing.assert_allclose([state.norm_before, state.norm_after], [true, 0.5], rtol=1e-6)


def test_optax_does_lose_it():
    """Optax's behaviour that the tests above guard against; if Optax changes, this file may become simpler."""
    update, _ = optax.clip_by_global_norm(0.5).update(tree(2, 1e30), optax.EmptyState())
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(update))
    nothing, _ = optax.clip_by_global_norm(0.0).update(jnp.zeros(2), optax.EmptyState())
    assert np.isnan(np.asarray(nothing)).all()


def test_a_norm_beyond_float32_is_clipped_all_the_same():
    """The entries and the update are finite, though the norm is not."""
    gradient = jnp.full(1000, 3e38, jnp.float32)
    update, state = run(training.clip_by_global_norm(1.0), gradient)
    np.testing.assert_allclose(update, np.full(1000, 1000**-0.5), rtol=1e-6)
    assert int(state.clipped) == 1 and np.isposinf(state.norm_before)


@every_clip
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_has_no_direction(name, bad):
    """All leaves become NaN, without a mixture of zeros and NaN."""
    gradient = tree(3)
    gradient["w"] = gradient["w"].at[1, 2].set(bad)
    update, state = compiled(name)(jnp.float32(1.0), gradient, WEIGHTS)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(update))
    assert int(state.nonfinite) == 1 and int(state.clipped) == 0 and jnp.isnan(state.norm_before)


@pytest.mark.parametrize("value", [0.0, 1e-40, -1e-45])
def test_zero_and_subnormal_pass_unchanged(value):
    """A zero gradient is unchanged bit for bit, without division by zero."""
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), WEIGHTS)
    update, state = compiled("global")(jnp.float32(1.0), gradient, WEIGHTS)
    assert all(np.asarray(got).tobytes() == np.asarray(leaf).tobytes() for got, leaf in leaves(update, gradient))
    assert int(state.clipped) == 0 and float(state.norm_after) == 0


@pytest.mark.parametrize("bound", [0, 0.0, -1.0, float("nan"), -np.inf, np.float32(-0.0), jnp.array(0.0)])
def test_a_bound_that_is_none_is_refused(bound):
    """The constructor raises, with the value and the fix."""
    with pytest.raises(ValueError, match=r"is -?(0\.0|1\.0|nan|inf).*positive number.*set_to_zero"):
        training.clip_by_global_norm(bound)


def test_a_traced_bound():
    """A traced bound is not checked: zero gives zero updates, an invalid one gives NaN, and no sign changes."""
    gradient = tree(4, 10.0)
    frozen, _ = compiled("global")(jnp.float32(0.0), gradient, WEIGHTS)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(frozen))
    for bound in (-1.0, np.nan):
        update, _ = compiled("global")(jnp.float32(bound), gradient, WEIGHTS)
        assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(update))


def test_an_infinite_bound_never_clips():
    gradient = tree(5, 1e30)
    update, state = compiled("global")(jnp.float32(np.inf), gradient, WEIGHTS)
    assert all((got == leaf).all() for got, leaf in leaves(update, gradient))
    assert int(state.clipped) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
    """A norm whose square overflows in float16; the update keeps its dtype."""
    gradient = {"w": jnp.full((8, 8), 1000.0, dtype)}
    update, state = jax.jit(functools.partial(run, training.clip_by_global_norm(1.0)))(gradient)
    assert update["w"].dtype == dtype
    np.testing.assert_allclose(np.asarray(update["w"], np.float32), 1 / 8, rtol=1e-3)
    np.testing.assert_allclose(float(state.norm_before), 8000.0, rtol=1e-6)


def test_counts_and_norms_over_steps():
    """Inside a jitted loop, as part of an optimizer's state."""
    rule = optax.chain(training.clip_by_global_norm(1.0), optax.sgd(1.0))
    sizes = jnp.array([0.5, 2.0, jnp.inf, 4.0, 1.0])

    def step(state, size):
        _, state = rule.update(size[None], state)
        return state, clip_states(state)[0]

    _, states = jax.lax.scan(step, rule.init(jnp.zeros(1)), sizes)
    assert states.steps.tolist() == [1, 2, 3, 4, 5]
    assert states.clipped.tolist() == [0, 1, 1, 2, 2]
    assert states.nonfinite.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_array_equal(states.norm_before, [0.5, 2.0, np.nan, 4.0, 1.0])
    np.testing.assert_array_equal(states.norm_after, [0.5, 1.0, np.nan, 1.0, 1.0])


def test_clip_states_are_found_in_order():
    rule = optax.chain(CLIPS["value"](2.0), optax.masked(training.clip_by_global_norm(1.0), True), optax.sgd(0.1))
    found = clip_states(rule.init(WEIGHTS))
    assert [type(state) for state in found] == [training.ClipState] * 2
    assert clip_states(optax.adam(0.1).init(WEIGHTS)) == []
