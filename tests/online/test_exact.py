"""Rules whose gradient is exact: that of every step's loss equals backpropagation's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnnjax
from rnnjax import online
from tests.online.runs import COUNTED, backpropagated, by_copy, loss, loss_of, run, weights, within
from tests.registry import CAUSAL, CELLS, B, D, assert_close, draw, sample

WIDE = {name: CELLS[name] for name in CAUSAL} | {name: make(5) for name, make in rnnjax.cells.catalogue().items()}
"""The registry, in which the cells of the catalogue have 5 units."""


@pytest.mark.parametrize("name", WIDE)
def test_rtrl_is_backpropagation(name):
    """With masks and resets: the gradient of each step's loss, and the trace, which is the Jacobian of all steps."""
    cell = WIDE[name]
    drawn = draw(cell, name)
    found = run(online.RTRL(), cell, drawn, COUNTED)
    gradients, jacobian = backpropagated(cell, drawn, COUNTED)
    assert_close(found.gradients, gradients)
    got = online.RTRL().jacobian(cell, drawn.params, found.trace, input_size=D)
    of_params = jax.tree.structure(drawn.params)
    wanted = [jax.tree.leaves(each) for each in jax.tree.leaves(jacobian, is_leaf=lambda t: _is(t, of_params))]
    for i, leaf in enumerate(got):
        rows = [np.asarray(each[i]).reshape(B, -1, *leaf.shape[2:]) for each in wanted]
        np.testing.assert_allclose(leaf, np.concatenate(rows, axis=1), rtol=1e-12, atol=1e-12)


def _is(tree, structure):
    return jax.tree.structure(tree) == structure


@pytest.mark.parametrize("batch_shape", [(), (2, 2)], ids=str)
def test_any_batch_axes_and_no_flags(batch_shape):
    """Without masks, and in calls from Python that hand carry and trace on."""
    cell, drawn = CELLS["custom"], sample("custom", batch_shape=batch_shape)
    ws, rule = weights(cell, drawn), online.RTRL()
    gradients, _ = backpropagated(cell, drawn)
    carry, trace = cell.initial_carry(drawn.params, batch_shape), rule.init(cell, drawn.params, batch_shape)
    step = jax.jit(lambda carry, trace, x, w: rule.step(cell, drawn.params, carry, trace, x, jax.grad(loss_of(w))))
    for t, (x, w) in enumerate(zip(drawn.xs, ws, strict=True)):
        carry, trace, gradient, _ = step(carry, trace, x, w)
        assert_close(gradient, jax.tree.map(lambda leaf: leaf[t], gradients))  # noqa: B023


DIAGONAL = ["indrnn", "lru", "min_gru", "rg_lru", "ssm_zoh"]


@pytest.mark.parametrize("name", DIAGONAL)
def test_a_diagonal_cell_costs_what_its_parameters_cost(name):
    """The trace has one number for each parameter and each leaf of the carry that it reaches, here of its own unit."""
    cell, drawn = CELLS[name], sample(name)
    parts = len(jax.tree.leaves(drawn.carry))
    for rule in (online.RTRL(), online.SnAp(1)):
        trace = jax.eval_shape(lambda rule=rule: rule.init(cell, drawn.params, (), input_size=D))
        sizes = [leaf.size for leaf in jax.tree.leaves(drawn.params)]
        assert all(block.size <= parts * size for block, size in zip(trace.blocks, sizes, strict=True))


def test_nan_in_a_masked_row_changes_nothing():
    cell, drawn = CELLS["elman_tanh"], sample("elman_tanh")
    for rule in (online.RTRL(), online.TBPTT(2), online.Immediate()):
        blank = jnp.where(COUNTED.mask[..., None], drawn.xs, jnp.nan)
        with_nan = run(rule, cell, drawn._replace(xs=blank), COUNTED)
        assert_close(with_nan.gradients, run(rule, cell, drawn, COUNTED).gradients)


def test_truncated_backpropagation():
    """Of each step's loss through the last k, flags or not; a learned initial carry counts while they reach it."""
    cell, drawn = CELLS["step_cell"], sample("step_cell")
    expected = by_copy(cell, drawn, COUNTED)
    for k in (1, 3, 7):
        assert_close(run(online.TBPTT(k), cell, drawn, COUNTED).gradients, within(expected, k))
    cell, drawn = CELLS["custom"], sample("custom")
    assert_close(run(online.Immediate(), cell, drawn).gradients, within(by_copy(cell, drawn), 1))


@pytest.mark.parametrize(
    ("name", "exact"), [("indrnn", 1), ("lru", 2), ("elman_tanh", 2), ("stack", 2), ("clockwork", 2)]
)
def test_snap_is_exact_once_its_pattern_no_longer_grows(name, exact):
    """And not before. The units of an LRU feed themselves, but their real and imaginary parts are two numbers."""
    cell, drawn = CELLS[name], sample(name)
    expected = run(online.RTRL(), cell, drawn, COUNTED).gradients
    assert_close(run(online.SnAp(exact), cell, drawn, COUNTED).gradients, expected)
    if exact > 1:
        fewer = run(online.SnAp(exact - 1), cell, drawn, COUNTED).gradients
        pairs = zip(jax.tree.leaves(fewer), jax.tree.leaves(expected), strict=True)
        assert max([float(jnp.abs(a - b).max()) for a, b in pairs]) > 1e-3


