"""The peers: Flax linen, Flax nnx, Haiku, Equinox, Keras on JAX, PyTorch and torchrecurrent, with a problem's weights.

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

from rnnjax import cells
from rnnjax.converters import to_torchrecurrent
from rnnjax.converters.layouts import EQUINOX, HAIKU, KERAS, TORCH, Layout, to_layout
from rnnjax.converters.torchrecurrent import _LAYOUTS  # pyright: ignore[reportPrivateUsage]

from . import contest, machine
from .problems import Problem, programs, read

Programs = dict[str, contest.Program]
_SETTLE_S = 0.1  # PyTorch's OpenMP threads go on spinning for a while after their work

HAIKU_UNCHECKED = {"gru": "Haiku's GRU resets before the product with the carry, another function"}
HAIKU_UNCHECKED |= {"elman": "Haiku's VanillaRNN has a ReLU in place of tanh"}


def require(package: str) -> None:
    """Raises `LeftOut` where a library is not installed."""
    if importlib.util.find_spec(package) is None:
        raise contest.LeftOut("not installed; pip install 'rnnjax[peers]'")


def _kind(problem: Problem, **kinds: Any) -> Any:
    """What a library has for the cell of the problem; raises `LeftOut` where it has none."""
    if problem.cell not in kinds:
        raise contest.LeftOut("has no such cell")
    return kinds[problem.cell]


def _stored(layout: Layout, weights: Mapping[str, Any]) -> dict[str, Any]:
    """A problem's weights as a library stores them."""
    return to_layout(layout, layout.record(**{name: jnp.asarray(weights[name]) for name in layout.record._fields}))


