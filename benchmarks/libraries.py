"""The peers: Flax linen, Flax nnx, Haiku, Equinox, Keras on JAX, and PyTorch, each with the weights of a problem.

A JAX library is its forward pass and its `layout`, see `problems.programs`. A library that is not installed, or has no
such cell or lengths, raises `LeftOut`.
"""

# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
import functools
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import contest
from benchmarks.problems import GATES, Problem, programs, read
from experiments.lab import machine

Programs = dict[str, contest.Program]
_SETTLE_S = 0.1  # PyTorch's OpenMP threads go on spinning for a while after their work

HAIKU_UNCHECKED = {"gru": "Haiku's GRU resets before the product with the carry, another function"}
HAIKU_UNCHECKED |= {"elman": "Haiku's VanillaRNN has a ReLU in place of tanh"}


def require(package: str) -> None:
    """Raises `LeftOut` where a library is not installed."""
    if importlib.util.find_spec(package) is None:
        raise contest.LeftOut("not installed; pip install 'rnnjax[peers]'")


def _reordered(weight: Any, order: str) -> Any:
    """A weight with its gates in another order: "igfo" of an LSTM's i, f, g, o, "zrn" of a GRU's r, z, n."""
    places = ["ifgo".index(gate) if len(order) == 4 else "rzn".index(gate) for gate in order]
    gates = jnp.split(jnp.asarray(weight), len(order), axis=-1)
    return jnp.concatenate([gates[place] for place in places], axis=-1)


def flax_linen(problem: Problem, *, ours: bool = False) -> Programs:
    """`nn.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, time-major, with `seq_lengths`.

    With `ours` the same model with `rnnjax.flax.linen.RNN` in its place: the one-line change of a user of Flax.
    """
    require("flax")
    from flax import linen as nn

    import rnnjax.flax

    cell = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}[problem.cell]
    model = (rnnjax.flax.linen.RNN if ours else nn.RNN)(cell(problem.point.H), time_major=True)
    gates = {"lstm": "ifgo", "gru": "rzn", "elman": [""]}[problem.cell]
    biased = "h" if problem.cell == "lstm" else "i"

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        return model.apply({"params": {"cell": params}}, xs, seq_lengths=lengths)

    def layout(weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        params: dict[str, dict[str, Any]] = {}
        parts = (jnp.split(weights[name], len(gates), -1) for name in ("w_x", "w_h", "b"))
        for gate, w_x, w_h, b in zip(gates, *parts, strict=True):
            params |= {f"i{gate}": {"kernel": w_x}, f"h{gate}": {"kernel": w_h}}
            params[biased + gate]["bias"] = b
        if problem.cell == "gru":
            params["hn"]["bias"] = weights["b_hn"]
        return params

    return programs(problem, forward, layout, weighted=True)


def flax_nnx(problem: Problem, *, ours: bool = False) -> Programs:
    """`nnx.RNN` over `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, time-major, with `seq_lengths`.

    Its gates are stacked as ours are; its GRU has no bias inside the reset gate's brackets. With `ours` the same model
    with `rnnjax.flax.nnx.RNN` in its place.
    """
    require("flax")
    from flax import nnx

    import rnnjax.flax

    _, _, D, H = problem.point
    cell = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}[problem.cell]
    model = (rnnjax.flax.nnx.RNN if ours else nnx.RNN)(cell(D, H, rngs=nnx.Rngs(0)), time_major=True)
    graph, drawn, rest = nnx.split(model, nnx.Param, ...)

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        state = jax.tree.map(lambda leaf: leaf, drawn)
        nnx.replace_by_pure_dict(state, {"cell": params})
        h = jnp.zeros((xs.shape[1], H))
        carry = (h, h) if problem.cell == "lstm" else h
        return nnx.merge(graph, state, rest)(xs, initial_carry=carry, seq_lengths=lengths)

    def layout(weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        params = {"dense_i": {"kernel": weights["w_x"]}, "dense_h": {"kernel": weights["w_h"]}}
        params["dense_h" if problem.cell == "lstm" else "dense_i"]["bias"] = weights["b"]
        return params

    return programs(problem, forward, layout, weighted=True, without="b_hn")


def haiku(problem: Problem) -> Programs:
    """`hk.dynamic_unroll` over `hk.LSTM`, `hk.GRU` or `hk.VanillaRNN`, time-major."""
    require("haiku")
    if problem.lengths is not None:
        raise contest.LeftOut("Haiku has neither lengths nor a mask")
    import haiku as hk

    def unrolled(xs: Any) -> Any:
        core = {"lstm": hk.LSTM, "gru": hk.GRU, "elman": hk.VanillaRNN}[problem.cell](problem.point.H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))

    def layout(weights: Mapping[str, Any]) -> dict[str, Any]:
        w_x, w_h, b = (weights[name] for name in ("w_x", "w_h", "b"))
        if problem.cell == "lstm":
            forget = jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0]), problem.point.H)  # its step adds one to this gate
            joined = _reordered(jnp.concatenate([w_x, w_h]), "igfo")
            return {"core/linear": {"w": joined, "b": _reordered(b, "igfo") - forget}}
        if problem.cell == "gru":
            return {"core": {k: _reordered(w, "zrn") for k, w in (("w_i", w_x), ("w_h", w_h), ("b", b))}}
        return {"core/linear": {"w": w_x, "b": b}, "core/linear_1": {"w": w_h, "b": jnp.zeros_like(b)}}

    return programs(problem, lambda params, xs, lengths: model.apply(params, xs), layout)


