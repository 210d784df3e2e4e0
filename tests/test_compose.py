"""Layers and directions: composites equal their parts, run one after another or side by side."""

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
