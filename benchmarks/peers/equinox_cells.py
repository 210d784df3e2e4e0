"""Equinox: a cell in `jax.lax.scan` over one row, under `jax.vmap` over the batch, as its documentation writes it."""

# pyright: reportMissingImports=false
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.peers.peer import jax_programs, require
from benchmarks.problems import Problem


def build(problem: Problem) -> dict[str, harness.Program]:
    require("equinox")
    if problem.cell == "elman":
        raise harness.LeftOut("Equinox has no Elman cell")
    if problem.lengths is not None:
        raise harness.LeftOut("Equinox has neither lengths nor a mask")
    import equinox as eqx

    _, _, D, H = problem.point
    w = problem.weights
    cells = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}
    cell = cells[problem.cell](D, H, key=jax.random.key(0))

    def leaves(cell: Any) -> list[Any]:
        return [cell.weight_ih, cell.weight_hh, cell.bias] + ([cell.bias_n] if problem.cell == "gru" else [])

    values = [w["w_x"].T, w["w_h"].T, w["b"]] + ([w["b_hn"]] if problem.cell == "gru" else [])
    cell = eqx.tree_at(leaves, cell, [jnp.asarray(value) for value in values])
    params, static = eqx.partition(cell, eqx.is_array)

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        cell = eqx.combine(params, static)

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            carry = cell(x, carry)
            return carry, carry[0] if problem.cell == "lstm" else carry

        def row(xs: Any) -> Any:
            h = jnp.zeros(H)
            return jax.lax.scan(step, (h, h) if problem.cell == "lstm" else h, xs)[1]

        return jax.vmap(row, in_axes=1, out_axes=1)(xs)

    def read(grads: Any) -> dict[str, Any]:
        read = dict(zip(("w_x", "w_h", "b", "b_hn"), map(np.asarray, leaves(grads)), strict=False))
        return read | {"w_x": read["w_x"].T, "w_h": read["w_h"].T}

    return jax_programs(problem, forward, params, read)