@pytest.mark.parametrize(("name", "n"), [("stack", 1), ("projected", 1), ("lstm", 1), ("scrn", 1)])
def test_snap_is_rtrl_masked_by_its_pattern(name, n):
    """With whole Jacobians, and the pattern from which of their numbers are not zero at any of several draws."""
    cell, drawn = CELLS[name], sample(name, batch_shape=())
    ws = weights(cell, drawn)
    theta, to_params = ravel_pytree(drawn.params)
    start, to_carry = ravel_pytree(cell.initial_carry(drawn.params))

    def after(theta, state, x):
        carry, y = cell.step(to_params(theta), to_carry(state), x)
        return ravel_pytree(carry)[0], y

    def jacobians(state, x):
        return jax.jacfwd(lambda theta, state: after(theta, state, x)[0], argnums=(0, 1))(theta, state)

    draws = jax.random.normal(jax.random.key(0), (20, start.size)), jax.random.normal(jax.random.key(1), (20, D))
    of_theta, of_state = [np.asarray((abs(each) > 0).any(0)) for each in jax.jit(jax.vmap(jacobians))(*draws)]
    pattern = of_theta.copy()
    for _ in range(n - 1):
        pattern |= (of_state.astype(int) @ pattern) > 0
    assert not pattern.all()

    def step(state, now):
        (state, influence), (x, w) = state, now
        of_step = jax.grad(lambda theta, state: loss_of(w)(after(theta, state, x)[1]), argnums=(0, 1))
        direct, adjoint = of_step(theta, state)
        immediate, recurrent = jacobians(state, x)
        moved = jnp.where(pattern, recurrent @ influence + immediate, 0.0)
        return (after(theta, state, x)[0], moved), direct + adjoint @ influence

    expected = jax.jit(lambda: jax.lax.scan(step, (start, 0.0 * pattern), (drawn.xs, ws)))()[1]

    def rule_step(state, now):
        (carry, trace), (x, w) = state, now
        found = online.SnAp(n).step(cell, drawn.params, carry, trace, x, jax.grad(loss_of(w)))
        return (found.carry, found.trace), ravel_pytree(found.gradient)[0]

    begun = cell.initial_carry(drawn.params), online.SnAp(n).init(cell, drawn.params, input_size=D)
    assert_close(jax.jit(lambda: jax.lax.scan(rule_step, begun, (drawn.xs, ws)))()[1], expected)


@pytest.mark.parametrize("name", CAUSAL)
def test_rules_for_every_cell(name):
    """They trace, with flags, and their gradients are like the parameters."""
    cell, drawn = CELLS[name], sample(name)
    flags = jnp.zeros(B, bool)
    for rule in (online.SnAp(2), online.UORO(), online.TBPTT(2), online.Immediate(), online.DNI(), online.KeRNL()):

        def both(params, carry, x, key, rule=rule):
            trace = rule.init(cell, params, (B,), input_size=D)
            dloss = jax.grad(lambda y: loss(y, y))
            found = rule.step(cell, params, carry, trace, x, dloss, mask=flags, resets=flags, key=key)
            return (carry, trace, params), (found.carry, found.trace, found.gradient)

        before, after = jax.eval_shape(both, drawn.params, drawn.carry, drawn.xs[0], jax.random.key(0))
        assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
        assert [leaf.dtype for leaf in jax.tree.leaves(before)] == [leaf.dtype for leaf in jax.tree.leaves(after)]


def counting(params, carry, x):
    t, h = carry
    h = params["turn"] * h + (x @ params["w_x"]).astype(h.dtype)
    y = {"y": h.imag * (1 + t % 2)[..., None].astype("float64"), "t": t}
    return (t + 1, h), y


def counting_start(params, batch_shape):
    start = jnp.broadcast_to(params["start"], (*batch_shape, 2))
    return jnp.zeros(batch_shape, "int32"), start


def test_complex_states_and_counters():
    """Complex parameters get JAX's gradient; a counter has no derivative, but counts."""
    cell, rng = rnnjax.StepCell(counting, counting_start), np.random.default_rng(0)
    turn, start = rng.normal(size=(2, 2)) + 1j * rng.normal(size=(2, 2))
    params = {"turn": jnp.asarray(turn), "start": jnp.asarray(start), "w_x": jnp.asarray(rng.normal(size=(D, 2)))}
    drawn = sample("elman_tanh")
    xs, mask, resets = drawn.xs, jnp.asarray(COUNTED.mask), jnp.asarray(COUNTED.resets)

    def total(params):
        return jnp.sin(rnnjax.unroll(cell, params, xs, mask=mask, resets=resets, engine="scan")[1]["y"]).sum()

    for rule in (online.RTRL(), online.TBPTT(9)):

        def step(state, now, rule=rule):
            (carry, trace), (x, mask, resets) = state, now
            found = rule.step(
                cell,
                params,
                carry,
                trace,
                x,
                lambda y: {"y": jnp.cos(y["y"]), "t": y["t"]},
                mask=mask,
                resets=resets,
            )
            return (found.carry, found.trace), found.gradient

        begun = cell.initial_carry(params, (B,)), rule.init(cell, params, (B,))
        found = jax.lax.scan(step, begun, (xs, mask, resets))[1]
        assert_close(jax.tree.map(lambda leaf: leaf.sum(0), found), jax.grad(total)(params))
