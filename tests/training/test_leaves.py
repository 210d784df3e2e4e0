"""Parameters and optimizer states with complex, integer and boolean leaves, no leaves, keys, and infinities."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from tests.training import toy
from tests.training.test_clipping import CLIPS, every_clip

KEY = jax.random.key(0)


def steps(count, **more):
    return training.FitOptions(steps=count, chunk=count, **more)


def nothing(key, step):
    return None


def fitted(loss, params, rule, options, data=nothing, **more):
    return training.fit(loss, training.init_state(params, rule, KEY), rule, data, options, **more)


GOAL = np.array([1 + 2j, -0.5 - 1j])


def to_goal(params, batch):
    """A loss that is not holomorphic, and steeper along one axis than along the other."""
    off = params["z"] - GOAL.astype(params["z"].dtype)
    return jnp.sum(off.real**2 + 3 * off.imag**2) + jnp.sum(params["x"] ** 2)


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.complex128])
@pytest.mark.parametrize(
    "rule",
    [
        optax.sgd(0.1),
        optax.adam(0.1),
        optax.lbfgs(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20)),
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(-0.01), opaque_mode=True),
    ],
    ids=["sgd", "adam", "lbfgs", "backtracking", "sam"],
)
def test_complex_parameters_descend(rule, dtype):
    """Complex parameters next to real ones, which are updated as if alone."""
    real = jnp.finfo(dtype).dtype
    start = {"z": jnp.zeros(2, dtype), "x": jnp.ones(3, real)}
    params = fitted(to_goal, start, rule, steps(100)).state.params
    np.testing.assert_allclose(params["z"], GOAL, atol=0.02)
    assert params["z"].dtype == dtype and np.abs(params["x"]).max() < 0.2


def test_a_complex_parameter_is_two_real_ones():
    """Every step equals that with the two parts as parameters, for SGD with and without momentum, with clipping."""
    rule = optax.chain(training.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.5))
    whole = fitted(to_goal, {"z": jnp.ones(2, complex), "x": jnp.ones(1)}, rule, steps(7)).state.params

    def by_parts(params, batch):
        return to_goal({"z": jax.lax.complex(params["re"], params["im"]), "x": params["x"]}, batch)

    start = {"re": jnp.ones(2), "im": jnp.zeros(2), "x": jnp.ones(1)}
    parts = fitted(by_parts, start, rule, steps(7)).state.params
    np.testing.assert_allclose(whole["z"], jax.lax.complex(parts["re"], parts["im"]), rtol=1e-12)
    np.testing.assert_allclose(whole["x"], parts["x"], rtol=1e-12)


def test_nan_in_one_part_of_a_complex_gradient_stops_before_it():
    def root(params, batch):
        return jnp.sqrt(jnp.sum(params["z"].imag ** 2)) + jnp.sum(params["z"].real)

    with pytest.raises(training.NonFiniteError, match="step 0: not finite: gradient of z") as e:
        fitted(root, {"z": jnp.zeros(2, jnp.complex64)}, optax.sgd(0.1), steps(3))
    assert np.isfinite(e.value.state.params["z"]).all()


MIXED = {
    "w": jnp.array([1.0, 2.0], jnp.float32),
    "table": jnp.array([7, -3], jnp.int32),
    "chosen": jnp.array([True, False]),
    "none": None,
    "key": jax.random.key(5),
}


@pytest.mark.parametrize(
    "rule", [toy.RULE, optax.adamw(0.1, weight_decay=0.5), optax.lbfgs(), optax.noisy_sgd(0.1, key=0)],
    ids=["clip", "decay", "lbfgs", "noise"],
)  # fmt: skip
def test_leaves_without_a_gradient_stay(rule):
    """Unchanged bit for bit under weight decay and noise; other leaves train, and the state is saved and restored."""

    def loss(params, batch):
        chosen = jnp.where(params["chosen"], params["w"], 0.5 * params["w"])
        return jnp.sum((chosen - params["table"].astype(jnp.float32)) ** 2)

    state = fitted(loss, MIXED, rule, steps(5)).state
    assert loss(state.params, None) < loss(MIXED, None)
    for name in ("table", "chosen"):
        np.testing.assert_array_equal(state.params[name], MIXED[name])
        assert state.params[name].dtype == MIXED[name].dtype
    assert state.params["none"] is None and state.params["key"] == MIXED["key"]


def test_data_parallel_takes_them_too():
    from rnnjax.sharding import make_mesh

    def loss(params, batch):
        return jnp.mean((batch @ params["w"] - params["n"].astype(jnp.float32)) ** 2)

    gradient = training.data_parallel(loss, make_mesh(jax.devices()[:1]), batch_axes=0)
    start = {"w": jnp.ones(3, jnp.float32), "n": jnp.array(2)}
    data = lambda key, step: jax.random.normal(key, (4, 3), jnp.float32)  # noqa: E731
    runs = [fitted(loss, start, optax.sgd(0.1), steps(3), data, gradient=g).state.params for g in (gradient, None)]
    np.testing.assert_allclose(runs[0]["w"], runs[1]["w"], rtol=1e-6)
    assert int(runs[0]["n"]) == 2


@every_clip
def test_clips_of_an_empty_tree(name):
    """As in Optax, nothing is clipped, also for a group without parameters, and if all leaves are None."""
    clip, weights = CLIPS[name](1.0), {"w": jnp.ones(3)}
    for empty in ({}, {"w": None}, ()):
        update, state = clip.update(empty, clip.init(empty), empty)
        assert update == empty and int(state.steps) == 1 and int(state.clipped) == 0 and float(state.norm_after) == 0
    groups: dict[Any, Any] = {group: optax.chain(CLIPS[name](1.0), optax.sgd(0.1)) for group in ("now", "later")}
    rule: Any = optax.multi_transform(groups, {"w": "now"})
    alone, _ = groups["now"].update(weights, groups["now"].init(weights), weights)
    update, _ = rule.update(weights, rule.init(weights), weights)
    np.testing.assert_array_equal(update["w"], alone["w"])


def test_clipping_of_complex_numbers():
    """Scaled like pairs of their parts, so that directions stay; NaN in one part gives NaN everywhere."""
    gradient = {"a": jnp.array([[3 + 4j, 0.6j], [1e20, -1e20j]], jnp.complex64), "b": jnp.array([2.0], jnp.float32)}
    clip: Any = training.clip_by_global_norm(0.5)
    update, state = clip.update(gradient, clip.init(gradient))
    before, after = np.asarray(gradient["a"], complex), np.asarray(update["a"], complex)
    np.testing.assert_allclose(after / np.abs(after), before / np.abs(before), rtol=1e-6)
    size = np.abs(before)
    expected = size * 0.5 / np.sqrt((size**2).sum() + 4)
    np.testing.assert_allclose(np.abs(after), expected, rtol=1e-6)
    assert update["a"].dtype == jnp.complex64 and int(state.clipped) == 1
    gradient["a"] = gradient["a"].at[0, 1].set(complex(0.0, np.nan))
    update, state = clip.update(gradient, clip.init(gradient))
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(update)) and int(state.nonfinite) == 1


def test_clipping_leaves_integers_alone():
    """Such leaves are unchanged and not part of the norm."""
    clip: Any = training.clip_by_global_norm(1.0)
    floats = {"w": jnp.array([3.0, 4.0])}
    mixed = floats | {"n": jnp.array([100], jnp.int32), "flag": jnp.array(True), "none": None}
    alone, _ = clip.update(floats, clip.init(floats), floats)
    update, state = clip.update(mixed, clip.init(mixed), mixed)
    np.testing.assert_array_equal(update["w"], alone["w"])
    assert update["n"].dtype == jnp.int32 and int(update["n"][0]) == 100 and update["flag"].dtype == bool
    assert float(state.norm_before) == 5.0 and update["none"] is None


STATES = {
    "plain": lambda: training.init_state({"w": jnp.zeros(3), "v": jnp.zeros(3)}, toy.RULE, KEY),
    "cached parameters": lambda: training.init_state(
        MIXED, optax.contrib.sam(toy.RULE, optax.sgd(0.1)), KEY, carry={"h": MIXED["w"]}
    ),
    "many, in one program": lambda: jax.jit(lambda: training.init_state({"w": jnp.zeros(3)}, toy.RULE, KEY))(),
    "a clip by itself": lambda: training.clip_by_global_norm(1.0).init({"w": jnp.zeros(3)}),
}


@pytest.mark.parametrize("name", STATES)
def test_each_leaf_of_a_fresh_state_is_a_buffer_of_its_own(name):
    """No leaf shares a buffer with another, or with the caller's parameters and key, so all can be donated."""
    state = STATES[name]()
    shared = [leaf.unsafe_buffer_pointer() for leaf in map(_data, jax.tree.leaves((MIXED, KEY)))]
    own = [leaf.unsafe_buffer_pointer() for leaf in map(_data, jax.tree.leaves(state))]
    assert len({*own, *shared}) == len(own) + len(shared)
    jax.jit(lambda state: jax.tree.map(lambda leaf: leaf, state), donate_argnums=0)(state)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((MIXED, KEY)))


