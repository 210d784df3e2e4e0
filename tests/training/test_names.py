"""Distinct leaves stay distinct in a checkpoint, whatever their keys, or raise an error before training."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax import training
from rnnjax.training.faults import leaf_names
from tests.training import toy

KEYS = ["", "/", "//", "a/", "/a", ".", "..", "../up", "a.b", "a b", "ä", "W", "w", "w/0", "w/.zarray", "\0", "\ud800"]
KEYS += ["\\ud800", "leaf-0", "[0]", "['w']", "n" * 300, "n" * 70_000]
ALIKE = collections.OrderedDict({0: 1.0, "0": 2.0, "(1, 2)": 3.0, (1, 2): 4.0})
TREES = {
    "odd": {key: float(i) for i, key in enumerate(KEYS)},
    "nested": {"gru/w": 1.0, "gru": {"w": 2.0, "": 3.0}, "gru/": 4.0, "": 5.0, "params": 6.0},
    "alike": ALIKE,
    "deep": {"x/y": ({"z": 1.0}, 2.0), "x": {"y": {"0/z": 3.0, "0": {"z": 4.0}}, "y/1": 5.0}},
}


class Same:
    """Keys with equal `repr`."""

    def __repr__(self):
        return "same"


REFUSED = collections.OrderedDict({Same(): 1.0, Same(): 2.0})


def start(tree):
    return training.init_state(jax.tree.map(jnp.float32, tree), optax.sgd(0.1, momentum=0.5), jax.random.key(0))


@pytest.mark.parametrize("name", TREES)
def test_comes_back_leaf_by_leaf(tmp_path, name):
    state = start(TREES[name])
    names = leaf_names(state)
    assert len(set(names)) == len(names) == len(jax.tree.leaves(state))
    with training.Checkpoints(folder=tmp_path, every=10).opened() as store:
        assert store.load(state)[0] is None
        store.save(state)
        found, *_ = store.load(start(jax.tree.map(lambda _: 0.0, TREES[name])))
    assert found is not None and jax.tree.structure(found) == jax.tree.structure(state)
    for got, expected in zip(jax.tree.leaves(found.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_what_cannot_be_told_apart_is_refused_before_training(tmp_path):
    told = []
    with pytest.raises(ValueError, match=r"two leaves are named .*same.*only one .* could be saved"):
        training.fit(
            lambda params, batch: sum(jax.tree.leaves(params)) ** 2, start(REFUSED), optax.sgd(0.1, momentum=0.5),
            lambda key, step: 0.0, toy.OPTIONS, checkpoints=training.Checkpoints(folder=tmp_path, every=10),
            report=told.append,
        )  # fmt: skip
    assert not told


@dataclasses.dataclass(frozen=True)
class Nested(rnnjax.Cell):
    """Two parameters of the same shape, whose paths look alike."""

    def init(self, key, input_size, dtype=None):
        return {"gru/w": jnp.zeros(input_size, dtype), "gru": {"w": jnp.ones(input_size, dtype)}}

    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros(batch_shape)

    def step(self, params, carry, x):
        return carry + x @ (params["gru/w"] - params["gru"]["w"]), carry


def test_so_does_a_saved_model(tmp_path):
    params = Nested().init(jax.random.key(0), 3)
    folder = training.save_model(tmp_path / "model", Nested(), params, input_size=3)
    found = training.load_model(folder, classes=(Nested,))
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_a_config_that_json_would_merge_is_refused(tmp_path):
    with pytest.raises(TypeError):
        training.Checkpoints(folder=tmp_path, every=1, config={"sizes": {0: 1, "0": 2}})
