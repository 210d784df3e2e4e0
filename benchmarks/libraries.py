"""The peers: Flax linen, Flax nnx, Haiku, Equinox, Keras on JAX, and PyTorch, each with the weights of a problem.

Each `build` of a JAX library makes its forward pass and training step by `_programs`, and reads its gradients back in
the shared form. A library that is not installed, or has no such cell or lengths, raises `LeftOut`.
"""

# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
import functools
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import contest
from benchmarks.problems import GATES, Problem

Programs = dict[str, contest.Program]
_SETTLE_S = 0.1  # PyTorch's OpenMP threads go on spinning for a while after their work
_LSTM_OF_HAIKU, _GRU_ZRN = (0, 2, 1, 3), (1, 0, 2)  # i, g, f, o and z, r, n

HAIKU_UNCHECKED = {
    "gru": "Haiku's GRU resets before the product with the carry, another function",
    "elman": "Haiku's VanillaRNN has a ReLU in place of tanh",
}


def require(package: str) -> None:
    """Raises `LeftOut` where a library is not installed."""
    if importlib.util.find_spec(package) is None:
        raise contest.LeftOut("not installed; pip install 'rnnjax[peers]'")


def reordered(weight: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """A weight with its gates (of an LSTM i, f, g, o; of a GRU r, z, n) in another order."""
    gates = np.split(np.asarray(weight), len(order), axis=-1)
    return np.concatenate([gates[k] for k in order], axis=-1)


def back(weight: Any, order: Sequence[int]) -> np.ndarray:
    """The inverse of `reordered`."""
    return reordered(np.asarray(weight), [order.index(k) for k in range(len(order))])


def _programs(
    problem: Problem,
    forward: Callable[[Any, Array, Array | None], Array],
    params: Any,
    read: Callable[[Any], Mapping[str, Any]],
    *,
    batch_major: bool = False,
) -> Programs:
    """Forward and training step of a JAX library.

    Args:
      forward: `(params, xs, lengths) -> ys`; `xs` and `ys` are `[T, B, ...]`, or `[B, T, ...]` with `batch_major`.
      params: the problem's weights, in the library's layout.
      read: gradients in the library's layout to those of `problem.weights`, by name.
    """

    def natural(array: Any) -> Any:
        return array.swapaxes(0, 1) if batch_major else array

    xs = jnp.asarray(natural(problem.xs))
    lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)
    counts = natural(problem.counts)[..., None]
    weigh = None if lengths is None else jnp.asarray(counts, jnp.float32)

    def loss(params: Any, xs: Array, lengths: Array | None, weigh: Array | None) -> Array:
        ys = forward(params, xs, lengths)
        return (ys**2).sum() if weigh is None else (ys**2 * weigh).sum()

    def outputs(ys: Any) -> dict[str, Any]:
        return {"ys": natural(np.asarray(ys) * counts)}

    def gradients(result: Any) -> dict[str, Any]:
        value, (dparams, dxs) = result
        return {**read(dparams), "xs": natural(np.asarray(dxs)), "loss": value}

    train = jax.value_and_grad(loss, argnums=(0, 1))
    return {
        "forward": contest.compiled(forward, params, xs, lengths, shared=outputs),
        "train": contest.compiled(train, params, xs, lengths, weigh, shared=gradients),
    }


