"""Keras 3 on JAX: the layers `LSTM`, `GRU` and `SimpleRNN` through `stateless_call`, batch-major, with `mask`."""

# pyright: reportMissingImports=false
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.peers.peer import back, jax_programs, reordered, require
from benchmarks.problems import Problem

_ORDER = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "elman": (0,)}  # of a GRU z, r, h


def build(problem: Problem) -> dict[str, harness.Program]:
    require("keras")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise harness.LeftOut(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
    B, T, D, H = problem.point
    layers = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "elman": keras.layers.SimpleRNN}
    layer = layers[problem.cell](H, return_sequences=True)
    layer.build((B, T, D))
    state = [variable.value for variable in layer.non_trainable_variables]

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        mask = None if lengths is None else jnp.arange(T) < lengths[:, None]
        return layer.stateless_call(params, state, xs, mask=mask)[0]

    order = _ORDER[problem.cell]
    params = [jnp.asarray(reordered(problem, name, order)) for name in ("w_x", "w_h", "b")]
    if problem.cell == "gru":  # a row of biases for the input, one for the carry
        recurrent = np.concatenate([np.zeros(2 * H, np.float32), problem.weights["b_hn"]])
        params[2] = jnp.stack([params[2], jnp.asarray(recurrent)])
    shapes = [tuple(variable.shape) for variable in layer.trainable_variables]
    if shapes != [tuple(p.shape) for p in params]:
        raise ValueError(f"Keras has weights of shapes {shapes}, expected {[p.shape for p in params]}.")

    def read(grads: Any) -> dict[str, Any]:
        w_x, w_h, b = grads
        if problem.cell != "gru":
            return {"w_x": back(w_x, order), "w_h": back(w_h, order), "b": back(b, order)}
        return {"w_x": back(w_x, order), "w_h": back(w_h, order), "b": back(b[0], order), "b_hn": b[1][2 * H :]}

    return jax_programs(problem, forward, params, read, batch_major=True)
