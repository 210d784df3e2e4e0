"""Whole models of each library, on a padded batch, against what `from_any` makes of their weights.

A model is one layer, a bidirectional one with a linear head, or two layers with a head. Outputs in padding are set to
zero: Keras repeats the last output there, Flax goes on, and Haiku and Equinox know no lengths, so that each row runs
alone there.
"""

# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
import copy
import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from benchmarks.libraries import require
from rnnjax import converters
from tests.parity.pairs import precision

T, B, D, H, K = 5, 3, 3, 4, 2
LENGTHS = np.array([5, 2, 4])
FORMS = ("forward", "bidirectional, head", "two layers, head")

LAYERS: dict[str, tuple[str, ...]] = {
    "Flax linen": ("OptimizedLSTMCell", "LSTMCell", "GRUCell", "SimpleCell"),
    "Flax nnx": ("OptimizedLSTMCell", "LSTMCell", "GRUCell", "SimpleCell", "SimpleCell(relu)"),
    "Haiku": ("LSTM", "GRU", "VanillaRNN", "VanillaRNN(double_bias=False)"),
    "Equinox": ("LSTMCell", "GRUCell", "LSTMCell(use_bias=False)", "GRUCell(use_bias=False)"),
    "Keras": (
        "LSTM",
        "LSTM(use_bias=False)",
        "GRU",
        "GRU(use_bias=False)",
        "GRU(reset_after=False)",
        "SimpleRNN",
        'SimpleRNN(activation="relu")',
    ),
    "PyTorch": (
        "LSTM",
        "LSTM(bias=False)",
        "LSTM(proj_size=2)",
        "GRU",
        "GRU(bias=False)",
        "RNN",
        'RNN(nonlinearity="relu")',
    ),
    "torchrecurrent": ("MGU", "JANET"),
}


REMAIN = (
    ("padding", "Keras repeats the last output, Flax goes on with the padding, PyTorch packs", "outputs are zero"),
    ("padding", "Haiku and Equinox know no lengths", "`lengths`, `mask`, `resets`"),
    ("bfloat16", "sums and products are rounded in another order", "equal only to its 8 bits"),
    (
        "dropout",
        "Keras: inside of layers and between them; PyTorch: between layers",
        "Keras's left out; `Stack(dropout=)`",
    ),
    ("`return_sequences=False` of Keras", "the last step that counts", "every step; take the last, or the carry"),
)
"""What differs though weights are equal: where, there, and here."""


class Model(NamedTuple):
    """A model of a library.

    Attributes:
      weights: what the library holds them in.
      run: from weights, xs `[T, B, D]` and lengths to outputs `[T, B, K]`.
      back: the library's weights from our cell and parameters.
      options: of `from_any`.
    """

    weights: Any
    run: Callable[..., Any]
    back: Callable[[Any, Any], Any]
    options: Mapping[str, Any] = MappingProxyType({})


def models() -> Iterator[tuple[str, str, str]]:
    """Library, layer and form of each."""
    for library, layers in LAYERS.items():
        for layer in layers:
            forms = ("forward", "two layers") if library == "torchrecurrent" else FORMS
            yield from ((library, layer, form) for form in forms)


def differences(library: str, layer: str, form: str, dtype: str) -> tuple[float, float]:
    """The largest difference of outputs, relative to the largest; and after the way back.

    Raises `contest.LeftOut` where a library is not installed.
    """
    with precision(dtype):
        model: Model = BUILD[library](layer, form, dtype)
        xs = _normal((T, B, D), dtype)
        theirs = _masked(np.asarray(model.run(model.weights, xs, LENGTHS)))
        if library == "torchrecurrent":
            cell, params = model.options["converted"]
        else:
            cell, params = converters.from_any(model.weights, **model.options)
        ours = np.asarray(rnnjax.unroll(cell, params, jnp.asarray(xs), lengths=jnp.asarray(LENGTHS))[1])
        again = _masked(np.asarray(model.run(model.back(cell, params), xs, LENGTHS)))
        assert ours.dtype == theirs.dtype == dtype and ours.shape == theirs.shape
        return tuple(float(np.abs(each - theirs).max() / np.abs(theirs).max()) for each in (ours, again))  # type: ignore


