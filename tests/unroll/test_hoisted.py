"""What the hoisted engine derives from a step, for gates written in many ways.

`test_engines` compares its results with other engines, for every cell, mask and derivative; `test_hoisted_programs`
checks what remains inside the compiled loop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import LSTMCarry, StepCell
from rnnjax._unroll import hoist
from rnnjax._unroll.gates import Block, read_gates
from rnnjax._unroll.reading import NOTHING_LEAVES, read
from tests.registry import assert_close

H, T, B, D = 3, 4, 2, 2


def init(key, input_size, dtype=None):
    return rnnjax.LSTM(H).init(key, input_size, dtype)


def project(params, x):
    return x @ params.w_x + params.b


def mix(params, carry):
    return carry.h @ params.w_h


def lstm_of(gate: Callable[..., Any], mix: Callable[..., Any] = mix, project: Callable[..., Any] = project) -> StepCell:
    """A cell with an LSTM's parameters and carry, and the step `gate(params, carry, project(...), mix(...))`."""

    def step(params, carry, x):
        return gate(params, carry, project(params, x), mix(params, carry))

    return StepCell(step, rnnjax.lstm_initial_carry, init)


def finish(carry, i, f, g, o):
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(h=h, c=c), h


def by_slices(params, carry, u, r):
    z = u + r
    return finish(carry, *(z[..., k * H : (k + 1) * H] for k in range(4)))


def by_axis(params, carry, u, r):
    z = jnp.moveaxis((u + r).reshape(*u.shape[:-1], 4, H), -2, 0)
    return finish(carry, z[0], z[1], z[2], z[3])


def by_parts(params, carry, u, r):
    return finish(carry, *(a + b for a, b in zip(jnp.split(u, 4, -1), r, strict=True)))


def one_block_unused(params, carry, u, r):
    i, f, g, _ = jnp.split(u + r, 4, axis=-1)
    return finish(carry, i, f, g, jnp.zeros_like(i))


def own_activations(params, carry, u, r):
    i, f, g, o = jnp.split(u + r, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.relu(i) * jax.nn.silu(g)
    h = jnp.where(o > 0, o, jnp.expm1(o)) * jax.nn.softplus(c)
    return LSTMCarry(h=h, c=c), h


def shared_blocks(params, carry, u, r):
    """Two outputs read the same blocks, y has another tree, and h is not a function of c."""
    i, f, g, o = jnp.split(u + r, 4, axis=-1)
    c = jax.nn.sigmoid(f) * carry.c + (1 - jax.nn.sigmoid(f)) * jnp.tanh(g) + params.b[:H]
    y = jax.nn.sigmoid(o + carry.c) * jnp.tanh(c) * jax.nn.sigmoid(i)
    return LSTMCarry(h=y / 2 + carry.h / 8, c=c), {"y": y, "c": c}


def jitted(params, carry, u, r):
    return jax.jit(by_slices)(params, carry, u, r)


def in_two_stages(params, carry, u, r):
    """The forget gate reads a product of the cell state, and the output gate one of the new cell state."""
    i, f, g, o = jnp.split(u + r, 4, axis=-1)
    f = f + carry.c @ params.w_h[:, :H]
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o + c @ params.w_h[:, H : 2 * H]) * jnp.tanh(c)
    return LSTMCarry(h=h, c=c), h


def mix_in_parts(params, carry):
    return tuple(carry.h @ w for w in jnp.split(params.w_h, 4, axis=-1))


def mix_affine(params, carry):
    return carry.h @ params.w_h * 2 + params.b * 3 + carry.c @ params.w_h


def mix_from_the_right(params, carry):
    """The transposed weight first: W' h, as in papers."""
    return jnp.einsum("ji,...j->...i", params.w_h, carry.h)


def mix_of_a_function(params, carry):
    return jnp.tanh(carry.h) @ params.w_h


SERVED = {
    "slices": lstm_of(by_slices),
    "an axis of blocks": lstm_of(by_axis),
    "r in parts": lstm_of(by_parts, mix_in_parts),
    "the weight first": lstm_of(by_slices, mix_from_the_right),
    "an unused block": lstm_of(one_block_unused),
    "other activations": lstm_of(own_activations),
    "shared blocks": lstm_of(shared_blocks),
    "a jitted gate": lstm_of(jitted),
    "an affine mix": lstm_of(by_slices, mix_affine),
    "a product of a function": lstm_of(by_slices, mix_of_a_function),
    "products in stages": lstm_of(in_two_stages),
}


