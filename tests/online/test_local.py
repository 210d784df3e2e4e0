"""Rules that are exact only where their assumption holds, and differ where it does not."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax import online
from tests.online.runs import COUNTED, backpropagated, loss, loss_of, run, weights
from tests.registry import CELLS, B, D, Sample, T, assert_close, normal, sample


def drawn(cell, scale):
    """The recurrent weights are diagonal, `scale` times the identity in every block."""
    params = normal(jax.eval_shape(lambda: cell.init(jax.random.key(0), D, "float64")), "local")
    rows, columns = params.rnn.w_h.shape
    diagonal = scale * jnp.tile(jnp.eye(rows), (1, columns // rows))
    return Sample(params._replace(rnn=params.rnn._replace(w_h=diagonal)), None, jnp.ones((T, B, D)) * 0.3)


CASES = {
    "rflo": (online.RFLO(feedback="symmetric"), rnnjax.cells.RateNetwork(3)),
    "rflo_after": (online.RFLO(feedback="symmetric"), rnnjax.cells.RateNetwork(3, form="rate")),
    "eprop": (online.EProp(), rnnjax.LSTM(3)),
    "eprop_gru": (online.EProp(), rnnjax.GRU(3)),
}


@pytest.mark.parametrize(("rule", "cell"), CASES.values(), ids=CASES)
def test_exact_without_recurrent_weights(rule, cell):
    """With the read-out's transpose as feedback; weights of a unit to itself make it differ."""
    cell = rnnjax.Readout(cell, 2)
    for scale in (0.0, 0.5):
        given = drawn(cell, scale)
        found = run(rule, cell, given, COUNTED).gradients
        expected, _ = backpropagated(cell, given, COUNTED)
        if scale == 0:
            assert_close(found, expected)
        else:
            assert difference(found, expected) > 1e-3


def difference(a, b):
    return max([float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)])


def test_dni_with_the_true_adjoint_is_backpropagation():
    """A constant prediction, replaced at each step by what the later losses send back; zero is the step alone."""
    cell, drawn = CELLS["lstm"], sample("lstm", batch_shape=())
    params, xs, ws = drawn.params, drawn.xs, weights(cell, drawn)
    start = cell.initial_carry(params)

    def total(params, pushes):
        def step(carry, now):
            x, w, push = now
            carry, y = cell.step(params, carry, x)
            return type(carry)(carry.h + push[:3], carry.c + push[3:]), loss(y, w)

        return jax.lax.scan(step, start, (xs, ws, pushes))[1].sum()

    expected, adjoints = jax.grad(total, argnums=(0, 1))(params, jnp.zeros((T, 6)))

    def learned(adjoints, rule):
        def step(state, now):
            (carry, trace), (x, w, b) = state, now
            found = rule.step(cell, params, carry, trace._replace(b=b), x, jax.grad(loss_of(w)))
            return (found.carry, found.trace), found.gradient

        gradients = jax.lax.scan(step, (start, rule.init(cell, params)), (xs, ws, adjoints))[1]
        return jax.tree.map(lambda leaf: leaf.sum(0), gradients)

    assert_close(learned(adjoints, online.DNI(0.0)), expected)

    def alone(params):
        def step(carry, now):
            carry, y = cell.step(params, jax.lax.stop_gradient(carry), now[0])
            return carry, loss(y, now[1])

        return jax.lax.scan(step, start, (xs, ws))[1].sum()

    assert_close(learned(0 * adjoints, online.DNI(0.0)), jax.grad(alone)(params))


def test_the_prediction_of_dni_is_learned():
    """Of a linear unit without input, with L_t = h_t, later losses send back w/(1 - w) at all times."""
    cell = rnnjax.Elman(1, "linear")
    params = rnnjax.ElmanParams(jnp.zeros((1, 1)), jnp.full((1, 1), 0.5), jnp.ones(1))
    rule = online.DNI(0.3)

    def step(state, _):
        carry, trace = state
        found = rule.step(cell, params, carry, trace, jnp.zeros(1), jnp.ones_like)
        return (found.carry, found.trace), None

    (carry, trace), _ = jax.lax.scan(step, (jnp.ones(1) * 2, rule.init(cell, params)), None, length=2000)
    assert_close(carry @ trace.a + trace.b, jnp.ones(1), 1e-6)