def _normal(shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(sum(shape)).normal(size=shape)).astype(dtype)


def redrawn(tree: Any, dtype: str) -> Any:
    """Gaussian weights, biases too, each from its place."""
    leaves, structure = jax.tree.flatten(tree)
    drawn = [0.5 * np.random.default_rng(k).normal(size=leaf.shape) for k, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, [jnp.asarray(leaf, dtype) for leaf in drawn])


def _masked(ys: np.ndarray) -> np.ndarray:
    return np.where(np.arange(T)[:, None, None] < LENGTHS[:, None], ys, 0)


def _by_rows(run: Callable[..., Any]) -> Callable[..., Any]:
    """Runs each row `[t, 1, D]` alone, without its padding."""

    def run_all(weights: Any, xs: Any, lengths: Any) -> Any:
        rows = [np.asarray(run(weights, xs[:n, b : b + 1])) for b, n in enumerate(lengths)]
        return np.concatenate([np.pad(row, ((0, T - len(row)), (0, 0), (0, 0))) for row in rows], axis=1)

    return run_all


def linen(layer: str, form: str, dtype: str) -> Model:
    require("flax")
    from flax import linen as nn

    import rnnjax.flax

    def rnn() -> Any:
        return nn.RNN(getattr(nn, layer)(H, param_dtype=dtype), time_major=True)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, xs: Any, lengths: Any) -> Any:
            if form == "forward":
                return rnn()(xs, seq_lengths=lengths)
            if form.startswith("two"):
                first = rnn()  # before the second, for its name
                ys = rnn()(first(xs, seq_lengths=lengths), seq_lengths=lengths)
            else:
                ys = nn.Bidirectional(rnn(), rnn(), time_major=True)(xs, seq_lengths=lengths)
            return nn.Dense(K, param_dtype=dtype)(ys)

    net, xs = Net(), jnp.zeros((T, B, D), dtype)
    names = [f"{layer}_0", f"{layer}_1"]

    def back(cell: Any, params: Any) -> Any:
        if form == "forward":
            return {"params": {names[0]: rnnjax.flax.to_linen(params)}}
        parts = dict(zip(names, map(rnnjax.flax.to_linen, params.rnn), strict=True))
        return {"params": parts | {"Dense_0": {"kernel": params.w_out, "bias": params.b_out}}}

    options: dict[str, Any] = {"activation": "tanh"} if layer == "SimpleCell" else {}
    if form.startswith("bi"):
        options["layers"] = [tuple(names)]
    return Model(redrawn(net.init(jax.random.key(0), xs, LENGTHS), dtype), net.apply, back, options)


def nnx(layer: str, form: str, dtype: str) -> Model:
    require("flax")
    from flax import nnx

    import rnnjax.flax

    name, _, relu = layer.partition("(")
    more = {"activation_fn": nnx.relu} if relu else {}
    rngs = nnx.Rngs(0)

    def rnn(size: int) -> Any:
        cell = getattr(nnx, name)(size, H, rngs=rngs, dtype=dtype, param_dtype=dtype, **more)
        return nnx.RNN(cell, time_major=True, rngs=rngs)

    class Net(nnx.Module):
        def __init__(self) -> None:
            if form.startswith("bi"):
                self.rnn_0: Any = nnx.Bidirectional(rnn(D), rnn(D), time_major=True, rngs=rngs)
            else:
                self.rnn_0 = rnn(D)
            if form.startswith("two"):
                self.rnn_1 = rnn(H)
            if form != "forward":
                width = 2 * H if form.startswith("bi") else H
                self.head = nnx.Linear(width, K, rngs=rngs, dtype=dtype, param_dtype=dtype)

        def __call__(self, xs: Any, lengths: Any) -> Any:
            zeros = jnp.zeros((B, H), dtype)
            start = (zeros, zeros) if "LSTM" in name else zeros  # theirs is float32
            first = (start, start) if form.startswith("bi") else start
            ys = self.rnn_0(xs, seq_lengths=lengths, initial_carry=first)
            if form.startswith("two"):
                ys = self.rnn_1(ys, seq_lengths=lengths, initial_carry=start)
            return ys if form == "forward" else self.head(ys)

    def back(cell: Any, params: Any) -> Any:
        def to(part: Any) -> Any:
            return {"cell": rnnjax.flax.to_nnx(part, per_gate=name == "LSTMCell")}

        if form == "forward":
            new: dict[str, Any] = {"rnn_0": to(params)}
        elif form.startswith("two"):
            new = {f"rnn_{k}": to(part) for k, part in enumerate(params.rnn)}
        else:
            new = {"rnn_0": rnnjax.flax.to_nnx(params.rnn, per_gate=name == "LSTMCell")}
        if form != "forward":
            new["head"] = {"kernel": params.w_out, "bias": params.b_out}
        model = Net()
        nnx.update(model, new)
        return model

    net = Net()
    nnx.update(net, redrawn(nnx.state(net, nnx.Param), dtype))
    return Model(net, lambda net, xs, lengths: net(jnp.asarray(xs), lengths), back)