def flax_linen(problem: Problem, *, ours: bool = False) -> Programs:
    """`nn.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, time-major, with `seq_lengths`.

    With `ours` the same model with `rnnjax.flax.linen.RNN` in its place: the one-line change of a user of Flax.
    """
    require("flax")
    from flax import linen as nn

    import rnnjax.flax

    cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
    layer = rnnjax.flax.linen.RNN if ours else nn.RNN
    model = layer(cells[problem.cell](problem.point.H), time_major=True)
    gates = {"lstm": "ifgo", "gru": "rzn", "elman": [""]}[problem.cell]
    side = "h" if problem.cell == "lstm" else "i"  # where the bias is
    params: dict[str, dict[str, Any]] = {}
    parts = zip(*(np.split(problem.weights[k], len(gates), -1) for k in ("w_x", "w_h", "b")), strict=True)
    for gate, (w_x, w_h, b) in zip(gates, parts, strict=True):
        params |= {f"i{gate}": {"kernel": w_x}, f"h{gate}": {"kernel": w_h}}
        params[side + gate]["bias"] = b
    if problem.cell == "gru":
        params["hn"]["bias"] = problem.weights["b_hn"]

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        return model.apply({"params": {"cell": params}}, xs, seq_lengths=lengths)

    def read(grads: Any) -> dict[str, Any]:
        def joined(side: str, leaf: str) -> np.ndarray:
            return np.concatenate([grads[side + gate][leaf] for gate in gates], axis=-1)

        found = {"w_x": joined("i", "kernel"), "w_h": joined("h", "kernel"), "b": joined(side, "bias")}
        return found | ({"b_hn": grads["hn"]["bias"]} if problem.cell == "gru" else {})

    return _programs(problem, forward, params, read)


def flax_nnx(problem: Problem, *, ours: bool = False) -> Programs:
    """`nnx.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, time-major, with `seq_lengths`.

    Its gates are stacked as ours are; its GRU has no bias inside the reset gate's brackets. With `ours` the same model
    with `rnnjax.flax.nnx.RNN` in its place.
    """
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

    return _programs(problem, forward, params, read)


