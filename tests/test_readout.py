"""A readout is used like its cell; the property tests of the registry check its results over time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GRU, LSTM, Bidirectional, Elman, Readout, Stack, unroll
from rnnjax._unroll import is_causal
from tests.registry import CELLS, COMBINED, D, assert_close, assert_identical, normal, sample

KEY = jax.random.key(0)
BOTH = Readout(Bidirectional(GRU(2), Elman(2)), 3)


def test_parameters():
    """The cell's parameters, W_out ~ N(0, 1/H) and zero bias; a layer above gets K features."""
    model = Stack((Readout(LSTM(50), 40), GRU(3)))
    params, _ = model.init(KEY, 2)
    assert_identical(params.rnn, LSTM(50).init(jax.random.split(jax.random.split(KEY)[0])[0], 2))
    assert params.w_out.shape == (50, 40) and abs(float(params.w_out.std()) * 50**0.5 - 1) < 0.05
    assert not params.b_out.any()
    assert model.init(KEY, 2)[1].w_x.shape[0] == 40


def test_one_step_is_the_readout_of_one_step():
    params, carry, xs = sample("readout")
    model = CELLS["readout"]
    got, y = model.step(params, carry, xs[0])
    expected, h = model.cell.step(params.rnn, carry, xs[0])
    assert_identical((got, y), (expected, h @ params.w_out + params.b_out))


def test_masked_outputs_are_zero():
    """Not the bias."""
    params, carry, xs = sample("readout")
    assert params.b_out.all()
    _, ys = unroll(CELLS["readout"], params, xs, carry=carry, lengths=COMBINED.lengths, mask=COMBINED.mask)
    counts = (np.arange(5)[:, None] < COMBINED.lengths) & COMBINED.mask
    assert not ys[~counts].any() and ys[counts].all()


@pytest.mark.parametrize("engine", ["loop", "scan", "hoisted"])
def test_over_both_directions(engine):
    """Such a readout has no step, so it runs part by part."""
    params = normal(jax.eval_shape(lambda: BOTH.init(KEY, D)), "both")
    xs = sample("readout").xs
    _, hs = unroll(BOTH.cell, params.rnn, xs, lengths=COMBINED.lengths, engine="loop")
    _, ys = unroll(BOTH, params, xs, lengths=COMBINED.lengths, engine=engine)
    counts = np.arange(5)[:, None] < COMBINED.lengths
    assert_close(ys, jnp.where(counts[..., None], hs @ params.w_out + params.b_out, 0))
    assert not is_causal(BOTH) and is_causal(CELLS["readout"])
    with pytest.raises(TypeError, match=r"Bidirectional.*whole sequence.*rnnjax\.unroll"):
        BOTH.step(params, BOTH.initial_carry(params, (3,)), xs[0])


def test_the_former_arguments_are_refused():
    for former in (
        lambda: Readout(GRU(3), 2, 5),  # pyright: ignore[reportArgumentType]
        lambda: Readout(GRU(3), input_size=2, output_size=5),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(TypeError, match=r"Readout takes \(cell, output_size\).*init\(key, input_size\)"):
            former()
    with pytest.raises(ValueError, match="output_size is 0"):
        Readout(GRU(3), 0)
    with pytest.raises(ValueError, match="input_size is 0"):
        Readout(GRU(3), 2).init(KEY, 0)


def test_parameters_of_another_readout_are_refused():
    params = Readout(GRU(3), 2).init(KEY, D)._replace(w_out=jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"output is \[5, 3, 3\], but `params.w_out` is \[4, 2\]"):
        rnnjax.unroll(Readout(GRU(3), 2), params, sample("gru").xs)


def test_ridge_is_least_squares_with_a_penalty():
    """Against NumPy's least squares with the penalty as further rows; rows without weight may be NaN."""
    hs, targets = normal(jnp.zeros((7, 3, 4)), "hs"), normal(jnp.zeros((7, 3, 2)), "targets")
    weights = jnp.abs(normal(jnp.zeros((7, 3)), "weights")).at[3, 1].set(0.0)
    w_out, b_out = rnnjax.ridge(hs.at[3, 1].set(jnp.nan), targets.at[3, 1].set(jnp.nan), 0.3, weights=weights)
    h, y, root = np.asarray(hs).reshape(-1, 4), np.asarray(targets).reshape(-1, 2), np.sqrt(weights).reshape(-1, 1)
    rows = np.concatenate([root * np.concatenate([h, np.ones((21, 1))], axis=1), 0.3**0.5 * np.eye(4, 5)])
    expected = np.linalg.lstsq(rows, np.concatenate([root * y, np.zeros((4, 2))]), rcond=None)[0]
    assert_close(jnp.concatenate([w_out, b_out[None]]), expected)


def test_a_reservoir_remembers_its_input():
    """The echo state network's readout of the input five steps ago."""
    cell = rnnjax.cells.EchoState(100)
    params = cell.init(KEY, 1)
    xs = jax.random.uniform(KEY, (800, 1), params.b.dtype, -0.5, 0.5)
    _, hs = unroll(cell, params, xs)
    w_out, b_out = rnnjax.ridge(hs[100:600], xs[95:595])
    error = hs[600:] @ w_out + b_out[None] - xs[595:795]
    assert float((error**2).mean() / xs.var()) < 0.05


def test_ridge_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="they must agree in all axes but the last"):
        rnnjax.ridge(jnp.zeros((5, 3)), jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match="penalty is -1"):
        rnnjax.ridge(jnp.zeros((5, 3)), jnp.zeros((5, 1)), -1)