def haiku(layer: str, form: str, dtype: str) -> Model:
    require("haiku")
    import haiku as hk

    name, _, options = layer.partition("(")
    more = {"double_bias": False} if options else {}

    def one(xs: Any, reverse: bool = False) -> Any:
        core = getattr(hk, name)(H, **more)
        start = jax.tree.map(lambda leaf: leaf.astype(dtype), core.initial_state(1))
        return hk.dynamic_unroll(core, xs, start, reverse=reverse)[0]

    def forward(xs: Any) -> Any:
        if form == "forward":
            return one(xs)
        ys = one(one(xs)) if form.startswith("two") else jnp.concatenate([one(xs), one(xs, reverse=True)], -1)
        return hk.Linear(K)(ys)

    net = hk.without_apply_rng(hk.transform(forward))
    stem = {"LSTM": "lstm", "GRU": "gru", "VanillaRNN": "vanilla_rnn"}[name]
    given: Any = {"layers": [(stem, f"{stem}_1")]} if form.startswith("bi") else {}

    def back(cell: Any, params: Any) -> Any:
        tree = converters.to_haiku(cell, params, **given)
        if more:
            assert not any(module.pop("b").any() for path, module in tree.items() if path.endswith("linear_1"))
        return tree

    weights = redrawn(net.init(jax.random.key(0), jnp.zeros((T, 1, D), dtype)), dtype)
    return Model(weights, _by_rows(lambda weights, xs: net.apply(weights, jnp.asarray(xs))), back, given)


