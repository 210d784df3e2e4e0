"""Under each of JAX's switches, every cell gives the same values and gradients, with and without NaN in padding.

Strict dtype promotion is on in all tests (`conftest.py`), and is included here too.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients, tasks
from tests.registry import CELLS, D, assert_close, sample

STEPS, ROWS = 3, 2

SWITCHES = {
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "checking_leaks": jax.checking_leaks,
    "enable_checks": lambda: jax.enable_checks(True),
    "disable_jit": jax.disable_jit,
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
    "x64_off": lambda: jax.enable_x64(False),
    "typed_keys_only": lambda: jax.legacy_prng_key("error"),
}
"""Context managers by name. The transfer guard forbids implicit transfers, which every eager call makes."""

EAGER = {"debug_nans", "debug_infs", "disable_jit"}
"""Switches under which an eager call is tested too; for the others it would add nothing."""


ON_SCAN = {"lstm", "custom"}


def loss_and_gradients(name, params, carry, xs, lengths):
    """The sum of sines of all results of `unroll`, on the default engine, and for some cells on `scan`."""

    def loss(engine, params, carry, xs):
        found = rnnjax.unroll(CELLS[name], params, xs, carry=carry, lengths=lengths, engine=engine)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(found))

    both = jax.value_and_grad(loss, argnums=(1, 2, 3))
    return {engine: both(engine, params, carry, xs) for engine in ("auto", "scan")[: 1 + (name in ON_SCAN)]}


@functools.cache
def arguments(name):
    """Row 1 has length 1, and is NaN after it."""
    params, carry, xs = sample(name, steps=STEPS, batch_shape=(ROWS,))
    return params, carry, xs.at[1:, 1].set(jnp.nan), jnp.array([STEPS, 1], "int32")


@functools.cache
def expected(name):
    return jax.jit(loss_and_gradients, static_argnums=0)(name, *arguments(name))


OWN = {"step_cell", "custom", "reset_before", "layer_norm", "deep_stack", "stack_of_bidirectional"}
"""Custom cells of the tests, and composites of them, which rely on rank promotion for their biases."""

PAIRS = [(n, s) for n in CELLS for s in SWITCHES if s != "rank_promotion" or n not in OWN]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("name", "switch"), PAIRS)
def test_every_cell_under_every_switch(name, switch):
    want, given, tolerance = expected(name), arguments(name), 1e-12
    if switch == "x64_off":
        given = jax.tree.map(lambda a: a.astype("float32") if a.dtype == "float64" else a, given)
        want, tolerance = jax.tree.map(lambda a: a.astype("float32"), want), 1e-4
    fresh = functools.partial(loss_and_gradients, name)  # compiled anew under each switch
    with SWITCHES[switch]():
        assert_close(jax.jit(fresh)(*given), want, tolerance)
        if switch in EAGER:
            assert_close(fresh(*given), want, tolerance)


@pytest.mark.parametrize("name", CELLS)
def test_typed_and_raw_keys_draw_the_same(name):
    cell = CELLS[name]
    assert_close(cell.init(jax.random.PRNGKey(3), D), cell.init(jax.random.key(3), D))


@pytest.mark.parametrize("name", CELLS)
def test_every_leaf_of_a_fresh_carry_can_be_donated(name):
    """Every leaf has its own buffer, also if a program merely returns it."""
    cell, (params, _, xs) = CELLS[name], sample(name)
    carry = cell.initial_carry(params, xs.shape[1:-1])
    again = jax.jit(lambda carry: jax.tree.map(lambda leaf: leaf + 1, carry), donate_argnums=0)(carry)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((again, params)))


@pytest.mark.parametrize("name", CELLS)
def test_every_leaf_of_fresh_parameters_can_be_donated(name):
    params = CELLS[name].init(jax.random.key(0), D)
    jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)(params)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_a_switch_that_is_broken_shows():
    """The tests above can fail: a step that promotes ranks, and one that creates NaN, raise."""
    params, carry, xs, _ = arguments("elman_tanh")

    def run(step):
        cell = rnnjax.StepCell(step, lambda params, batch_shape: jnp.zeros((*batch_shape, 3), "float64"))
        return jax.jit(lambda: rnnjax.unroll(cell, params, xs[:1], engine="scan"))()

    with SWITCHES["rank_promotion"](), pytest.raises(ValueError, match="rank"):
        run(lambda p, h, x: (h + p.b, h))
    with SWITCHES["debug_nans"](), pytest.raises(FloatingPointError):
        run(lambda p, h, x: (jnp.log(h - 1), h))
    assert np.isfinite(carry).all()


TASKS = {
    "adding": lambda key: tasks.adding(key, 6, (2, 2)),
    "copy_memory": lambda key: tasks.copy_memory(key, 7, (2, 2), symbols=4, memory=3),
    "delayed_xor": lambda key: tasks.delayed_xor(key, 6, (2, 2), delay=2),
    "latch": lambda key: tasks.latch(key, 6, (2, 2), signal_steps=2),
    "parity": lambda key: tasks.parity(key, 6, (2, 2), shortest=3),
    "statland": lambda key: tasks.statland(key, (2, 2)),
    "temporal_order": lambda key: tasks.temporal_order(key, 10, (2, 2)),
    "windows": lambda key: tasks.windows(key, np.arange(20.0), 6, (2, 2)),
    "flip_flop": lambda key: tasks.flip_flop(key, 6, (2, 2), bits=2),
    "perceptual_decision": lambda key: tasks.perceptual_decision(key, 6, (2, 2)),
    "context_integration": lambda key: tasks.context_integration(key, 6, (2, 2)),
    "delayed_match": lambda key: tasks.delayed_match(key, 6, (2, 2)),
    "pixels": lambda key: tasks.pixels(key, np.ones((3, 2, 2), "uint8"), np.arange(3), (2, 2), permutation_key=key),
    "reber": lambda key: tasks.reber(key, 6, (2, 2)),
    "lorenz": lambda key: tasks.lorenz(key, 2, (2, 2), washout=1, substeps=1),
    "mackey_glass": lambda key: tasks.mackey_glass(key, 2, (2, 2), tau=2.0, washout=1, substeps=1),
}


def squares(ys):
    return (ys**2).sum()


INSTRUMENTS: dict[str, Any] = {
    "adjoint": lambda c, p, xs: gradients.adjoint(c, p, xs, squares, lengths=jnp.array([3, 1, 0])).log_norm[:1],
    "adjoint_by_perturbation": lambda c, p, xs: gradients.adjoint_by_perturbation(c, p, xs, squares),
    "attribution": lambda c, p, xs: gradients.attribution(c, p, xs, squares),
    "attribution_by_lag": lambda c, p, xs: gradients.attribution_by_lag(c, p, xs, squares),
    "finite_time_exponents": lambda c, p, xs: gradients.finite_time_exponents(c, p, xs, k=2),
    "flossing": lambda c, p, xs: gradients.flossing(c, p, xs, k=2),
    "jacobians": gradients.jacobians,
    "leading_exponent": gradients.leading_exponent,
    "lyapunov_spectrum": gradients.lyapunov_spectrum,
    "norm_ratios": lambda c, p, xs: gradients.norm_ratios(c, p, xs, squares),
    "omega": lambda c, p, xs: gradients.omega(c, p, xs, squares),
}


def test_every_task_and_instrument_is_here():
    """The public functions of `rnnjax.gradients` that take a cell first."""
    assert set(TASKS) == {name for name in tasks.__all__ if f"{name}_baseline" in tasks.__all__}
    takes_cell = lambda f: inspect.isfunction(f) and next(iter(inspect.signature(f).parameters), "") == "cell"  # noqa: E731
    assert set(INSTRUMENTS) == {name for name in gradients.__all__ if takes_cell(getattr(gradients, name))}


@functools.cache
def results(kind):
    """One program for all tasks, and one for all measurements of `rnnjax.gradients`."""

    def everything(key, params, xs):
        if kind == "tasks":
            made = {name: task(key) for name, task in TASKS.items()}
            return jax.tree.map(lambda leaf: leaf if leaf.dtype == bool else leaf + 0, made)
        return {name: instrument(CELLS["gru"], params, xs) for name, instrument in INSTRUMENTS.items()}

    params, _, xs = sample("gru", steps=STEPS)
    given = jax.random.key(0), params, xs
    return everything, given, jax.jit(everything)(*given)


OF_KIND = [("tasks", switch) for switch in SWITCHES if switch != "x64_off"]
OF_KIND += [("instruments", switch) for switch in ("rank_promotion", "debug_nans")]


@pytest.mark.parametrize(("kind", "switch"), OF_KIND)
def test_tasks_and_instruments_under_switches(kind, switch):
    """`rnnjax.gradients` under the switches that have shown faults, since its program takes seconds to compile.

    `debug_infs` is left out, since the log of a zero gradient is rightly -inf.
    """
    everything, given, want = results(kind)
    with SWITCHES[switch]():
        assert_close(jax.jit(lambda *given: everything(*given))(*given), want)