def rolled(w, h, x):
    h = jnp.roll(h, 1, -1) / 2 + jnp.tanh(x @ w)
    return h, h


ROLLED = rnnjax.StepCell(
    rolled, lambda w, batch: jnp.zeros((*batch, 3), w.dtype), lambda key, size, dtype: jnp.zeros((size, 3), dtype)
)


@pytest.mark.parametrize(
    ("rule", "cell", "words"),
    [
        (online.EProp(), rnnjax.Elman(3), "keeps nothing of its state"),
        (online.EProp(), ROLLED, "feed each other"),
        (online.EProp("random"), rnnjax.LSTM(3), "pass `Readout"),
        (online.RFLO(), rnnjax.cells.RateNetwork(3), "pass `Readout"),
        (online.RFLO("symmetric"), rnnjax.LSTM(3), "leaky units"),
        (online.RFLO("symmetric"), rnnjax.GRU(3), "leaky units"),
        (online.RTRL(), rnnjax.Bidirectional(rnnjax.GRU(3), rnnjax.GRU(3)), "needs the whole sequence"),
        (online.RTRL(), rnnjax.gradients.ClippedAdjoint(rnnjax.GRU(3), 1.0), "backward pass of its own"),
        (online.KFRTRL(), CELLS["orthogonal"], r"every matrix to multiply one vector.*w_h.*UORO"),
        (online.KFRTRL(), CELLS["gru_reset_before"], r"params.w_h.*used by `slice`|params"),
        (online.RTRL(), rnnjax.GRU, "expected a cell instance"),
    ],
    ids=[f"case {i}" for i in range(11)],
)
def test_what_is_refused(rule, cell, words):
    made = cell if not isinstance(cell, type) else cell(3)
    params = jax.eval_shape(lambda: made.init(jax.random.key(0), D))
    with pytest.raises(TypeError, match=words):
        jax.eval_shape(lambda: rule.init(cell, normal(params, "refused")))


def test_random_feedback():
    """The read-out learns as ever; what is below it gets another gradient of the same size."""
    cell = rnnjax.Readout(rnnjax.cells.RateNetwork(3), 2)
    given = drawn(cell, 0.5)
    symmetric, random = (run(online.RFLO(feedback), cell, given).gradients for feedback in ("symmetric", "random"))
    assert_close((random.w_out, random.b_out), (symmetric.w_out, symmetric.b_out))
    assert difference(random.rnn, symmetric.rnn) > 1e-3


def test_kernl_is_exact_where_influence_decays_exponentially():
    """A linear leaky unit; the kernel is learned from perturbations."""
    cell, given = rnnjax.Elman(2, "linear"), sample("elman_linear", batch_shape=(B,))
    params = rnnjax.ElmanParams(given.params.w_x[:, :2], 0.6 * jnp.eye(2), given.params.b[:2])
    given = Sample(params, None, given.xs)
    key = jax.random.key(0)
    exact = run(online.RTRL(), cell, given, COUNTED).gradients
    assert_close(run(online.KeRNL(0.0, rate=-float(jnp.log(0.6))), cell, given, COUNTED, key).gradients, exact)

    decay = jnp.array([0.9, 0.3])
    params = params._replace(w_h=jnp.diag(decay))
    rule = online.KeRNL(0.02, rate=1.0)

    @jax.jit
    def learned(key):
        def step(state, now):
            (carry, trace), (x, key) = state, now
            found = rule.step(cell, params, carry, trace, x, jnp.ones_like, key=key)
            return (found.carry, found.trace), None

        inputs = jax.random.normal(key, (2000, 50, 2)), jax.random.split(key, 2000)
        start = cell.initial_carry(params, (50,)), rule.init(cell, params, (50,))
        return jax.lax.scan(step, start, inputs)[0][1]

    trace = learned(key)
    assert_close(jnp.exp(-trace.gamma), decay, 0.02)
    assert_close(trace.beta, jnp.eye(2), 0.05)
