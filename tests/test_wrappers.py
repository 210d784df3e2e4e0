"""A learned initial carry with its gradient, and cells without biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GRU, LSTM, Bidirectional, LearnedCarry, Stack, StepCell, WithoutBias
from rnnjax.training import load_model, save_model
from rnnjax.wrappers import LearnedCarryParams
from tests.registry import CAUSAL, CELLS, COMBINED, B, assert_close, assert_identical, cotangents, normal, sample

every_causal_cell = pytest.mark.parametrize("name", CAUSAL)
RESETS = COMBINED.resets


def wrapped(name):
    """`(cell, params)`, with a random carry of one row."""
    cell, params = LearnedCarry(CELLS[name]), sample(name).params
    start = normal(jax.eval_shape(CELLS[name].initial_carry, params), f"{name} start")
    return cell, LearnedCarryParams(params, start)


@every_causal_cell
def test_it_starts_at_the_cells_own_carry(name):
    cell = LearnedCarry(CELLS[name])
    params = cell.init(jax.random.key(0), 2)
    assert_identical(params.cell, CELLS[name].init(jax.random.key(0), 2))
    assert_identical(cell.initial_carry(params, (4, 2)), CELLS[name].initial_carry(params.cell, (4, 2)))


@every_causal_cell
def test_it_is_an_initial_carry_given(name):
    """Without resets: equal to the cell unrolled from that carry, with its gradient summed over the rows."""
    cell, params = wrapped(name)
    xs, times = sample(name).xs, {"lengths": COMBINED.lengths, "mask": COMBINED.mask}

    @jax.jit
    def both(params):
        def given(own, start):
            carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, *leaf.shape)), start)
            return rnnjax.unroll(CELLS[name], own, xs, carry=carry, **times, engine="scan")

        one = jax.vjp(lambda p: rnnjax.unroll(cell, p, xs, **times), params)
        other = jax.vjp(given, *params)
        weights = cotangents(name)
        return (one[0], *one[1](weights)), (other[0], LearnedCarryParams(*other[1](weights)))

    assert_close(*both(params))


@every_causal_cell
def test_resets_go_back_to_it(name):
    """Values and gradients equal a loop over steps; resets alone also give the carry a gradient."""
    cell, params = wrapped(name)
    _, carry, xs = sample(name)

    def over_time(params):
        return rnnjax.unroll(cell, params, xs, carry=carry, resets=RESETS)

    def by_hand(params):
        own, ys = carry, []
        for x, reset in zip(xs, RESETS, strict=True):
            start = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, *leaf.shape)), params.carry)
            own = jax.tree.map(lambda s, c, r=reset: jnp.where(r.reshape(B, *[1] * (c.ndim - 1)), s, c), start, own)
            own, y = CELLS[name].step(params.cell, own, x)
            ys.append(y)
        return own, jnp.stack(ys)

    def pulled(function):
        outputs, pullback = jax.vjp(function, params)
        return outputs, *pullback(cotangents(name))

    got = jax.jit(lambda: pulled(over_time))()
    assert_close(got, jax.jit(lambda: pulled(by_hand))())
    gradients = jax.tree.leaves_with_path(got[1].carry)  # but for a clock, in which the outputs jump
    assert all(leaf.any() for path, leaf in gradients if jax.tree_util.keystr(path) != ".t")


def test_what_is_not_floating_starts_as_the_cell_has_it():
    """A counter cannot be learned; it is None among the parameters, so that `jax.grad` accepts them."""
    counted = StepCell(
        lambda p, carry, x: ((carry[0] * p + x, carry[1] + 1), carry[0]),
        lambda p, shape: (jnp.zeros((*shape, 2), p.dtype), jnp.full(shape, 7)),
        lambda key, input_size, dtype: jnp.ones(()),
    )
    cell = LearnedCarry(counted)
    params = cell.init(jax.random.key(0), 2)
    assert params.carry[1] is None and params.carry[0].shape == (2,)
    carry, _ = rnnjax.unroll(cell, params, jnp.ones((5, 3, 2)))
    np.testing.assert_array_equal(carry[1], [12, 12, 12])
    gradient = jax.grad(lambda p: rnnjax.unroll(cell, p, jnp.ones((5, 3, 2)))[1].sum())(params)
    np.testing.assert_allclose(gradient.carry[0], [15, 15])


def test_both_directions_are_wrapped_part_by_part():
    with pytest.raises(TypeError, match=r"no single step; wrap its parts.*Bidirectional\(LearnedCarry"):
        LearnedCarry(Bidirectional(GRU(2), GRU(2)))  # pyright: ignore[reportArgumentType]
    cell = Bidirectional(LearnedCarry(GRU(2)), LearnedCarry(GRU(2)))
    params = cell.init(jax.random.key(0), 2)
    gradient = jax.grad(lambda p: rnnjax.unroll(cell, p, jnp.ones((5, 3, 2)))[1].sum())(params)
    assert gradient.forward.carry.all() and gradient.backward.carry.all()


def test_it_is_a_layer_and_a_model_like_any_other(tmp_path):
    cell = Stack((LearnedCarry(LSTM(3)), LearnedCarry(GRU(2))))
    params = cell.init(jax.random.key(0), 2)
    found = load_model(save_model(tmp_path / "model", cell, params, input_size=2))
    assert found.model == cell
    assert_identical(found(jnp.ones((5, 3, 2))), rnnjax.unroll(cell, params, jnp.ones((5, 3, 2))))


BIASED = {"elman": rnnjax.Elman(3), "lstm": LSTM(3), "gru": GRU(3), "projected": rnnjax.LSTMProjected(3, 2)}
every_biased_cell = pytest.mark.parametrize("cell", BIASED.values(), ids=BIASED)


def without(cell):
    """`(cell, params)`, with random parameters except biases."""
    bare = WithoutBias(cell)
    return bare, normal(jax.eval_shape(lambda: bare.init(jax.random.key(0), 2)), repr(cell))


@every_biased_cell
def test_without_bias_is_with_zeros(cell):
    """Equal values and gradients on the same engine; there are no leaves for biases."""
    bare, params = without(cell)
    whole = jax.eval_shape(lambda: cell.init(jax.random.key(0), 2))
    zeros = {name: jnp.zeros(leaf.shape) for name, leaf in whole._asdict().items() if getattr(params, name) is None}
    assert set(zeros) == {name for name in whole._fields if name.startswith("b")}
    xs = sample("gru").xs

    def loss(cell, params):
        return (rnnjax.unroll(cell, params, xs, lengths=COMBINED.lengths, engine="hoisted")[1] ** 2).sum()

    @jax.jit
    def both(params):
        return [jax.value_and_grad(loss, 1)(c, p) for c, p in ((bare, params), (cell, params._replace(**zeros)))]

    (value, gradient), (expected, expected_gradient) = both(params)
    assert_close((value, gradient), (expected, expected_gradient._replace(**dict.fromkeys(zeros))))
    assert all(getattr(gradient, name) is None for name in zeros)


@every_biased_cell
def test_without_bias_refuses_one(cell):
    bare, params = without(cell)
    given = params._replace(b=jnp.zeros(params.w_h.shape[1]))
    with pytest.raises(ValueError, match=r"`params` holds b, but WithoutBias\(.* has no bias; put None"):
        rnnjax.unroll(bare, given, sample("gru").xs)
    with pytest.raises(TypeError, match=r"`params` are \w+Params without `b`"):
        rnnjax.unroll(cell, params, sample("gru").xs)
    with pytest.raises(TypeError, match="expected an Elman, LSTM, GRU or LSTMProjected"):
        WithoutBias(Stack((cell,)))  # pyright: ignore[reportArgumentType]


def test_without_bias_is_saved(tmp_path):
    bare, params = without(GRU(3))
    save_model(tmp_path, bare, params, input_size=2)
    loaded = load_model(tmp_path)
    assert loaded.model == bare
    assert_identical(loaded.params, params)
