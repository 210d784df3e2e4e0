"""Functions that hold arrays can be trained on, and reuse their program while the arrays are equal."""

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax import training
from rnnjax.tasks import Batch
from rnnjax.training.steps import recognised
from tests.training import toy

SERIES = jnp.arange(12, dtype=jnp.float32).reshape(4, 3) / 12
OPTIONS = training.FitOptions(steps=4, chunk=2)
TRACES: list[int] = []


def drawn(series, key, step):
    xs = jnp.asarray(series)[jax.random.permutation(key, 4)]
    return xs, xs @ toy.TRUE


def scaled(scale, params, batch):
    TRACES.append(1)
    return jnp.mean(jnp.asarray(scale)) * toy.loss(params, batch)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A callable with arrays, which has no hash."""

    function: Any
    held: Any

    def __call__(self, a, b):
        return self.function(self.held, a, b)

    def method(self, a, b):
        return self.function(self.held, a, b)


@dataclasses.dataclass
class Changing:
    function: Any
    held: Any

    def __call__(self, a, b):
        return self.function(self.held, a, b)


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
    function: Any
    held: Any

    def __call__(self, a, b):
        return self.function(self.held, a, b)


WAYS: dict[str, Any] = {
    "frozen": Frozen,
    "changing": Changing,
    "slots": Slots,
    "method": lambda function, held: Frozen(function, held).method,
    "partial": functools.partial,
    "closure": lambda function, held: lambda a, b: function(held, a, b),
    "a list of arrays": lambda function, held: Frozen(lambda held, a, b: function(held[0], a, b), [held]),
    "NumPy": lambda function, held: Frozen(function, np.asarray(held)),
}


@pytest.mark.parametrize("name", WAYS)
def test_data_and_loss_that_hold_arrays(name):
    """Callables give the same bits as functions."""
    data, loss = WAYS[name](drawn, SERIES), WAYS[name](scaled, jnp.float32(1))
    toy.same_bits(training.fit(loss, toy.start(), toy.RULE, data, OPTIONS).state, plain().state)


def test_fit_many_of_data_and_loss_that_hold_arrays():
    data, loss = Frozen(drawn, SERIES), Slots(scaled, jnp.float32(1))
    keys = jax.random.key(7)[None]
    many = training.fit_many(
        loss, lambda key, setting: toy.start().params, toy.RULE, data, {"key": keys}, OPTIONS, key=keys[0]
    )
    np.testing.assert_allclose(many.state.params["w"][0], plain().state.params["w"], rtol=1e-5)


@functools.cache
def plain():
    data = lambda key, step: drawn(SERIES, key, step)  # noqa: E731
    return training.fit(lambda params, batch: toy.loss(params, batch), toy.start(), toy.RULE, data, OPTIONS)


@pytest.mark.parametrize("make", [Changing, Slots, WAYS["method"], WAYS["NumPy"]])
def test_one_program_while_the_same_is_held(make):
    """A new object with the same arrays reuses the program; with other arrays it gets its own."""
    one, rule = jnp.float32(1), optax.sgd(0.1)

    def run(held):
        TRACES.clear()
        fitted = training.fit(make(scaled, held), toy.start(rule), rule, toy.data, OPTIONS)
        return len(TRACES), float(fitted.state.params["b"])

    assert run(one)[0] == 1
    again, first = run(one)
    assert again == 0
    other, second = run(jnp.float32(2))
    assert other == 1 and first != second


def test_what_was_changed_in_place_is_another():
    loss, array = Changing(scaled, jnp.float32(1)), np.ones(1, np.float32)
    assert recognised(loss) == recognised(Changing(scaled, loss.held))
    before, of_array = recognised(loss), recognised(Frozen(scaled, array))
    loss.held = jnp.float32(2)
    array[0] = 2.0
    assert recognised(loss) != before and recognised(Frozen(scaled, array)) != of_array


def test_what_has_no_hash_and_nothing_to_look_into_is_never_recognised():
    one = bytearray(b"a")
    assert recognised(one) != recognised(one)
    assert recognised(types.SimpleNamespace(a=1)) == recognised(types.SimpleNamespace(a=1))
    assert recognised(types.SimpleNamespace(a=1)) != recognised(types.SimpleNamespace(a=1.0))


def test_truncated_training_of_functions_that_hold_arrays():
    """The network and its score as objects with arrays."""
    rows = lambda key, step: training.whole_rows(  # noqa: E731
        Batch(jnp.ones((4, 2, 1)), jnp.ones((4, 2, 1)), jnp.ones((4, 2)), jnp.full(2, 4))
    )

    @dataclasses.dataclass(frozen=True)
    class Leaky:
        decay: jax.Array

        def __call__(self, params, xs, *, carry, mask, resets):
            def step(h, x):
                h = self.decay * h + params * x
                return h, h

            return jax.lax.scan(step, carry, xs)

    score = Frozen(lambda scale, ys, chunk: jnp.mean(scale * (ys - chunk.targets) ** 2), jnp.array(2.0))
    rule, loss = optax.sgd(0.05), training.tbptt(Leaky(jnp.array(0.5)), score, 4)
    state = training.init_state(jnp.array(0.1), rule, jax.random.key(0), jnp.zeros((2, 1)))
    fitted = training.fit(loss, state, rule, rows, OPTIONS)
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]


def test_names_of_parameters_mean_nothing():
    """`fit` passes `key` only if it is asked to, whatever the loss calls its arguments."""

    def loss(params, batch, key):
        return jnp.sum(params**2), {"drawn": jax.random.uniform(key)}

    bound = functools.partial(loss, key=jax.random.key(3))
    state = training.init_state(jnp.ones(1), optax.sgd(0.0), jax.random.key(0))
    _, history = training.fit(bound, state, optax.sgd(0.0), lambda key, step: None, OPTIONS, has_aux=True)
    assert {line["drawn"] for line in history} == {float(jax.random.uniform(jax.random.key(3)))}