PLAIN_LSTM = ("slices", "an axis of blocks", "r in parts", "the weight first", "a jitted gate", "lstm")


def layer_of(cell: Any, features: int = D) -> Any:
    """The explanation of the only layer, for a batch of B rows."""
    params = jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))
    return rnnjax.explain(cell, params, jax.ShapeDtypeStruct((T, B, features), "float64")).layers[0]


def assert_all_leaves(cell: Any, features: int = D) -> None:
    layer = layer_of(cell, features)
    assert layer.engine == "hoisted" and "slopes stay inside" not in layer.why, layer.why


@functools.cache
def expected(gate, cell, features, kind):
    """The reference by `scan`, computed once for all equivalent LSTMs."""
    if gate in PLAIN_LSTM and gate != "lstm":
        return expected("lstm", rnnjax.LSTM(H), features, kind)
    return derivatives(cell, features, "scan", TIMINGS[kind])


def derivatives(cell, features, engine, timing):
    """Outputs, gradients, and their derivative along the parameters and inputs."""
    params = cell.init(jax.random.key(0), features)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, features)))

    def loss(params, xs):
        outputs = rnnjax.unroll(cell, params, xs, engine=engine, **timing)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs))

    first = jax.value_and_grad(loss, argnums=(0, 1))
    return jax.jit(lambda params, xs: (first(params, xs), jax.jvp(first, (params, xs), (params, xs))[1]))(params, xs)


MASK = jnp.array([[1, 1], [1, 0], [0, 1], [1, 1]], bool)
RESETS = jnp.array([[0, 0], [0, 1], [1, 1], [0, 0]], bool)
TIMINGS = {"plain": {}, "masked": {"mask": MASK}, "timed": {"mask": MASK, "resets": RESETS, "reverse": True}}


@pytest.mark.parametrize("gate", SERVED)
def test_any_pointwise_gate_is_served(gate):
    cell = SERVED[gate]
    assert_all_leaves(cell)
    assert_close(derivatives(cell, D, "hoisted", TIMINGS["masked"]), expected(gate, cell, D, "masked"), 1e-10)


LARGE = {
    "lstm": (rnnjax.LSTM(H), D),
    "lstm, one feature": (rnnjax.LSTM(H), 1),
    "gru": (rnnjax.GRU(H), D),
    "gru, one feature": (rnnjax.GRU(H), 1),
    "slices": (lstm_of(by_slices), D),
    "r in parts": (lstm_of(by_parts, mix_in_parts), D),
    "other activations": (lstm_of(own_activations), D),
    "products in stages": (lstm_of(in_two_stages), D),
    "shared blocks": (lstm_of(lambda p, *of: shared_blocks(p._replace(b=jnp.zeros(4 * H)), *of)), D),
    "a product of a new state": (rnnjax.cells.LEM(H), D),
}


@pytest.mark.parametrize(
    ("gate", "kind"), [(gate, "timed") for gate in LARGE] + [(gate, "plain") for gate in ("lstm", "gru, one feature")]
)
def test_slopes_in_the_loop_are_those_after_it(gate, kind, monkeypatch):
    """For large steps, slopes are computed in the loop; here every step counts as large."""
    large = []
    monkeypatch.setattr(hoist, "_LARGE_STEP", 0)
    monkeypatch.setattr(hoist, "_large", lambda *of, was=hoist._large: large.append(was(*of)) or large[-1])
    cell, features = LARGE[gate]
    assert_all_leaves(cell, features)
    assert_close(derivatives(cell, features, "hoisted", TIMINGS[kind]), expected(gate, cell, features, kind), 1e-10)
    assert large and all(large)


def mlp(params, x):
    """Two consecutive matmuls, a computed bias, and a nonlinearity at the end."""
    return jnp.tanh(jnp.tanh(x @ params.w_x) @ params.w_h.T @ params.w_h + params.b * 2)


