"""Pooling over time against NumPy, one row at a time; padding of NaN affects neither values nor gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import rnnjax
from rnnjax import AttentionPooling, pool_last, pool_mean
from tests.registry import COMBINED, assert_close, assert_identical, normal

T, B, H = 5, 3, 4
POOLING = AttentionPooling(3)
PARAMS = normal(jax.eval_shape(lambda: POOLING.init(jax.random.key(0), H, "float64")), "attention")
YS = normal(jnp.zeros((T, B, H)), "ys")

WAYS: dict[str, Any] = {
    "last": lambda params, ys, **times: pool_last(ys, **times),
    "mean": lambda params, ys, **times: pool_mean(ys, **times),
    "attention": POOLING,
}
ROWS: dict[str, Any] = {
    "last": lambda params, ys: ys[-1],
    "mean": lambda params, ys: ys.mean(axis=0),
    "attention": lambda params, ys: attended(params, ys),
}
every_way = pytest.mark.parametrize("way", WAYS)

CASES: dict[str, dict[str, Any]] = {
    "all": {},
    "lengths": {"lengths": np.array([5, 3, 1])},
    "gaps": {"mask": np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]], bool).T},
    "both, and an empty row": {"lengths": COMBINED.lengths, "mask": COMBINED.mask},
}


def attended(params, ys):
    """The scores of each step, and a softmax, in plain NumPy."""
    scores = np.tanh(ys @ params.w + params.b) @ params.v
    return (np.exp(scores) / np.exp(scores).sum()) @ ys


def valid(lengths=None, mask=None):
    counts = np.ones((T, B), bool) if mask is None else mask
    return counts & (np.arange(T)[:, None] < (T if lengths is None else lengths))


@every_way
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_row_is_pooled_by_itself(way, case):
    """The same as a row that is cut to its valid steps; zeros for a row that has none. Also with no batch axis."""
    counts, params = valid(**case), jax.tree.map(np.asarray, PARAMS)
    rows = [np.asarray(YS)[counts[:, b], b] for b in range(B)]
    expected = np.stack([ROWS[way](params, row) if len(row) else np.zeros(H) for row in rows])
    ys = jnp.where(counts[..., None], YS, jnp.nan)
    got = WAYS[way](PARAMS, ys, **case)
    assert_close(got, jnp.asarray(expected))
    assert_close(jax.jit(WAYS[way])(PARAMS, ys, **case), got)
    alone = {name: array[..., 1] for name, array in case.items()}
    assert_close(WAYS[way](PARAMS, ys[:, 1], **alone), got[1])
    many = {name: np.stack([array, array[..., ::-1]], axis=-1) for name, array in case.items()}
    assert_close(WAYS[way](PARAMS, jnp.stack([ys, ys[:, ::-1]], axis=2), **many), jnp.stack([got, got[::-1]], axis=1))


@every_way
@pytest.mark.parametrize("case", list(CASES.values())[1:], ids=list(CASES)[1:])
def test_gradients_stay_out_of_the_padding(way, case):
    """To second order against differences; at masked steps, even of NaN or inf, exactly zero."""
    counts = valid(**case)
    check_grads(lambda params, ys: WAYS[way](params, ys, **case), (PARAMS, YS), 2, ["fwd", "rev"])

    def loss(params, ys):
        return jnp.sin(WAYS[way](params, ys, **case)).sum()

    clean = jax.grad(loss, argnums=(0, 1))(PARAMS, YS)
    for bad in (jnp.nan, jnp.inf):
        found = jax.grad(loss, argnums=(0, 1))(PARAMS, jnp.where(counts[..., None], YS, bad))
        assert_identical(found, clean)
    assert not clean[1][~counts].any() and clean[1].any()


def test_attention_weights():
    """They add up to one over the valid steps, to zero without any; scores may be large, and padding larger."""
    params = PARAMS._replace(v=1e4 * PARAMS.v)
    ys = jnp.where(valid(COMBINED.lengths, COMBINED.mask)[..., None], YS, 100.0)
    for p in (PARAMS, params):
        weights = POOLING.weights(p, ys, lengths=COMBINED.lengths, mask=COMBINED.mask)
        assert weights.shape == (T, B) and not weights[~valid(COMBINED.lengths, COMBINED.mask)].any()
        assert_close(weights.sum(axis=0), jnp.array([1.0, 1.0, 0.0]))
    assert_close(POOLING.weights(PARAMS, YS).sum(axis=0), jnp.ones(B))
    drawn = AttentionPooling(30).init(jax.random.key(0), 50, "float32")
    assert drawn.w.shape == (50, 30) and drawn.v.shape == (30,) and not drawn.b.any()
    assert abs(float(drawn.w.std()) * 50**0.5 - 1) < 0.1 and drawn.v.dtype == jnp.float32


@every_way
def test_dtypes_and_rank_promotion(way):
    low = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), (PARAMS, YS))
    with jax.numpy_rank_promotion("raise"):
        assert WAYS[way](*low, **CASES["both, and an empty row"]).dtype == jnp.bfloat16
        assert WAYS[way](*low).dtype == jnp.bfloat16


def test_a_readout_before_or_after():
    """The readout of the last step, and of the mean, whichever comes first."""
    model = rnnjax.Readout(rnnjax.LSTM(3), 2)
    params = normal(jax.eval_shape(lambda: model.init(jax.random.key(0), H, "float64")), "model")
    for pool in (pool_last, pool_mean):
        before = pool(rnnjax.unroll(model, params, YS, **CASES["lengths"])[1], **CASES["lengths"])
        after = pool(rnnjax.unroll(model.cell, params.rnn, YS, **CASES["lengths"])[1], **CASES["lengths"])
        assert_close(before, after @ params.w_out + params.b_out)


@every_way
def test_errors_name_the_outputs(way):
    """In the caller's terms: the argument is `ys`."""
    wrong: list[tuple[type, str, Any, dict[str, Any]]] = [
        (
            ValueError,
            r"`ys` is \[5, 3, 4\] but `lengths` is \[5\].*move time first in `ys`",
            YS,
            {"lengths": np.ones(5, int)},
        ),
        (ValueError, r"`ys` is \[5, 3, 4\] but `mask` is \[3, 5\].*`mask.T`", YS, {"mask": np.ones((3, 5), bool)}),
        (ValueError, r"runs from 1 to 6, but `ys` .* 5 steps", YS, {"lengths": np.array([1, 2, 6])}),
        (ValueError, r"`ys` is \[5\]; expected \[T, \*batch, D\]", YS[:, 0, 0], {}),
        (ValueError, "`ys` is .*T must be at least 1", YS[:0], {}),
        (TypeError, "`mask` is int64; it must be boolean", YS, {"mask": np.ones((5, 3), int)}),
        (TypeError, "`ys` is int32; expected floating point", YS.astype("int32"), {}),
    ]
    for kind, says, ys, times in wrong:
        with pytest.raises(kind, match=says):
            WAYS[way](PARAMS, ys, **times)
    with pytest.raises(ValueError, match=r"`ys` is \[5, 3, 2\], but these parameters expect 4 features"):
        POOLING(PARAMS, YS[..., :2])
    with pytest.raises(ValueError, match="size is 0"):
        AttentionPooling(0)