def haiku(problem: Problem) -> Programs:
    """`hk.dynamic_unroll` over `hk.LSTM`, `hk.GRU` or `hk.VanillaRNN`, time-major."""
    require("haiku")
    if problem.lengths is not None:
        raise contest.LeftOut("Haiku has neither lengths nor a mask")
    import haiku as hk

    _, _, D, H = problem.point
    w = problem.weights

    def unrolled(xs: Any) -> Any:
        core = {"lstm": hk.LSTM, "gru": hk.GRU, "elman": hk.VanillaRNN}[problem.cell](H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    if problem.cell == "lstm":
        both = reordered(np.concatenate([w["w_x"], w["w_h"]]), _LSTM_OF_HAIKU)
        b = reordered(w["b"], _LSTM_OF_HAIKU)
        b[2 * H : 3 * H] -= 1.0  # its step adds one to the forget gate
        params = {"core/linear": {"w": both, "b": b}}
    elif problem.cell == "gru":
        names = {"w_i": "w_x", "w_h": "w_h", "b": "b"}
        params = {"core": {theirs: reordered(w[ours], _GRU_ZRN) for theirs, ours in names.items()}}
    else:
        params = {"core/linear": {"w": w["w_x"], "b": w["b"]}}
        params["core/linear_1"] = {"w": w["w_h"], "b": np.zeros_like(w["b"])}
    model = hk.without_apply_rng(hk.transform(unrolled))

    def read(grads: Any) -> dict[str, Any]:  # of the LSTM; the others are not compared
        linear = grads["core/linear"]
        both = back(linear["w"], _LSTM_OF_HAIKU)
        return {"w_x": both[:D], "w_h": both[D:], "b": back(linear["b"], _LSTM_OF_HAIKU)}

    return _programs(problem, lambda params, xs, lengths: model.apply(params, xs), params, read)


def equinox(problem: Problem) -> Programs:
    """A cell in `jax.lax.scan` over one row, under `jax.vmap` over the batch, as its documentation writes it."""
    require("equinox")
    if problem.cell == "elman":
        raise contest.LeftOut("Equinox has no Elman cell")
    if problem.lengths is not None:
        raise contest.LeftOut("Equinox has neither lengths nor a mask")
    import equinox as eqx

    _, _, D, H = problem.point
    w = problem.weights
    cell = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[problem.cell](D, H, key=jax.random.key(0))

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
        found = dict(zip(("w_x", "w_h", "b", "b_hn"), map(np.asarray, leaves(grads)), strict=False))
        return found | {"w_x": found["w_x"].T, "w_h": found["w_h"].T}

    return _programs(problem, forward, params, read)


def keras(problem: Problem) -> Programs:
    """The layers `LSTM`, `GRU` and `SimpleRNN` on JAX through `stateless_call`, batch-major, with `mask`."""
    require("keras")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise contest.LeftOut(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
    B, T, D, H = problem.point
    layers = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "elman": keras.layers.SimpleRNN}
    layer = layers[problem.cell](H, return_sequences=True)
    layer.build((B, T, D))
    state = [variable.value for variable in layer.non_trainable_variables]

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        mask = None if lengths is None else jnp.arange(T) < lengths[:, None]
        return layer.stateless_call(params, state, xs, mask=mask)[0]

    order = _GRU_ZRN if problem.cell == "gru" else range(GATES[problem.cell])
    params = [jnp.asarray(reordered(problem.weights[name], order)) for name in ("w_x", "w_h", "b")]
    if problem.cell == "gru":  # a row of biases for the input, one for the carry
        recurrent = np.concatenate([np.zeros(2 * H, np.float32), problem.weights["b_hn"]])
        params[2] = jnp.stack([params[2], jnp.asarray(recurrent)])
    shapes = [tuple(variable.shape) for variable in layer.trainable_variables]
    if shapes != [tuple(p.shape) for p in params]:
        raise ValueError(f"Keras has weights of shapes {shapes}, expected {[p.shape for p in params]}.")

    def read(grads: Any) -> dict[str, Any]:
        w_x, w_h, b = grads
        found = {"w_x": back(w_x, order), "w_h": back(w_h, order)}
        if problem.cell != "gru":
            return found | {"b": back(b, order)}
        return found | {"b": back(b[0], order), "b_hn": b[1][2 * H :]}

    return _programs(problem, forward, params, read, batch_major=True)


def pytorch(problem: Problem) -> Programs:
    """`torch.nn.LSTM`, `GRU` and `RNN`, time-major; padded batches as packed sequences.

    It runs where JAX runs: on the CPU with all cores, or on a GPU.
    """
    require("torch")
    import torch
    from torch.nn.utils import rnn

    torch.set_num_threads(contest.cores())
    on_gpu = jax.default_backend() != "cpu"
    if on_gpu and not torch.cuda.is_available():
        raise contest.LeftOut(f"JAX runs on {jax.default_backend()}, and this PyTorch has the CPU only")
    torch.backends.cudnn.allow_tf32 = False  # as all here: float32 proper
    device = torch.device("cuda" if on_gpu else "cpu")
    _, T, D, H = problem.point
    model = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[problem.cell](D, H)
    w = problem.weights
    recurrent = np.zeros_like(w["b"])
    if problem.cell == "gru":
        recurrent[2 * H :] = w["b_hn"]
    values = {"weight_ih_l0": w["w_x"].T, "weight_hh_l0": w["w_h"].T, "bias_ih_l0": w["b"], "bias_hh_l0": recurrent}
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in values.items()})
    model = model.to(device)
    xs = torch.tensor(problem.xs, device=device)
    watched = torch.tensor(problem.xs, device=device, requires_grad=True)
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths, dtype=torch.int64)

    def unrolled(xs: Any) -> Any:
        if lengths is None:
            return model(xs)[0]
        packed = rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(model(packed)[0], total_length=T)[0]

    def finished(result: Any) -> Any:
        if on_gpu:
            torch.cuda.synchronize()
        return result

    def forward() -> Any:
        with torch.inference_mode():
            return finished(unrolled(xs))

    def train() -> Any:
        model.zero_grad(set_to_none=True)
        watched.grad = None
        loss = (unrolled(watched) ** 2).sum()
        loss.backward()
        return finished(loss)

    def gradients(loss: Any) -> dict[str, np.ndarray]:
        grads = {name: parameter.grad.numpy(force=True) for name, parameter in model.named_parameters()}
        read = {"w_x": grads["weight_ih_l0"].T, "w_h": grads["weight_hh_l0"].T, "b": grads["bias_ih_l0"]}
        if problem.cell == "gru":
            read["b_hn"] = grads["bias_hh_l0"][2 * H :]
        return read | {"xs": watched.grad.numpy(force=True), "loss": loss.numpy(force=True)}

    program = functools.partial(contest.Program, settle_s=0.0 if on_gpu else _SETTLE_S)
    return {"forward": program(forward, lambda ys: {"ys": ys.numpy(force=True)}), "train": program(train, gradients)}
