"""Equal cells, and new lengths, masks or resets, do not compile again."""

import copy
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import ALL_COUNT, CELLS, COMBINED, ENGINES, LENGTHS_ONLY, B, T, every_cell, sample


@every_cell
def test_one_trace_over_a_thousand_calls(name):
    """Each call has a new but equal cell as static argument."""
    chex.clear_trace_counter()

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def unrolled(cell, params, xs):
        return rnnjax.unroll(cell, params, xs, engine="scan")

    params, _, xs = sample(name)
    for _ in range(1000):
        cell = copy.deepcopy(CELLS[name])
        assert cell is not CELLS[name]
        unrolled(cell, params, xs)
    assert unrolled._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "loop"])
@pytest.mark.parametrize("name", ["elman_tanh"])
def test_one_trace_of_a_training_step(name, engine):
    """1,000 gradients of a whole unroll, with cells, lengths, masks, resets, parameters and inputs new each time."""
    chex.clear_trace_counter()

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def gradient(cell, params, xs, times):
        def loss(params):
            _, ys = rnnjax.unroll(cell, params, xs, **times._asdict(), **ENGINES[engine])
            return ys.sum()

        return jax.grad(loss)(params)

    params, _, xs = sample(name)
    cases = [ALL_COUNT, LENGTHS_ONLY, COMBINED]
    for k in range(1000):
        gradients = gradient(copy.deepcopy(CELLS[name]), params, xs, cases[k % 3])
        params = gradients if k % 100 == 0 else params
    assert gradient._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_counter_counts():
    """The two tests above can fail: a different cell is traced again and counted."""
    chex.clear_trace_counter()

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def initial_carry(cell, params):
        return cell.initial_carry(params, (B,))

    initial_carry(rnnjax.LSTM(3), sample("lstm").params)
    with pytest.raises(AssertionError, match="traced > 1 times"):
        initial_carry(rnnjax.LSTM(3, forget_bias=2.0), sample("lstm").params)


@every_cell
def test_lengths_are_data_under_jit(name):
    """Traced lengths need no value, as abstract evaluation shows."""
    shapes = jax.eval_shape(
        lambda drawn, lengths: rnnjax.unroll(CELLS[name], **drawn._asdict(), lengths=lengths),
        sample(name),
        np.full(B, T),
    )
    assert shapes[1].shape[:2] == (T, B)


COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration_secs, **kwargs: COMPILED.append(event) if "backend_compile" in event else None
)


@pytest.mark.parametrize("engine", ["auto", "scan"])
@every_cell
def test_a_second_eager_call_compiles_nothing(name, engine):
    """Also for a gradient, and for an equal cell that is another object."""
    params, _, xs = sample(name)
    lengths = np.array([5, 3, 0])

    def run(turn):
        cell = copy.deepcopy(CELLS[name])
        _, ys = rnnjax.unroll(cell, params, xs + turn, lengths=lengths, engine=engine)
        gradient = jax.grad(lambda p: rnnjax.unroll(cell, p, xs + turn, lengths=lengths, engine=engine)[1].sum())(
            params
        )
        return jax.block_until_ready((ys, gradient))

    run(0)
    before = len(COMPILED)
    run(1)
    assert len(COMPILED) == before


def test_what_a_step_closes_over_is_read_at_every_call():
    """A cell that closes over arrays has no cached program, since the arrays may change or be differentiated."""
    held = {"w": jnp.array([2.0])}
    cell = rnnjax.StepCell(lambda _, h, x: (h + held["w"] * x,) * 2, lambda _, shape: jnp.zeros((*shape, 1)))
    xs = jnp.ones((3, 1))
    engines: tuple[Any, ...] = ("auto", "scan")
    for engine in engines:
        for w in (2.0, 3.0):
            held["w"] = jnp.array([w])
            assert rnnjax.unroll(cell, (), xs, engine=engine)[0] == 3 * w

        def last(w, engine=engine):
            held["w"] = w
            return rnnjax.unroll(cell, (), xs, engine=engine)[0].sum()

        assert jax.grad(last)(jnp.array([5.0])) == 3


def test_a_step_that_closes_over_an_array_for_some_shapes():
    """The cached program of other calls is not used for these."""
    w = jnp.array([2.0, 3.0])
    step = lambda _, h, x: (h + (w * x if x.shape[-1] == 2 else x),) * 2  # noqa: E731
    cell = rnnjax.StepCell(step, lambda _, shape: jnp.zeros((*shape, 2)))
    assert rnnjax.unroll(cell, (), jnp.ones((3, 1)))[0].tolist() == [3, 3]
    assert rnnjax.unroll(cell, (), jnp.ones((3, 2)))[0].tolist() == [6, 9]
