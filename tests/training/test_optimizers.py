"""Every optimizer of Optax trains, separately under `fit` and all together under `fit_many`."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from rnnjax import training
from rnnjax.training.optimizers import transformation
from tests.training.optimizers import DO_NOT, TABLE, TRAIN, exported, table

START = {"w": jnp.array([[1, 2], [2, 1]], jnp.float32), "b": jnp.array([1, 2], jnp.float32), "unused": None}
TRUE = {"w": jnp.array([[1.5, 1.7], [2.2, 0.6]], jnp.float32), "b": jnp.array([1.4, 1.4], jnp.float32), "unused": None}
KEY = jax.random.key(0)


def loss(params, batch):
    return sum(jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (params, TRUE)), strict=True)) / 2


def data(key, step):
    return None


def made(name) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return TRAIN[name]()


def start(name):
    """`contrib.galore` does not accept None."""
    return {key: leaf for key, leaf in START.items() if "galore" not in name or leaf is not None}


def steps(count):
    return training.FitOptions(steps=count, chunk=count)


ALONE = """
MultiSteps lbfgs scale_by_backtracking_linesearch scale_by_zoom_linesearch contrib.galore
contrib.hutchinson_estimator_diag_hessian contrib.reduce_on_plateau contrib.sam contrib.scale_by_galore contrib.sophia
"""
"""Optimizers that evaluate the whole loss, or do not accept arguments that others need."""

OTHERS = sorted(TRAIN.keys() - set(ALONE.split()))
GROUPS = {
    names[0]: names
    for names in [*([name] for name in ALONE.split()), *(OTHERS[i : i + 5] for i in range(0, len(OTHERS), 5))]
}
"""Groups of optimizers that share a program; `optax.partition` gives each its own parameters."""


def rule_of(names):
    if len(names) == 1:
        return {names[0]: start(names[0])}, optax.chain(transformation(made(names[0])))
    rules = {name: transformation(made(name)) for name in names}
    labels = {name: name for name in names}
    return {name: start(name) for name in names}, optax.partition(rules, labels, mask_compatible_extra_args=True)


def loss_of_all(params, batch):
    return sum(loss(tree, batch) for tree in params.values())


def check(params):
    for name, tree in params.items():
        assert float(loss(tree, None)) < 0.8 * float(loss(START, None)), name


@pytest.mark.one_in(3)
@pytest.mark.parametrize("first", GROUPS)
def test_trains(first):
    """20 steps from `START` reduce the loss by at least a fifth."""
    params, rule = rule_of(GROUPS[first])
    check(training.fit(loss_of_all, training.init_state(params, rule, KEY), rule, data, steps(20)).state.params)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("first", GROUPS)
def test_trains_under_fit_many(first):
    """The same in one of two runs, where the updates of the other are scaled by zero."""
    params, rule = rule_of(GROUPS[first])
    many = training.fit_many(
        loss_of_all,
        lambda key, setting: params,
        lambda setting: optax.chain(rule, optax.scale(setting)),
        data,
        jnp.array([1.0, 0.0], jnp.float32),
        steps(20),
        key=KEY,
    )
    assert many.faults == [None, None]
    check(jax.tree.map(lambda leaf: leaf[0], many.state.params))
    jax.tree.map(lambda leaf, was: np.testing.assert_array_equal(leaf[1], was), many.state.params, params)


@pytest.mark.parametrize("name", [name for name in DO_NOT if "contrib." in name or name in ("lookahead", "monitor")])
def test_what_does_not_train_says_so(name):
    rules = {
        "contrib.differentially_private_aggregate": lambda: contrib.differentially_private_aggregate(1.0, 0.1, key=0),
        "contrib.dpsgd": lambda: contrib.dpsgd(0.1, 1.0, 0.1, seed=0),
        "monitor": lambda: optax.chain(optax.monitor({"norm": optax.tree.norm}), optax.sgd(0.1)),
        "lookahead": lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        rule = rules[name]()
    with pytest.raises((TypeError, ValueError, AttributeError)):
        training.fit(loss, training.init_state(START, rule, KEY), rule, data, steps(2))


def test_the_table_knows_every_name():
    """Also for other versions of Optax: names that are not in the table are reported."""
    known = TRAIN.keys() | DO_NOT.keys()
    assert exported() == known
    assert len(TRAIN) >= 0.9 * len(known)
    assert TABLE.read_text(encoding="utf-8") == table(), "run python -m tests.training.optimizers"


def test_extra_arguments():
    """The arguments of `update` at step 0: loss and gradient of the step's batch, and functions of other parameters."""
    batch = jnp.array([2.0, -1.0])
    seen: dict[str, Any] = {}

    def update(updates, state, params: Any = None, **extra):
        other = params + 1.0
        seen.update(value=extra.pop("value"), grad=extra.pop("grad"), grad_fn=extra.pop("grad_fn")(other, 0))
        seen.update({name: function(other) for name, function in extra.items()})
        return jax.tree.map(jnp.zeros_like, updates), {name: jnp.asarray(given) for name, given in seen.items()}

    def init(params):
        zero = jnp.zeros(())
        return {"value": zero, "grad": params, "value_fn": zero, "obj_fn": zero, "grad_fn": params}

    def cubic(params, batch, key):
        return jnp.sum(params**3 * batch) + 0 * jax.random.uniform(key)

    rule = optax.chain(optax.identity(), optax.GradientTransformationExtraArgs(init, update))
    start = jnp.array([1.0, 3.0])
    state = training.init_state(start, rule, KEY)
    _, given = training.fit(cubic, state, rule, lambda key, step: batch, steps(1), has_key=True).state.opt_state
    np.testing.assert_allclose(given["value"], 2.0 - 27.0)
    np.testing.assert_allclose(given["grad"], 3 * start**2 * batch)
    np.testing.assert_allclose([given["value_fn"], given["obj_fn"]], [16.0 - 64.0] * 2)
    np.testing.assert_allclose(given["grad_fn"], 3 * (start + 1) ** 2 * batch)