def equinox(layer: str, form: str, dtype: str) -> Model:
    require("equinox")
    import equinox as eqx

    name, _, options = layer.partition("(")
    more: dict[str, Any] = {"use_bias": False} if options else {}

    def made(size: int) -> Any:
        return getattr(eqx.nn, name)(size, H, key=jax.random.key(0), dtype=dtype, **more)

    head = [] if form == "forward" else [eqx.nn.Linear(H * (1 + form.startswith("bi")), K, key=jax.random.key(0))]
    if form.startswith("bi"):
        net: Any = [rnnjax.BothWays(made(D), made(D)), *head]
    else:
        net = [made(D)] + [made(H)] * form.startswith("two") + head

    def over_time(cell: Any, xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            carry = cell(x, carry)
            return carry, carry[0] if name == "LSTMCell" else carry

        zeros = jnp.zeros(H, dtype)
        return jax.lax.scan(step, (zeros, zeros) if name == "LSTMCell" else zeros, xs)[1]

    def run(net: Any, xs: Any) -> Any:
        ys = jnp.asarray(xs)[:, 0]
        for part in net:
            if isinstance(part, rnnjax.BothWays):
                ys = jnp.concatenate([over_time(part.forward, ys), over_time(part.backward, ys[::-1])[::-1]], -1)
            else:
                ys = jax.vmap(part)(ys) if isinstance(part, eqx.nn.Linear) else over_time(part, ys)
        return ys[:, None]

    return Model(redrawn(net, dtype), _by_rows(run), lambda cell, params: converters.to_equinox(cell, params, net))


def keras(layer: str, form: str, dtype: str) -> Model:
    require("keras")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    def made() -> Any:
        name, _, options = layer.partition("(")
        option, _, value = options.rstrip(")").partition("=")
        more: dict[str, Any] = {option: {"False": False, '"relu"': "relu"}[value]} if options else {}
        return getattr(keras.layers, name)(H, return_sequences=True, dtype=dtype, **more)

    layers = [made()]
    if form.startswith("bi"):
        layers = [keras.layers.Bidirectional(made(), dtype=dtype)]
    elif form.startswith("two"):
        layers = [made(), made()]
    if form != "forward":
        layers.append(keras.layers.Dense(K, dtype=dtype))
    net = keras.Sequential([keras.layers.Input((T, D), dtype=dtype), *layers])

    def run(weights: Any, xs: Any, lengths: Any) -> Any:
        found = net
        if isinstance(weights, list):  # put into a copy
            found = keras.models.clone_model(net)
            found.set_weights(weights)
        mask = np.arange(T) < lengths[:, None]
        ys = jnp.asarray(xs).swapaxes(0, 1)
        for each in found.layers:
            ys = each(ys) if isinstance(each, keras.layers.Dense) else each(ys, mask=mask)
        return np.asarray(ys).swapaxes(0, 1)

    net.set_weights([np.asarray(w) for w in redrawn([np.asarray(w) for w in net.get_weights()], dtype)])
    return Model(net, run, converters.to_keras)


def pytorch(layer: str, form: str, dtype: str) -> Model:
    require("torch")
    import torch
    from torch.nn.utils import rnn

    name, _, options = layer.partition("(")
    known = {
        "bias=False)": {"bias": False},
        "proj_size=2)": {"proj_size": 2},
        'nonlinearity="relu")': {"nonlinearity": "relu"},
    }
    more = known.get(options, {}) | {"bidirectional": form.startswith("bi"), "num_layers": 1 + form.startswith("two")}
    size = (2 if "proj" in layer else H) * (1 + form.startswith("bi"))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(torch.nn, name)(D, H, dtype=getattr(torch, dtype), **more)
            if form != "forward":
                self.head = torch.nn.Linear(size, K, dtype=getattr(torch, dtype))

        def forward(self, xs: Any, lengths: Any) -> Any:
            packed = rnn.pack_padded_sequence(xs, torch.tensor(lengths), enforce_sorted=False)
            ys = rnn.pad_packed_sequence(self.rnn(packed)[0], total_length=T)[0]
            return self.head(ys) if form != "forward" else ys

    net = Net()
    net.load_state_dict(_tensors(redrawn({k: v.numpy() for k, v in net.state_dict().items()}, dtype)))

    def back(cell: Any, params: Any) -> Any:
        other = copy.deepcopy(net)
        other.load_state_dict(_tensors(converters.to_torch(params, prefix="rnn.")))
        return other

    def run(net: Any, xs: Any, lengths: Any) -> Any:
        with torch.inference_mode():
            return net(torch.tensor(xs), lengths).numpy()

    return Model(net, run, back)


def torchrecurrent(layer: str, form: str, dtype: str) -> Model:
    require("torchrecurrent")
    import torch
    import torchrecurrent as theirs

    count = 1 + form.startswith("two")
    width = {} if form == "forward" else {"num_layers": count}
    net = getattr(theirs, layer)(D, H, dtype=getattr(torch, dtype), **width)
    drawn = redrawn({k: v.numpy() for k, v in net.state_dict().items() if "beta" not in k}, dtype)
    net.load_state_dict(_tensors(drawn), strict=False)
    cell = rnnjax.Stack((getattr(rnnjax.cells, layer)(H),) * count)
    params = converters.from_torchrecurrent(cell, drawn)

    def back(cell: Any, params: Any) -> Any:
        other = copy.deepcopy(net)
        other.load_state_dict(_tensors(converters.to_torchrecurrent(cell, params)), strict=False)
        return other

    def run(net: Any, xs: Any) -> Any:
        with torch.inference_mode():
            return net(torch.tensor(xs))[0].numpy()

    return Model(net, _by_rows(run), back, {"converted": (cell, params)})


def _tensors(state: Any) -> Any:
    import torch

    return {name: torch.tensor(np.array(array)) for name, array in state.items()}


BUILD: dict[str, Callable[[str, str, str], Model]] = {
    "Flax linen": linen,
    "Flax nnx": nnx,
    "Haiku": haiku,
    "Equinox": equinox,
    "Keras": keras,
    "PyTorch": pytorch,
    "torchrecurrent": torchrecurrent,
}