def equinox(problem: Problem) -> Programs:
    """A cell in `jax.lax.scan` over one row, under `jax.vmap` over the batch, as its documentation writes it."""
    require("equinox")
    if problem.cell == "elman":
        raise contest.LeftOut("Equinox has no Elman cell")
    if problem.lengths is not None:
        raise contest.LeftOut("Equinox has neither lengths nor a mask")
    import equinox as eqx

    _, _, D, H = problem.point
    drawn = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[problem.cell](D, H, key=jax.random.key(0))
    bias_n = ["bias_n"] if problem.cell == "gru" else []

    def layout(weights: Mapping[str, Any]) -> list[Any]:
        return [weights["w_x"].T, weights["w_h"].T, weights["b"]] + [weights["b_hn"] for _ in bias_n]

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        names = ("weight_ih", "weight_hh", "bias", *bias_n)
        cell = eqx.tree_at(lambda cell: [getattr(cell, name) for name in names], drawn, params)

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            carry = cell(x, carry)
            return carry, carry[0] if problem.cell == "lstm" else carry

        def row(xs: Any) -> Any:
            h = jnp.zeros(H)
            return jax.lax.scan(step, (h, h) if problem.cell == "lstm" else h, xs)[1]

        return jax.vmap(row, in_axes=1, out_axes=1)(xs)

    return programs(problem, forward, layout, weighted=True)


def keras(problem: Problem) -> Programs:
    """The layers `LSTM`, `GRU` and `SimpleRNN` on JAX through `stateless_call`, batch-major, with `mask`."""
    require("keras")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise contest.LeftOut(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
    B, T, D, H = problem.point
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "elman": keras.layers.SimpleRNN}[problem.cell]
    layer = kind(H, return_sequences=True)
    layer.build((B, T, D))
    state = [variable.value for variable in layer.non_trainable_variables]

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        mask = None if lengths is None else jnp.arange(T) < lengths[:, None]
        return layer.stateless_call(params, state, xs, mask=mask)[0]

    def layout(weights: Mapping[str, Any]) -> list[Any]:
        params = [jnp.asarray(weights[name]) for name in ("w_x", "w_h", "b")]
        if problem.cell != "gru":
            return params
        w_x, w_h, b = (_reordered(param, "zrn") for param in params)
        recurrent = jnp.concatenate([jnp.zeros(2 * H), weights["b_hn"]])
        return [w_x, w_h, jnp.stack([b, recurrent])]  # a row of biases for the input, one for the carry

    return programs(problem, forward, layout, weighted=True, batch_major=True)


def pytorch(problem: Problem) -> Programs:
    """`torch.nn.LSTM`, `GRU` and `RNN`, time-major; padded batches as packed sequences.

    It runs where JAX runs: on the CPU with all cores, or on a GPU.
    """
    require("torch")
    import torch
    from torch.nn.utils import rnn

    torch.set_num_threads(machine.cores())
    on_gpu = jax.default_backend() != "cpu"
    if on_gpu and not torch.cuda.is_available():
        raise contest.LeftOut(f"JAX runs on {jax.default_backend()}, and this PyTorch has the CPU only")
    torch.backends.cudnn.allow_tf32 = False  # as all here: float32 proper
    device = torch.device("cuda" if on_gpu else "cpu")
    _, T, D, H = problem.point

    def layout(weights: Mapping[str, Any]) -> dict[str, Any]:
        inner = jnp.zeros(GATES[problem.cell] * H)
        if problem.cell == "gru":
            inner = inner.at[2 * H :].set(weights["b_hn"])
        biases = {"bias_ih_l0": weights["b"], "bias_hh_l0": inner}
        return {"weight_ih_l0": weights["w_x"].T, "weight_hh_l0": weights["w_h"].T, **biases}

    model = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[problem.cell](D, H)
    model.load_state_dict({name: torch.tensor(np.array(value)) for name, value in layout(problem.weights).items()})
    model, xs = model.to(device), torch.tensor(problem.xs, device=device)
    watched = torch.tensor(problem.xs, device=device, requires_grad=True)
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths, dtype=torch.int64)

    def unrolled(xs: Any) -> Any:
        if lengths is None:
            return model(xs)[0]
        packed = rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(model(packed)[0], total_length=T)[0]

    finish = torch.cuda.synchronize if on_gpu else (lambda: None)

    def forward() -> Any:
        with torch.inference_mode():
            return unrolled(xs), finish()

    def train() -> Any:
        model.zero_grad(set_to_none=True)
        watched.grad = None
        loss = (unrolled(watched) ** 2).sum()
        loss.backward()
        return loss, finish()

    def gradients(result: Any) -> dict[str, Any]:
        grads = {name: jnp.asarray(parameter.grad.numpy(force=True)) for name, parameter in model.named_parameters()}
        found = read(layout, problem.weights, grads)
        return {**found, "xs": watched.grad.numpy(force=True), "loss": result[0].numpy(force=True)}

    def outputs(result: Any) -> dict[str, Any]:
        return {"ys": result[0].numpy(force=True)}

    program = functools.partial(contest.Program, settle_s=0.0 if on_gpu else _SETTLE_S)
    return {
        "forward": program(forward, outputs),
        "train": program(train, gradients),
    }