def with_the_input(params, x):
    """The input is read again after the matmul."""
    return x @ params.w_x * x[..., :1]


def over_units(params, x):
    """Not elementwise in the units, which is allowed without the carry."""
    return jax.nn.softmax(x @ params.w_x, axis=-1) + params.b


@pytest.mark.parametrize("features", [1, D])
@pytest.mark.parametrize("project", [mlp, with_the_input, over_units], ids=lambda project: project.__name__)
def test_any_projection_is_served(project, features):
    """Input projections with any operations after the last matmul."""
    cell = lstm_of(by_slices, project=project)
    assert_all_leaves(cell, features)
    assert_close(derivatives(cell, features, "hoisted", {}), derivatives(cell, features, "scan", {}), 1e-10)


def read_with(change: Callable[..., Any]) -> StepCell:
    return lstm_of(lambda params, carry, u, r: by_slices(params, carry, change(u + r), jnp.zeros_like(r)))


def interleaved(params, carry, u, r):
    """The four gates of a unit side by side, not a gate's units."""
    z = u + r
    return finish(carry, *(z[..., k::4] for k in range(4)))


def attention(params, carry, u, r):
    """The inner product of two states of the carry."""
    score = jnp.einsum("...i,...i->...", carry.h, carry.c)[..., None]
    return by_slices(params, carry._replace(c=score * carry.c), u, r)


def neighbours(params, carry, u, r):
    """Each unit reads the cell state of the next, as in a ring."""
    c = jnp.concatenate([carry.c[..., 1:], carry.c[..., :1]], axis=-1)
    return by_slices(params, carry._replace(c=c), u, r)


STAY_INSIDE = {
    "reduce_sum": read_with(lambda z: z - z.sum(-1, keepdims=True)),
    "different hidden units": lstm_of(interleaved),
    "reads another unit": lstm_of(neighbours),
    "rev": read_with(lambda z: z[..., ::-1]),
    "dot_general": lstm_of(attention),
}


@pytest.mark.parametrize("reason", STAY_INSIDE)
def test_of_other_gates_the_weights_gradients_leave(reason):
    """Gates that mix units: `why` says what keeps their slopes inside, and results equal those of scan."""
    cell = STAY_INSIDE[reason]
    layer = layer_of(cell)
    assert layer.engine == "hoisted", layer.why
    assert "slopes stay inside" in layer.why and reason in layer.why
    got, right = (derivatives(cell, D, engine, TIMINGS["timed"]) for engine in ("hoisted", "scan"))
    assert_close(got, right, 1e-10)


def with_an_effect(params, carry, x):
    jax.debug.print("{}", x[..., 0].sum())
    return rnnjax.lstm_step(params, carry, x)


def over_rows(params, carry, x):
    """Normalised over the batch."""
    u = project(params, x)
    return by_slices(params, carry, u - u.mean(axis=tuple(range(u.ndim - 1)), keepdims=True), mix(params, carry))


def clipped(params, carry, x):
    carry = jax.tree.map(lambda leaf: rnnjax.gradients.clip_adjoint(leaf, 1.0, x.ndim - 1), carry)
    return rnnjax.lstm_step(params, carry, x)


def with_keys(params, carry, x):
    """Noise from a key that each row carries."""
    lstm, key = carry
    lstm, y = rnnjax.lstm_step(params, lstm, x)
    return (lstm, key), y + jax.random.key_data(key)[..., :1].astype(y.dtype)


def keys_and_zeros(params, batch_shape=()):
    return rnnjax.lstm_initial_carry(params, batch_shape), jnp.broadcast_to(jax.random.key(0), batch_shape)


ONLY_SCAN = {
    "side effects": StepCell(with_an_effect, rnnjax.lstm_initial_carry, init),
    "brings rows together": StepCell(over_rows, rnnjax.lstm_initial_carry, init),
    "custom_vjp": StepCell(clipped, rnnjax.lstm_initial_carry, init),
    "keys": StepCell(with_keys, keys_and_zeros, init),
    NOTHING_LEAVES: StepCell(
        lambda params, h, x: (x + h / 2, h),
        lambda params, batch_shape: jnp.zeros((*batch_shape, D)),
        lambda key, size, dtype: (),
    ),
}


