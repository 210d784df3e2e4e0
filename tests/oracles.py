"""Independent reference of the forward pass of every registry cell: NumPy, float64, one row, a Python loop.

Nothing here imports `rnnjax`. Resets are represented differently too: as *cuts* between steps. Cut p is between steps
p - 1 and p, so forwards a row restarts at step p, and backwards at step p - 1. Both directions of a bidirectional cell
have the same cuts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests import paper_steps


class Row(NamedTuple):
    """The time of one row: its length, masked steps, cuts and direction."""

    length: int
    hidden: frozenset[int]
    cuts: frozenset[int]
    backwards: bool


RowFunction = Callable[[Any, Any, np.ndarray, Row], tuple[Any, np.ndarray]]
"""`(params, carry, xs [T, D], row) -> (carry, ys [T, ...])`."""


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def elman(activation: Callable) -> Callable:
    def step(p, h, x):
        h = activation(x @ p.w_x + h @ p.w_h + (0 if p.b is None else p.b))
        return h, h

    return step


def lstm(p, carry, x):
    size = p.w_h.shape[0]
    z = x @ p.w_x + carry.h @ p.w_h + p.b
    i, f, g, o = z[:size], z[size : 2 * size], z[2 * size : 3 * size], z[3 * size :]
    c = sigmoid(f) * carry.c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return carry._replace(h=h, c=c), h


def gru(p, h, x):
    size = p.w_h.shape[0]
    gates = [slice(k * size, (k + 1) * size) for k in range(3)]
    r, z = (sigmoid(x @ p.w_x[:, k] + p.b[k] + h @ p.w_h[:, k]) for k in gates[:2])
    n = np.tanh(x @ p.w_x[:, gates[2]] + p.b[gates[2]] + r * (h @ p.w_h[:, gates[2]] + p.b_hn))
    h = n + z * (h - n)
    return h, h


def mgu(p, carry, x):
    size = carry.h.shape[0]
    w_x, w_h = p["w"][: x.shape[0]], p["w"][x.shape[0] :]
    z = x @ w_x + carry.h @ w_h
    age = 1 + 0.5 * carry.age
    f, n = sigmoid(z[:size]), np.tanh(z[size:]) / (1 + age * age)
    h = carry.h + f * (n - carry.h)
    return carry._replace(h=h, age=age), h


def mgu_initial(p, carry):
    return carry._replace(h=p["h_0"], age=np.ones_like(carry.age))


def leaky(p, h, x):
    u = x @ p.w_x
    h = h * sigmoid(p.rate) + np.tanh(u + h @ p.w_h)
    return h, h**2 - u


def reset_before(p, h, x):
    r, z = (sigmoid(x @ p[f"w_{k}"] + h @ p[f"u_{k}"] + p[f"b_{k}"]) for k in "rz")
    n = np.tanh(x @ p["w_n"] + (r * h) @ p["u_n"] + p["b_n"])
    h = h + z * (n - h)
    return h, h


def projected(p, carry, x):
    i, f, g, o = np.split(x @ p.w_x + carry.h @ p.w_h + p.b, 4)
    c = sigmoid(f) * carry.c + sigmoid(i) * np.tanh(g)
    h = (sigmoid(o) * np.tanh(c)) @ p.w_p
    return carry._replace(h=h, c=c), h


def layer_norm(p, carry, x):
    def norm(z):
        return (z - z.mean()) / np.sqrt(z.var() + 1e-5)

    h, c = carry
    i, f, g, o = np.split(p["g_x"] * norm(x @ p["w_x"]) + p["g_h"] * norm(h @ p["w_h"]) + p["b"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(p["g_c"] * norm(c) + p["b_c"])
    return (h, c), h


def zeros(p, carry):
    return map_tree(np.zeros_like, carry)


def plain(step: Callable, initial: Callable = zeros) -> RowFunction:
    """A single cell over one row; `initial(params, carry)` is the carry after a cut."""

    def run(p, carry, xs, row):
        ys: dict[int, np.ndarray] = {}
        steps = range(row.length)
        for t in reversed(steps) if row.backwards else steps:
            if (t + 1 if row.backwards else t) in row.cuts:
                carry = initial(p, carry)
            if t not in row.hidden:
                carry, ys[t] = step(p, carry, xs[t])
        _, y = step(p, carry, np.zeros_like(xs[0]))  # only for its shape
        return carry, np.stack([ys[t] if t in ys else np.zeros_like(y) for t in range(xs.shape[0])])

    return run


def stack(*layers: RowFunction, skip: str = "none") -> RowFunction:
    def run(p, carry, xs, row):
        last, ys = layers[0](p[0], carry[0], xs, row)
        carries = [last]
        for layer, layer_params, layer_carry in zip(layers[1:], p[1:], carry[1:], strict=True):
            given = np.concatenate([ys, xs], axis=-1) if skip == "input" else ys
            layer_carry, above = layer(layer_params, layer_carry, given, row)
            carries.append(layer_carry)
            ys = ys + above if skip == "residual" else above
        return tuple(carries), ys

    return run


def bidirectional(
    one: RowFunction, other: RowFunction, merge: Callable = lambda a, b: np.concatenate([a, b], axis=-1)
) -> RowFunction:
    def run(p, carry, xs, row):
        carry_one, ys_one = one(p.forward, carry.forward, xs, row)
        carry_other, ys_other = other(p.backward, carry.backward, xs, row._replace(backwards=not row.backwards))
        return carry._replace(forward=carry_one, backward=carry_other), merge(ys_one, ys_other)

    return run


def readout(cell: RowFunction) -> RowFunction:
    def run(p, carry, xs, row):
        carry, hs = cell(p.rnn, carry, xs, row)
        ys = [
            h @ p.w_out + p.b_out if t < row.length and t not in row.hidden else np.zeros_like(p.b_out)
            for t, h in enumerate(hs)
        ]
        return carry, np.stack(ys)

    return run


TANH = plain(elman(np.tanh))
LEAKY = plain(leaky)

ROWS: dict[str, RowFunction] = {
    "elman_tanh": TANH,
    "elman_relu": plain(elman(lambda z: np.maximum(z, 0))),
    "elman_linear": plain(elman(lambda z: z)),
    "lstm": plain(lstm),
    "gru": plain(gru),
    "step_cell": plain(mgu, mgu_initial),
    "custom": LEAKY,
    "reset_before": plain(reset_before),
    "projected": plain(projected),
    "layer_norm": plain(layer_norm),
    "stack": stack(plain(lstm), plain(gru)),
    "deep_stack": stack(TANH, stack(LEAKY, plain(elman(lambda z: z)))),
    "bidirectional": bidirectional(plain(gru), plain(lstm)),
    "readout": readout(stack(readout(plain(lstm)), plain(gru), skip="input")),
    "stack_of_bidirectional": stack(
        bidirectional(TANH, LEAKY, np.multiply),
        plain(lambda p, h, x: gru(p.cell, h, x), lambda p, h: p.carry),
        skip="residual",
    ),
    **{name: plain(step) for name, step in paper_steps.STEPS.items()},
}


SPACE_AXES = {"conv_lstm": 1, "conv_gru": 2}
"""The number of axes between batch and features in the input of a convolutional cell."""


def unroll(name: str, params, carry, xs, lengths=None, mask=None, resets=None, reverse=False):
    """What `rnnjax.unroll` must return for the registry cell `name`: `(carry, ys)`, any number of batch axes."""
    params, carry, xs = (map_tree(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (params, carry, xs))
    steps, batch_shape = xs.shape[0], xs.shape[1 : xs.ndim - 1 - SPACE_AXES.get(name, 0)]
    carries, outputs = [], []
    for b in np.ndindex(batch_shape):
        length = steps if lengths is None else int(np.asarray(lengths)[b])
        hidden = [] if mask is None else [t for t in range(steps) if not np.asarray(mask)[(t, *b)]]
        flagged = [] if resets is None else [t for t in range(length) if np.asarray(resets)[(t, *b)]]
        cuts = frozenset(t + 1 if reverse else t for t in flagged)
        row = Row(length, frozenset(hidden), cuts, reverse)
        row_carry, ys = ROWS[name](params, map_tree(lambda leaf, b=b: leaf[b], carry), xs[(slice(None), *b)], row)
        carries.append(row_carry)
        outputs.append(ys)
    ys = np.stack(outputs, axis=1)
    return (
        map_tree(lambda *leaves: np.stack(leaves).reshape(batch_shape + leaves[0].shape), *carries),
        ys.reshape((steps, *batch_shape, *ys.shape[2:])),
    )


def map_tree(function: Callable, tree: Any, *rest: Any) -> Any:
    """A minimal `jax.tree.map`, so that oracles depend only on NumPy."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: map_tree(function, tree[key], *(r[key] for r in rest)) for key in tree}
    if isinstance(tree, tuple):
        parts = [map_tree(function, *leaves) for leaves in zip(tree, *rest, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return function(tree, *rest)
