"""`rnnjax.step`: T calls equal one `unroll`, for every cell that has a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import GRU, LSTM, Bidirectional, Readout, Stack
from tests.registry import (
    CAUSAL,
    CELLS,
    COMBINED,
    B,
    T,
    assert_close,
    assert_identical,
    cotangents,
    sample,
)

COUNTS = (np.arange(T)[:, None] < COMBINED.lengths) & COMBINED.mask
RESETS = COMBINED.resets & (np.arange(T)[:, None] < COMBINED.lengths)
every_causal_cell = pytest.mark.parametrize("name", CAUSAL)


def by_steps(name, params, carry, xs, mask, resets):
    ys = []
    for t in range(T):
        carry, y = rnnjax.step(CELLS[name], params, carry, xs[t], mask=mask[t], resets=resets[t])
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)


@every_causal_cell
def test_steps_are_one_unroll(name):
    """Values and gradients with gaps, lengths and resets, and NaN at masked steps."""
    params, carry, xs = sample(name)
    spoilt = jnp.where(COUNTS.reshape(*COUNTS.shape, *[1] * (xs.ndim - 2)), xs, jnp.nan)

    @jax.jit
    def both(params, carry, xs, spoilt):
        one = jax.vjp(lambda p, c, xs: by_steps(name, p, c, xs, COUNTS, RESETS), params, carry, spoilt)
        times = COMBINED._asdict()
        other = jax.vjp(
            lambda p, c, xs: rnnjax.unroll(CELLS[name], p, xs, carry=c, **times, engine="scan"), params, carry, xs
        )
        weights = cotangents(name)
        return (one[0], one[1](weights)), (other[0], other[1](weights))

    got, expected = both(params, carry, xs, spoilt)
    assert_close(got, expected)
    assert not np.asarray(jax.tree.leaves(got[0][1])[0])[~COUNTS].any()


@every_causal_cell
def test_with_nothing_said_it_is_the_step_of_the_cell(name):
    """From the initial carry, with any number of batch axes."""
    params, _, xs = sample(name)
    cell = CELLS[name]
    got = rnnjax.step(cell, params, None, xs[0])
    assert_identical(got, cell.step(params, cell.initial_carry(params, (B,)), xs[0]))
    row = rnnjax.step(cell, params, None, xs[0, 0])
    assert_close(row, jax.tree.map(lambda leaf: leaf[0], got))


@pytest.mark.parametrize("cell", [Bidirectional(GRU(2), GRU(2)), Stack((Bidirectional(GRU(2), GRU(2)), GRU(2)))])
def test_what_needs_the_whole_sequence_is_refused_by_name(cell):
    for whole in (cell, Readout(cell, 2)):
        params = whole.init(jax.random.key(0), 2)
        with pytest.raises(TypeError, match=r"Bidirectional.*whole sequence.*rnnjax\.unroll"):
            rnnjax.step(whole, params, None, jnp.ones((3, 2)))


@pytest.mark.parametrize(
    ("error", "says", "changes"),
    [
        (TypeError, "`mask` is int.*boolean", {"mask": np.ones(3, int)}),
        (TypeError, "`resets` is float.*boolean", {"resets": np.ones(3)}),
        (ValueError, r"`x` is \[3, 2\] but `mask` is \[5, 3\]", {"mask": COUNTS}),
        (ValueError, r"`x` is \[3, 2\] but `resets` is \[1\]", {"resets": np.ones(1, bool)}),
        (
            ValueError,
            r"`carry`.h is \[3\], expected \[3, 3\]",
            {"carry": rnnjax.LSTMCarry(jnp.ones(3), jnp.ones((3, 3)))},
        ),
        (ValueError, "`x` is a scalar", {"x": 1.0}),
        (ValueError, r"`x` is \[3, 4\].*2 features", {"x": jnp.ones((3, 4))}),
        (TypeError, "`cell` is .*expected a cell", {"cell": LSTM}),
    ],
)
def test_what_does_not_fit_is_told(error, says, changes):
    given = {"cell": LSTM(3), "params": sample("lstm").params, "carry": None, "x": jnp.ones((3, 2)), **changes}
    with pytest.raises(error, match=says):
        rnnjax.step(**given)