@pytest.mark.parametrize("reason", ONLY_SCAN)
def test_what_cannot_be_taken_apart_runs_on_scan(reason):
    """`auto` says why, and its results equal scan's; engine="hoisted" raises with the same reason."""
    cell = ONLY_SCAN[reason]
    params = cell.init(jax.random.key(0), D)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, D)))
    layer = layer_of(cell)
    assert layer.engine == "scan" and layer.why.startswith("auto: hoisted cannot run it: ")
    assert reason in layer.why
    with pytest.raises(rnnjax.NotHoistable, match='use engine="scan"') as refusal:
        rnnjax.unroll(cell, params, xs, engine="hoisted")
    obstacle, _, ahead = layer.why.removeprefix("auto: hoisted cannot run it: ").partition("; ")
    assert obstacle in str(refusal.value)
    assert bool(ahead) == (reason == "custom_vjp")

    def loss(params, xs, engine):
        ys = rnnjax.unroll(cell, params, xs, mask=MASK, resets=RESETS, engine=engine)[1]
        return jnp.sin(ys).sum(), ys

    first = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    assert_close(*(jax.jit(first, static_argnums=2)(params, xs, engine) for engine in ("auto", "scan")))


def test_rows_that_meet_are_found_before_a_row_is_read():
    """A mean over all axes but the last, which mixes rows only in a batch."""
    cell = ONLY_SCAN["brings rows together"]
    params = cell.init(jax.random.key(0), D)
    plan = rnnjax.explain(cell, params, jax.ShapeDtypeStruct((T, D), "float64"))
    assert plan.layers[0].engine == "hoisted"  # without a batch axis it is hoisted


def test_what_a_step_closes_over_is_differentiated():
    """Arrays of an enclosing function, traced or not, are read at every call and not kept."""
    params = init(jax.random.key(0), D)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, D)))

    def loss(engine, w_h, b):
        def step(params, carry, x):
            return by_slices(params, carry, x @ params.w_x + b, carry.h @ w_h)

        return jnp.sin(rnnjax.unroll(StepCell(step, rnnjax.lstm_initial_carry), params, xs, engine=engine)[1]).sum()

    for scale in (1.0, 2.0):
        closed_over = (scale * params.w_h, params.b + scale)
        got, right = (
            jax.jit(jax.value_and_grad(functools.partial(loss, engine), argnums=(0, 1)))(*closed_over)
            for engine in ("hoisted", "scan")
        )
        assert_close(got, right, 1e-10)
        assert np.abs(got[1][0]).min() > 0


def test_the_lstm_needs_seven_diagonals():
    """c depends on its previous value and three blocks of r, and h on one block of r and on c."""
    params = init(jax.random.key(0), D)
    x = jax.ShapeDtypeStruct((D,), "float64")
    reading = read(rnnjax.LSTM(H), params, rnnjax.lstm_initial_carry(params), x, batched=True).reading
    structure = read_gates(reading)
    c, h = ({block for block in needed if block.kind != "u"} for needed in structure.needs)
    assert c == {Block("carry", 1, 0), *(Block("r", 0, k * H) for k in range(3))}
    assert h == {Block("cut", 0, 0), Block("r", 0, 3 * H)}
    assert structure.carry_outs == (1, 0) and structure.y_outs == (1,) and not structure.shared
    assert structure.lefts == (("carry", 0),) and not structure.reads_params


def test_products_in_stages_are_cuts():
    """The new c feeds a product: it is an output, a cut for later gates, and its product is an input."""
    params = init(jax.random.key(0), D)
    x = jax.ShapeDtypeStruct((D,), "float64")
    cell = SERVED["products in stages"]
    reading = read(cell, params, rnnjax.lstm_initial_carry(params), x, batched=True).reading
    structure = read_gates(reading)
    c, h = structure.carry_outs[1], structure.carry_outs[0]
    assert (c, h) == (0, 1)
    assert structure.lefts[-1] == ("out", c) and {kind for kind, _ in structure.lefts[:-1]} == {"carry"}
    assert Block("cut", c, 0) in structure.needs[h]
    assert structure.mixed == {0, 1}  # h and c of the carry, as they are