def test_a_wrapper_without_extra_arguments_beside_one_that_needs_them():
    """`sam` accepts only `grad_fn`, also inside a chain."""
    rule = optax.chain(training.clip_by_global_norm(10.0), made("contrib.sam"))
    fitted = training.fit(loss, training.init_state(START, rule, KEY), rule, data, steps(20))
    assert float(loss(fitted.state.params, None)) < 0.8 * float(loss(START, None))


@pytest.mark.parametrize("optimizer", [optax.adam, optax.MultiSteps, 0.1, None])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(TypeError, match=r"`optimizer` is .* no `init` and `update`.*optax\.adam\(1e-3\)"):
        training.init_state(START, optimizer, KEY)


def test_a_state_that_changes_its_structure_is_refused_by_leaf():
    rule = optax.GradientTransformation(
        lambda params: {"a": jnp.zeros(())}, lambda updates, state, params=None: (updates, {"b": jnp.zeros(())})
    )
    with pytest.raises(TypeError, match=r"state had the form .*'a'.* before `update`, and .*'b'.* after it"):
        training.fit(loss, training.init_state(START, rule, KEY), rule, data, steps(1))


class Plain:
    """A custom `init` and `update`, without extra arguments."""

    def init(self, params):
        return ()

    def update(self, updates, state, params=None):
        return jax.tree.map(lambda leaf: -0.1 * leaf, updates), state


@pytest.mark.parametrize(
    "rule",
    [Plain(), optax.chain(training.clip_by_global_norm(1.0), optax.polyak_sgd(0.5)), optax.lbfgs()],
    ids=["plain", "polyak", "lbfgs"],
)
def test_truncated_training(rule):
    """The loss at other parameters is that of the same chunk from the same carry."""

    def apply(decay, xs, *, carry, mask, resets):
        def step(h, x):
            h = decay * h + x[..., 0]
            return h, h

        return jax.lax.scan(step, carry, xs)

    def score(hs, chunk):
        return jnp.mean((hs - chunk.targets[..., 0]) ** 2)

    xs, flags = jnp.ones((4, 1, 1)), jnp.zeros((4, 1), bool)
    chunk = training.Chunk(xs, 2 * xs, xs[..., 0], ~flags, flags)  # h converges to 2 for a decay of 0.5
    state = training.init_state(jnp.array(0.2), rule, KEY, jnp.full(1, 2.0))
    fitted = training.fit(training.tbptt(apply, score, 4), state, rule, lambda key, step: chunk, steps(40))
    np.testing.assert_allclose(fitted.state.params, 0.5, atol=0.02)
