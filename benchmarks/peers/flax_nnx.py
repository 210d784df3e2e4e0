"""Flax nnx: `nnx.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, time-major, with `seq_lengths`.

Its gates are stacked as ours are; its GRU has no bias inside the reset gate's brackets. With `ours` the same model with
`rnnjax.flax.nnx.RNN` in its place.
"""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.peers.peer import jax_programs, require
from benchmarks.problems import Problem


def build(problem: Problem, *, ours: bool = False) -> dict[str, harness.Program]:
    require("flax")
    from flax import nnx

    import rnnjax.flax

    _, _, D, H = problem.point
    cells = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}
    layer = rnnjax.flax.nnx.RNN if ours else nnx.RNN
    model = layer(cells[problem.cell](D, H, rngs=nnx.Rngs(0)), time_major=True)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    bias = "dense_h" if problem.cell == "lstm" else "dense_i"
    w = problem.weights
    cell: dict[str, dict[str, Any]] = {"dense_i": {"kernel": w["w_x"]}, "dense_h": {"kernel": w["w_h"]}}
    cell[bias]["bias"] = w["b"]
    nnx.replace_by_pure_dict(params, jax.tree.map(jnp.asarray, {"cell": cell}))

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        h = jnp.zeros((xs.shape[1], H))
        carry = (h, h) if problem.cell == "lstm" else h
        return nnx.merge(graph, params, rest)(xs, initial_carry=carry, seq_lengths=lengths)

    def read(grads: Any) -> dict[str, Any]:
        cell = nnx.to_pure_dict(grads)["cell"]
        return {"w_x": cell["dense_i"]["kernel"], "w_h": cell["dense_h"]["kernel"], "b": cell[bias]["bias"]}

    return jax_programs(problem, forward, params, read)
