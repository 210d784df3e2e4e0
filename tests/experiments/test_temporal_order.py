"""Temporal order: networks drawn as the authors drew them, and Ω as their code has it."""

import jax
import numpy as np
import pytest

from experiments import temporal_order as order
from rnnjax import tasks


@pytest.mark.parametrize("name", ["sigmoid", "basic tanh", "smart tanh"])
def test_networks_are_drawn_as_in_the_paper(name):
    found = order.init_network(name, 50, jax.random.key(3))
    w_h = np.asarray(found.rnn.w_h)
    scale = 0.1 if name == "basic tanh" else 0.01
    assert 0.9 * scale < np.std(found.rnn.w_x) < 1.1 * scale and 0.8 * scale < np.std(found.w_out) < 1.2 * scale
    assert not np.any(found.rnn.b) and not np.any(found.b_out)
    if name == "smart tanh":
        assert (np.count_nonzero(w_h, axis=1) == 15).all()
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(w_h)).max(), 0.95, rtol=1e-9)
    else:
        assert 0.9 * scale < w_h.std() < 1.1 * scale


def test_omega_is_that_of_the_authors_code():
    """In NumPy: squared norms of a_t φ'(z_t) W^T over those of a_t, and the gradient for W with all else held."""
    cell = order.cell_of("sigmoid", 4)
    drawn = jax.tree.map(lambda leaf: 8 * leaf, order.init_network("sigmoid", 4, jax.random.key(0)))
    batch = tasks.temporal_order(jax.random.key(1), 10, (3,))
    with jax.numpy_dtype_promotion("standard"):
        value, found = jax.jit(jax.value_and_grad(lambda n: order.omega(cell, n, batch)))(drawn)

    w, hs = np.asarray(drawn.rnn.w_h), [np.zeros((3, 4))]
    for x in np.asarray(batch.xs):
        hs.append(1 / (1 + np.exp(-(x @ drawn.rnn.w_x + hs[-1] @ w + drawn.rnn.b))))
    scores = hs[-1] @ drawn.w_out + drawn.b_out
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    loss = -np.log(p[np.arange(3), batch.targets[-1]]).mean()
    np.testing.assert_allclose(order.cross_entropy(order.logits(cell, drawn, batch), batch), loss, rtol=1e-12)
    a = (p - np.eye(4)[np.asarray(batch.targets[-1])]) @ np.asarray(drawn.w_out).T / 3
    total, gradient, count = 0.0, np.zeros((4, 4)), 0
    for h in reversed(hs[1:]):
        back = a * h * (1 - h)
        after = back @ w.T
        long, before = (after**2).sum(-1), (a**2).sum(-1)
        counts = before >= order.FLOOR**2
        total += ((long / before - 1) ** 2)[counts].sum()
        weight = np.where(counts, 4 * (long / before - 1) / before, 0)
        gradient += np.einsum("b,bi,bj->ij", weight, after, back)
        count += counts.sum()
        a = after
    np.testing.assert_allclose(value, total / count, rtol=1e-10)
    np.testing.assert_allclose(found.rnn.w_h, gradient / count, rtol=1e-8)
    assert not np.any(found.w_out) and not np.any(found.rnn.w_x)
