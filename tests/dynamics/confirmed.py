"""A second method: what `fixed_points` certifies is found again by MINPACK's hybrid method, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

import rnnjax


def elman(w_h, b=None, activation: Any = "tanh"):
    """A cell, its parameters, and an input of zero."""
    w_h = jnp.asarray(w_h, float)
    size = len(w_h)
    b = jnp.zeros(size) if b is None else jnp.asarray(b, float)
    return rnnjax.Elman(size, activation), rnnjax.ElmanParams(jnp.zeros((1, size)), w_h, b), jnp.zeros(1)


def stacked(carry):
    """`[N, S]`."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(carry)], axis=-1)


def confirm(cell, params, x, found):
    """Raises unless every certified point is found from beside it, and lies within its error of that."""
    like = cell.initial_carry(params)
    leaves, tree = jax.tree.flatten(like)
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]

    @jax.jit
    def off(h):
        parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(h, cuts), leaves, strict=True)]
        after, _ = rnnjax.step(cell, params, tree.unflatten(parts), x)
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(after)]) - h

    assert found.certified.any()
    rows = stacked(found.carry)
    for i in np.flatnonzero(found.certified):
        beside = rows[i] + min(1e-3, found.radius[i] / 4)
        again = optimize.root(lambda h: np.asarray(off(h)), beside, method="hybr", tol=1e-13).x
        assert np.abs(again - rows[i]).max() <= found.error[i] + 1e-9
        assert found.error[i] <= found.radius[i]
