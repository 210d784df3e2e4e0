"""Layers and directions: composites equal their parts, run one after another or side by side."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GRU, LSTM, Bidirectional, BothWays, Elman, Stack, unroll
from tests.registry import CELLS, COMBINED, D, assert_close, assert_identical, both_directions, normal, sample

TIMES = COMBINED._asdict()


@both_directions
def test_a_stack_is_its_layers_one_by_one(reverse):
    """The outputs of each layer, with zeros at masked steps, are the inputs of the next, with the same masks."""
    params, carry, xs = sample("stack")
    lstm, gru = CELLS["stack"].cells
    lstm_carry, ys = unroll(lstm, params[0], xs, carry=carry[0], **TIMES, reverse=reverse, engine="loop")
    gru_carry, ys = unroll(gru, params[1], ys, carry=carry[1], **TIMES, reverse=reverse, engine="loop")
    got = unroll(CELLS["stack"], params, xs, carry=carry, **TIMES, reverse=reverse, engine="loop")
    assert_identical(got, ((lstm_carry, gru_carry), ys))


def test_a_stack_steps_through_its_layers():
    """A loop over `Stack.step`, as for generation, equals `unroll`."""
    params, carry, xs = sample("deep_stack")
    cell, ys = CELLS["deep_stack"], []
    expected = unroll(cell, params, xs, carry=carry, engine="loop")
    for x in xs:
        carry, y = cell.step(params, carry, x)
        ys.append(y)
    assert_identical((carry, jnp.stack(ys)), expected)


def test_a_nested_stack_is_a_flat_one():
    params, carry, xs = sample("deep_stack")
    bottom, (middle, top) = CELLS["deep_stack"].cells[0], CELLS["deep_stack"].cells[1].cells
    flat_params, flat_carry = (params[0], *params[1]), (carry[0], *carry[1])
    got, ys = unroll(Stack((bottom, middle, top)), flat_params, xs, carry=flat_carry, engine="loop")
    nested, nested_ys = unroll(CELLS["deep_stack"], params, xs, carry=carry, engine="loop")
    assert_identical((got, ys), ((nested[0], *nested[1]), nested_ys))


def test_twelve_layers_stay_in_order():
    """Layer 10 comes after layer 9, not after layer 1 as in a dict sorted by name."""
    cell = Stack((Elman(1, "linear"),) * 12)
    one = rnnjax.ElmanParams(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1))
    params = tuple(one._replace(b=jnp.array([10.0**-k])) for k in range(12))
    carry, _ = unroll(cell, params, jnp.zeros((1, 1)), engine="loop")
    sums = [sum(10.0**-j for j in range(k + 1)) for k in range(12)]
    np.testing.assert_allclose(np.array(carry)[:, 0], sums, rtol=1e-14)


@pytest.mark.parametrize("skip", ["none", "residual", "input"])
def test_dropout_and_skips_layer_by_layer_and_step_by_step(skip):
    """The layers one by one with the drawn masks; a scan over `step`, and `rnnjax.step`, with the same noise."""
    cell = Stack((LSTM(4), GRU(4), Elman(4)), dropout=0.4, skip=skip)
    key, xs = jax.random.key(5), sample("gru").xs
    params = normal(jax.eval_shape(lambda: cell.init(key, D, "float64")), "dropped", scale=0.5)
    noise = rnnjax.draw_noise(cell, key, params, 5, (3,), D)
    kept = noise.steps[-1]
    _, ys = unroll(cell.cells[0], params[0], xs, lengths=TIMES["lengths"], engine="loop")
    for layer, p, mask in zip(cell.cells[1:], params[1:], kept, strict=True):
        given = jnp.concatenate([mask * ys, xs], axis=-1) if skip == "input" else mask * ys
        _, above = unroll(layer, p, given, lengths=TIMES["lengths"], engine="loop")
        ys = ys + above if skip == "residual" else above
    assert_identical(unroll(cell, params, xs, lengths=TIMES["lengths"], key=key, engine="loop")[1], ys)

    carry, ys = unroll(cell, params, xs, noise=noise)
    start = cell.initial_carry(params, (3,))
    scanned = jax.lax.scan(lambda c, x: cell.step(params, c, x), start, rnnjax.Noisy(xs, noise.steps))
    assert_close(scanned, (carry, ys))
    streamed = []
    for t, x in enumerate(xs):
        now = noise._replace(steps=jax.tree.map(lambda leaf, t=t: leaf[t], noise.steps))
        start, y = rnnjax.step(cell, params, start, x, noise=now)
        streamed.append(y)
    assert_close((start, jnp.stack(streamed)), (carry, ys))


def test_dropout_is_drawn_for_every_step_row_and_layer():
    """A share of `dropout` zeros, the rest 1 / (1 - dropout); without a key none of it; on wide layers, in float32."""
    cell = Stack.of(GRU, (50, 50, 50), dropout=0.25)
    params = cell.init(jax.random.key(0), D, "float32")
    noise = rnnjax.draw_noise(cell, jax.random.key(1), params, 7, (2, 3), D)
    one, other = noise.steps[-1]
    assert one.shape == other.shape == (7, 2, 3, 50) and one.dtype == other.dtype == jnp.float32
    assert {float(v) for v in np.unique(one)} == {0.0, float(np.float32(4 / 3))}
    assert abs(float((one == 0).mean()) - 0.25) < 4 * (0.25 * 0.75 / one.size) ** 0.5
    masks = np.concatenate([one, other]).reshape(84, 50)
    assert len({mask.tobytes() for mask in masks}) == 84
    xs = jnp.ones((7, 2, 3, D), "float32")
    assert_identical(unroll(cell, params, xs), unroll(Stack(cell.cells), params, xs))
    assert not rnnjax.draw_noise(Stack(cell.cells), jax.random.key(1), params, 7, (2, 3), D).steps[-1]


def test_a_stack_in_one_line():
    both = Stack.of(lambda n: Bidirectional(LSTM(n), LSTM(n), merge="sum"), [4, 3], dropout=0.1, skip="input")
    assert both.cells == tuple(Bidirectional(LSTM(n), LSTM(n), "sum") for n in (4, 3))
    assert (both.dropout, both.skip) == (0.1, "input")
    params = both.init(jax.random.key(0), D)
    assert params[1].forward.w_x.shape[0] == 4 + D


def test_what_composites_refuse():
    stack: Any = Stack  # given what type checkers refuse
    both: Any = Bidirectional
    wrong: list[tuple[type, str, Any]] = [
        (TypeError, r"`cell` is LSTM\(.*Stack.of\(LSTM, \(64, 32\)\)", lambda: stack.of(LSTM(4), (4, 3))),
        (TypeError, r"`sizes` is 4; .*Stack.of\(LSTM, \(4, 4\)\)", lambda: stack.of(LSTM, 4)),
        (ValueError, "tuple of at least one cell", lambda: stack.of(LSTM, ())),
        (ValueError, "dropout is 1; it must be at least 0 and less than 1", lambda: stack((LSTM(4),), dropout=1)),
        (
            ValueError,
            "skip is 'dense'; choose one of 'none', 'residual', 'input'",
            lambda: stack((LSTM(4),), 0, "dense"),
        ),
        (ValueError, "merge is 'add'; choose one of 'concatenate', ", lambda: both(LSTM(4), LSTM(4), "add")),
    ]
    for kind, says, make in wrong:
        with pytest.raises(kind, match=says):
            make()
    uneven = Stack((LSTM(4), GRU(3)))
    residual = dataclasses.replace(uneven, skip="residual")
    says = r"GRU\(.* has 3 outputs and the one below it 4, but skip"
    with pytest.raises(ValueError, match=says):
        residual.init(jax.random.key(0), D)
    with pytest.raises(ValueError, match=says):
        unroll(residual, uneven.init(jax.random.key(0), D), sample("gru").xs)


def test_init_gives_each_layer_the_width_below_it():
    """Input sizes of stacked layers, both directions and other widths; each layer draws with its own key."""
    cell = Stack((Bidirectional(GRU(3), LSTM(2)), Stack((LSTM(4), Elman(6))), GRU(5)))
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    (gru, lstm), (upper, elman), top = params
    assert [p.w_x.shape[0] for p in (gru, lstm, upper, elman, top)] == [D, D, 3 + 2, 4, 6]
    drawn = Stack((Elman(6), Elman(6))).init(jax.random.key(0), 6)
    assert not np.array_equal(drawn[0].w_h, drawn[1].w_h)


def test_both_directions_draw_with_keys_of_their_own():
    params = Bidirectional(Elman(6), Elman(6)).init(jax.random.key(0), 6)
    assert isinstance(params, BothWays)
    assert not np.array_equal(params.forward.w_h, params.backward.w_h)


@both_directions
def test_bidirectional_is_two_unrolls_side_by_side(reverse):
    """[forward, backward] on the last axis; with `reverse` each cell runs in the other direction."""
    params, carry, xs = sample("bidirectional")
    cell, masks = CELLS["bidirectional"], {key: TIMES[key] for key in ("lengths", "mask")}
    one = unroll(cell.forward, params.forward, xs, carry=carry.forward, **masks, reverse=reverse, engine="loop")
    other = unroll(
        cell.backward, params.backward, xs, carry=carry.backward, **masks, reverse=not reverse, engine="loop"
    )
    got = unroll(cell, params, xs, carry=carry, **masks, reverse=reverse, engine="loop")
    assert_identical(got, (BothWays(one[0], other[0]), jnp.concatenate([one[1], other[1]], axis=-1)))


@pytest.mark.parametrize("merge", ["sum", "mean", "product"])
def test_merged_directions(merge):
    """The two halves of "concatenate", merged; padding stays zero, and the layer above sees one width."""
    halves = Bidirectional(GRU(3), Elman(3))
    cell, xs = dataclasses.replace(halves, merge=merge), sample("gru").xs
    params = normal(jax.eval_shape(lambda: cell.init(jax.random.key(0), D)), "merged")
    expected, ys = unroll(halves, params, xs, **TIMES, engine="loop")
    one, other = np.split(np.asarray(ys), 2, axis=-1)
    merged = {"sum": one + other, "mean": (one + other) / 2, "product": one * other}[merge]
    carry, ys = unroll(cell, params, xs, **TIMES)
    assert_close((carry, ys), (expected, jnp.asarray(merged)))
    counts = (np.arange(5)[:, None] < COMBINED.lengths) & COMBINED.mask
    assert not ys[~counts].any() and ys[counts].all()
    above = Stack((cell, rnnjax.Readout(LSTM(2), 5)))
    assert above.init(jax.random.key(0), D)[1].rnn.w_x.shape[0] == 3


def test_merged_directions_have_one_width():
    cell = Bidirectional(GRU(4), Elman(6), merge="sum")
    says = r'GRU\(.* have 4 features and those of Elman\(.* 6, but merge is "sum"; give both one width'
    with pytest.raises(ValueError, match=says):
        unroll(cell, cell.init(jax.random.key(0), D), sample("gru").xs)
    with pytest.raises(ValueError, match=says):
        rnnjax.Readout(cell, 2).init(jax.random.key(0), D)


def test_the_backward_half_starts_at_each_rows_own_end():
    """The backward cell does not start in the padding: its first output is one step from its initial carry."""
    params, carry, xs = sample("bidirectional")
    cell, lengths = CELLS["bidirectional"], np.array([5, 3, 1])
    _, ys = unroll(cell, params, xs, carry=carry, lengths=lengths, engine="loop")
    for row, length in enumerate(lengths):
        start = jax.tree.map(lambda leaf, row=row: leaf[row], carry.backward)
        _, y = cell.backward.step(params.backward, start, xs[length - 1, row])
        assert_close(ys[length - 1, row, 3:], y)


def test_the_two_halves_may_be_anything():
    """A forward stack and a backward cell of different widths; the output has the sum of both widths."""
    cell = Bidirectional(Stack((Elman(3), GRU(2))), LSTM(4))
    shapes = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    params = normal(shapes, "halves")
    carry, ys = unroll(cell, params, sample("gru").xs, engine="loop")
    assert ys.shape == (5, 3, 2 + 4)
    assert_identical(ys[..., :2], unroll(cell.forward, params.forward, sample("gru").xs, engine="loop")[1])
    assert carry.backward.c.shape == (3, 4)


@pytest.mark.parametrize("name", ["stack", "bidirectional"])
def test_parameters_come_back_from_their_leaves(name):
    """Parameters and carries are plain pytrees with readable paths."""
    params = sample(name).params
    leaves, tree = jax.tree.flatten(params)
    assert_identical(jax.tree.unflatten(tree, leaves), params)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    expected = {"stack": ["[0].w_x", "[1].b_hn"], "bidirectional": [".forward.w_x", ".backward.b"]}[name]
    assert set(expected) <= set(paths)
