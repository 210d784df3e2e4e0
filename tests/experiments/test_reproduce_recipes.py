"""The trainings of others, as far as they can be checked without training: their task, their cell, their draws."""

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from experiments.reproduce import recipes


def test_the_order_task_is_theirs() -> None:
    """B first, E last, X or Y once in steps 3..12 and once in 25..40, in all four orders; the rest a, b, c, d."""
    batch = recipes.order_batch(jax.random.key(0), 300)
    tokens = np.asarray(batch.xs).argmax(-1)
    assert batch.xs.shape == (50, 300, 8) and (np.asarray(batch.xs).sum(-1) == 1).all()
    assert (tokens[0] == 6).all() and (tokens[-1] == 7).all() and (tokens[1:-1] < 6).all()
    steps, rows = np.nonzero((tokens == 4) | (tokens == 5))
    places = np.stack([np.sort(steps[rows == row]) for row in range(300)])
    assert (places.min(0) == [3, 25]).all() and (places.max(0) == [12, 40]).all()
    first, second = np.take_along_axis(tokens, places.T, axis=0) - 4
    np.testing.assert_array_equal(batch.targets[-1], 2 * first + second)
    assert set(np.asarray(batch.targets[-1])) == {0, 1, 2, 3} and set(np.unique(tokens)) == set(range(8))


def test_the_cell_of_1997_forgets_nothing() -> None:
    """As the LSTM with its forget gate wide open; what is in that gate's place does not matter."""
    cell, size = recipes.LSTMWithoutForgetGate(3), 3
    drawn = recipes._drawn("lstm", size, 8, 4, (0.1, 0.2, 0.3), jax.random.key(1))
    assert drawn["w_out"].shape == (3, 4) and not drawn["b_out"].any()
    params = recipes._with_bias(drawn, size, 0, -1.0)["cell"]
    assert params.b.tolist() == [-1.0] * 3 + [0.0] * 9
    xs = jax.random.normal(jax.random.key(2), (6, 8), jnp.float32)
    for bias in (60.0, -60.0):
        other = params._replace(b=params.b.at[3:6].set(bias))
        (carry, ys), (open_carry, open_ys) = (
            rnnjax.unroll(which, p, xs, engine="scan")
            for which, p in ((cell, other), (rnnjax.LSTM(size), params._replace(b=params.b.at[3:6].set(60.0))))
        )
        np.testing.assert_allclose(ys, open_ys, rtol=1e-6)
        np.testing.assert_allclose(carry.c, open_carry.c, rtol=1e-6)