def flax_linen(problem: Problem, *, ours: bool = False) -> Programs:
    """`nn.RNN` over `OptimizedLSTMCell`, `GRUCell`, `SimpleCell` or `MGUCell`, time-major, with `seq_lengths`.

    Without its reset gate, `MGUCell` is a UGRNN. With `ours` the same model with `rnnjax.flax.linen.RNN` in its place:
    the one-line change of a user of Flax.
    """
    require("flax")
    from flax import linen as nn

    import rnnjax.flax

    ugrnn = functools.partial(nn.MGUCell, reset_gate=False)
    cell = _kind(problem, lstm=nn.OptimizedLSTMCell, gru=nn.GRUCell, elman=nn.SimpleCell, ugrnn=ugrnn)
    cell = cell(problem.point.H, param_dtype=problem.xs.dtype)
    model = (rnnjax.flax.linen.RNN if ours else nn.RNN)(cell, time_major=True)
    gates = {"lstm": "ifgo", "gru": "rzn", "elman": [""], "ugrnn": "nf"}[problem.cell]
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
    kind = _kind(problem, lstm=nnx.OptimizedLSTMCell, gru=nnx.GRUCell, elman=nnx.SimpleCell)
    cell = kind(D, H, rngs=nnx.Rngs(0), dtype=problem.xs.dtype, param_dtype=problem.xs.dtype)
    model = (rnnjax.flax.nnx.RNN if ours else nnx.RNN)(cell, time_major=True)
    graph, drawn, rest = nnx.split(model, nnx.Param, ...)

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        state = jax.tree.map(lambda leaf: leaf, drawn)
        nnx.replace_by_pure_dict(state, {"cell": params})
        h = jnp.zeros((xs.shape[1], H), xs.dtype)
        carry = (h, h) if problem.cell == "lstm" else h
        return nnx.merge(graph, state, rest)(xs, initial_carry=carry, seq_lengths=lengths)

    def layout(weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        params = {"dense_i": {"kernel": weights["w_x"]}, "dense_h": {"kernel": weights["w_h"]}}
        params["dense_h" if problem.cell == "lstm" else "dense_i"]["bias"] = weights["b"]
        return params

    return programs(problem, forward, layout, weighted=True, without="b_hn")


def haiku(problem: Problem) -> Programs:
    """`hk.dynamic_unroll` over `hk.LSTM`, `hk.GRU` or `hk.VanillaRNN`, time-major.

    Its GRU, which resets before the product, has 1 - z in place of z.
    """
    require("haiku")
    if problem.lengths is not None:
        raise contest.LeftOut("Haiku has neither lengths nor a mask")
    import haiku as hk

    H = problem.point.H
    kind = _kind(problem, lstm=hk.LSTM, gru=hk.GRU, gru_reset_before=hk.GRU, elman=hk.VanillaRNN, irnn=hk.VanillaRNN)

    def unrolled(xs: Any) -> Any:
        core = kind(H, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))

    def layout(weights: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        tree: dict[str, dict[str, Any]] = {}
        for name, array in _stored(HAIKU[kind.__name__], weights).items():
            module, _, leaf = f"core/{name}".rpartition("/")
            tree.setdefault(module, {})[leaf] = array
        return tree

    return programs(problem, lambda params, xs, lengths: model.apply(params, xs), layout)


def equinox(problem: Problem) -> Programs:
    """A cell in `jax.lax.scan` over one row, under `jax.vmap` over the batch, as its documentation writes it."""
    require("equinox")
    if problem.lengths is not None:
        raise contest.LeftOut("Equinox has neither lengths nor a mask")
    import equinox as eqx

    _, _, D, H = problem.point
    drawn = _kind(problem, lstm=eqx.nn.LSTMCell, gru=eqx.nn.GRUCell)(D, H, key=jax.random.key(0))
    names = tuple(EQUINOX[type(drawn).__name__].leaves)

    def layout(weights: Mapping[str, Any]) -> list[Any]:
        return list(_stored(EQUINOX[type(drawn).__name__], weights).values())

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        cell = eqx.tree_at(lambda cell: [getattr(cell, name) for name in names], drawn, params)

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            carry = cell(x, carry)
            return carry, carry[0] if problem.cell == "lstm" else carry

        def row(xs: Any) -> Any:
            h = jnp.zeros(H, xs.dtype)
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
    layers = keras.layers
    irnn, before = {"activation": "relu"}, {"reset_after": False}
    kind, options = _kind(
        problem,
        lstm=(layers.LSTM, {}),
        gru=(layers.GRU, {}),
        gru_reset_before=(layers.GRU, before),
        elman=(layers.SimpleRNN, {}),
        irnn=(layers.SimpleRNN, irnn),
    )
    layer = kind(H, return_sequences=True, dtype=problem.xs.dtype.name, **options)
    layer.build((B, T, D))
    state = [variable.value for variable in layer.non_trainable_variables]

    def forward(params: Any, xs: Any, lengths: Any) -> Any:
        mask = None if lengths is None else jnp.arange(T) < lengths[:, None]
        return layer.stateless_call(params, state, xs, mask=mask)[0]

    def layout(weights: Mapping[str, Any]) -> list[Any]:
        name = kind.__name__ + "(reset_after=False)" * (problem.cell == "gru_reset_before")
        return list(_stored(KERAS[name], weights).values())

    return programs(problem, forward, layout, weighted=True, batch_major=True)


def _torch() -> tuple[Any, Any]:
    """PyTorch, and the device on which JAX runs: the CPU with all cores, or a GPU."""
    require("torch")
    import torch

    torch.set_num_threads(machine.cores())
    on_gpu = jax.default_backend() != "cpu"
    if on_gpu and not torch.cuda.is_available():
        raise contest.LeftOut(f"JAX runs on {jax.default_backend()}, and this PyTorch has the CPU only")
    torch.backends.cudnn.allow_tf32 = False  # as all here: float32 proper
    return torch, torch.device("cuda" if on_gpu else "cpu")


def _torch_programs(problem: Problem, model: Any, unrolled: Any, read_gradients: Any) -> Programs:
    """Forward pass and training step of a module; `unrolled(xs)` gives its outputs."""
    torch, device = _torch()
    xs = torch.tensor(problem.xs, device=device)
    watched = torch.tensor(problem.xs, device=device, requires_grad=True)
    on_gpu = device.type == "cuda"
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
        found = read_gradients({name: p.grad.numpy(force=True) for name, p in model.named_parameters()})
        return {**found, "xs": watched.grad.numpy(force=True), "loss": result[0].numpy(force=True)}

    def outputs(result: Any) -> dict[str, Any]:
        return {"ys": result[0].numpy(force=True)}

    program = functools.partial(contest.Program, settle_s=0.0 if on_gpu else _SETTLE_S)
    return {"forward": program(forward, outputs), "train": program(train, gradients)}


def pytorch(problem: Problem) -> Programs:
    """`torch.nn.LSTM`, also with `proj_size`, `GRU` and `RNN`, time-major; padded batches as packed sequences."""
    torch, device = _torch()
    from torch.nn.utils import rnn

    _, T, D, H = problem.point
    kind, options = _kind(
        problem,
        lstm=(torch.nn.LSTM, {}),
        lstm_projected=(torch.nn.LSTM, {"proj_size": max(1, H // 2)}),
        gru=(torch.nn.GRU, {}),
        elman=(torch.nn.RNN, {}),
        irnn=(torch.nn.RNN, {"nonlinearity": "relu"}),
    )

    def layout(weights: Mapping[str, Any]) -> dict[str, Any]:
        row = TORCH["projected" if "w_p" in weights else kind.__name__]
        return {f"{name}_l0": array for name, array in _stored(row, weights).items()}

    model = kind(D, H, dtype=getattr(torch, problem.xs.dtype.name), **options)
    model.load_state_dict({name: torch.tensor(np.array(value)) for name, value in layout(problem.weights).items()})
    model = model.to(device)
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths, dtype=torch.int64)

    def unrolled(xs: Any) -> Any:
        if lengths is None:
            return model(xs)[0]
        packed = rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(model(packed)[0], total_length=T)[0]

    return _torch_programs(problem, model, unrolled, functools.partial(read, layout, problem.weights))


_OTHER_NAMES: dict[type, str] = {
    cells.CoRNN: "coRNNCell",
    cells.TauGRU: "tauGRUCell",
    cells.BRC: "BRCell",
    cells.NBRC: "NBRCell",
    cells.NASCell: "NASCell",
    cells.ResidualLSTM: "ResLSTMCell",
    cells.WorkingMemoryLSTM: "WMCLSTMCell",
    cells.Antisymmetric: "AntisymmetricRNNCell",
    cells.GatedAntisymmetric: "GatedAntisymmetricRNNCell",
}
TORCHRECURRENT: dict[type, str] = {kind: _OTHER_NAMES.get(kind, f"{kind.__name__}Cell") for kind in _LAYOUTS}
"""Its name of each of our cells that it has."""

_OPTIONS: dict[type, dict[str, Any]] = {
    cells.IndRNN: {"nonlinearity": "relu"},
    cells.FastGRNN: {"nonlinearity": "sigmoid"},  # of the gate; theirs is tanh unless said
    cells.CoRNN: {"dt": 0.05, "gamma": 1.0, "epsilon": 1.0},
    cells.UnICORNN: {"dt": 0.1, "alpha": 1.0},
    cells.Antisymmetric: {"epsilon": 0.1, "gamma": 0.01},
    cells.GatedAntisymmetric: {"epsilon": 0.1, "gamma": 0.01},
}


def torchrecurrent(problem: Problem) -> Programs:
    """A cell of torchrecurrent in a Python loop over time, as its documentation writes it."""
    torch, device = _torch()
    require("torchrecurrent")
    import torchrecurrent as theirs

    cell = cells.catalogue()[problem.cell](problem.point.H)
    kind = type(cell)
    if kind not in TORCHRECURRENT:
        raise contest.LeftOut("has no such cell")
    if problem.lengths is not None:
        raise contest.LeftOut("torchrecurrent has neither lengths nor a mask")
    made, layout = getattr(theirs, TORCHRECURRENT[kind]), _LAYOUTS[kind]
    model = made(
        problem.point.D, problem.point.H, dtype=getattr(torch, problem.xs.dtype.name), **_OPTIONS.get(kind, {})
    )
    state = to_torchrecurrent(cell, type(cell.weights(problem.point.D))(**problem.weights))
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=False)
    model = model.to(device)

    def unrolled(xs: Any) -> Any:
        ys, state = [], None
        delayed = [xs.new_zeros(xs.shape[1], problem.point.H)] * 4  # a TauGRU also reads an earlier state
        for x in xs:
            if kind is cells.TauGRU:
                y = model(x, delayed[-1], delayed[-3])
                delayed.append(y)
            else:
                found = model(x) if state is None else model(x, state)
                y = found[0] if isinstance(found, tuple) else found
                state = found[1] if kind in (cells.TLSTM, cells.IntersectionRNN) else found
            ys.append(y)
        return torch.stack(ys)

    def gradients(grads: Mapping[str, Any]) -> dict[str, Any]:
        """Of several biases that are added up, each has the gradient of their sum."""
        found: dict[str, Any] = {}
        for field, name, order in layout.matrices:
            found[field] = np.concatenate([layout.block(grads, name, k).T for k in order], axis=-1)
        for field, sums in layout.vectors:
            found[field] = np.concatenate([layout.block(grads, *places[0]) for places in sums])
        if "w_h2" in found:
            found["w_h"] = np.concatenate([found["w_h"], found.pop("w_h2")])
        return found

    return _torch_programs(problem, model, unrolled, gradients)