def _data(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def best_so_far():
    """An optimizer that stores the smallest loss, initially inf, and changes nothing."""

    def update(updates, state, params=None, *, value: Any = None, **extra_args):
        return updates, jnp.minimum(state, value)

    return optax.GradientTransformationExtraArgs(lambda params: jnp.array(jnp.inf, jnp.float32), update)


def injected(max_norm):
    make = lambda max_norm, rate: optax.chain(training.clip_by_global_norm(max_norm), optax.sgd(rate))  # noqa: E731
    return optax.inject_hyperparams(make)(max_norm=max_norm, rate=0.1)


def huge(gradient: Any) -> Any:
    return 1e38 * jnp.max(jnp.abs(gradient["w"])) * 1e3


LEGAL = {
    "a bound that never clips": lambda: injected(jnp.inf),
    "a bound that is lifted at step 2": lambda: injected(lambda step: jnp.where(step < 2, 0.5, jnp.inf)),
    "a best value to come": lambda: optax.chain(optax.contrib.reduce_on_plateau(patience=50), optax.sgd(0.1)),
    "one's own best value": lambda: optax.chain(best_so_far(), optax.sgd(0.1)),
    "a measurement that overflows": lambda: optax.chain(optax.snapshot("huge", huge), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_infinity_is_no_fault(name):
    state = fitted(toy.loss, toy.start().params, LEGAL[name](), steps(20), toy.data).state
    assert int(state.skipped) == 0 and toy.loss(state.params, toy.data(KEY, 0)) < 0.1


def test_a_legal_infinity_among_the_parameters():
    """A mask of -inf without a gradient is allowed; NaN in another leaf is still detected."""

    def loss(params, batch):
        return -jnp.log(jax.nn.softmax(params["logits"] + jax.lax.stop_gradient(params["mask"]))[1]) * batch

    start = {"logits": jnp.zeros(3), "mask": jnp.array([0.0, 0.0, -jnp.inf])}
    params = fitted(loss, start, optax.sgd(0.5), steps(10), lambda key, step: 1.0).state.params
    assert params["logits"][1] > 1 and np.isneginf(params["mask"][2])
    with pytest.raises(training.NonFiniteError, match="step 3: not finite: loss"):
        fitted(loss, start, optax.sgd(0.5), steps(10), lambda key, step: jnp.where(step == 3, jnp.nan, 1.0))


def test_a_norm_beyond_float32_that_is_clipped_is_no_fault():
    """With entries of 3e38, the norm in `ClipState` is inf, but the update is right."""
    rule = optax.chain(training.clip_by_global_norm(1.0), optax.sgd(0.01))
    huge = lambda key, step: jnp.where(step < 9, 2e38, 0.0).astype(jnp.float32)  # noqa: E731
    loss = lambda w, batch: jnp.sum(w) * batch  # noqa: E731
    params = fitted(loss, jnp.zeros(100, jnp.float32), rule, steps(3), huge).state.params
    np.testing.assert_allclose(params, -0.003, rtol=1e-5)


def test_an_infinity_that_grew_is_a_fault_beside_one_that_was_there():
    """Adam's moments overflow while the same state has an allowed infinity."""
    rule = optax.chain(best_so_far(), optax.adam(0.1))
    huge = lambda params, batch: 1e30 * toy.loss(params, batch)  # noqa: E731
    with pytest.raises(training.NonFiniteError, match="step 0: not finite: optimizer state 1/0/nu/b"):
        fitted(huge, toy.start().params, rule, steps(2), toy.data)
