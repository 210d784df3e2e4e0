"""PyTorch's layout against its documented formulas in NumPy, and against PyTorch if it is installed."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.converters import from_torch, to_torch
from tests.registry import assert_close, assert_identical, normal

T, B, D, H, P = 4, 2, 3, 4, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "projected": 4}
CELLS = {"LSTM": rnnjax.LSTM(H), "GRU": rnnjax.GRU(H), "RNN": rnnjax.Elman(H), "projected": rnnjax.LSTMProjected(H, P)}

every_kind = pytest.mark.parametrize("kind", GATES)
every_shape = pytest.mark.parametrize(("layers", "ways"), [(1, 1), (2, 1), (1, 2), (3, 2)])
with_and_without_bias = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


def state_dict(kind, layers=1, ways=1, bias=True, dtype="float64"):
    """Random weights with PyTorch's names and shapes."""
    state, out = {}, width_of(kind)
    for layer, way in itertools.product(range(layers), ["", "_reverse"][:ways]):
        rows, width = GATES[kind] * H, D if layer == 0 else ways * out
        shapes = {"weight_ih": (rows, width), "weight_hh": (rows, out)}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
        shapes |= {"weight_hr": (P, H)} if kind == "projected" else {}
        for name, shape in shapes.items():
            state[f"{name}_l{layer}{way}"] = np.random.default_rng(len(state)).normal(size=shape).astype(dtype)
    return state


def activation_of(kind) -> dict[str, Any]:
    """For `from_torch`: the state dict of an RNN does not say it."""
    return {"activation": "tanh"} if kind == "RNN" else {}


def width_of(kind):
    """Of the hidden state and the outputs."""
    return P if kind == "projected" else H


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def torch_step(kind, weights, x, carry):
    """One step for one row, by the formulas in the documentation of `torch.nn.LSTM`, `GRU` and `RNN`."""
    h, c = carry
    w_ih, w_hh, b_ih, b_hh, *w_hr = weights
    from_x, from_h = np.split(w_ih @ x + b_ih, GATES[kind]), np.split(w_hh @ h + b_hh, GATES[kind])
    if kind == "RNN":
        return np.tanh(from_x[0] + from_h[0]), c
    if kind == "GRU":
        r, z = (sigmoid(from_x[k] + from_h[k]) for k in range(2))
        n = np.tanh(from_x[2] + r * from_h[2])
        return (1 - z) * n + z * h, c
    i, f, g, o = (a + b for a, b in zip(from_x, from_h, strict=True))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return (w_hr[0] @ h if w_hr else h), c


def torch_forward(kind, state, xs, layers, ways):
    """The outputs of all layers and directions, `[T, B, ways * H]`."""
    for layer in range(layers):
        outputs = []
        for way in ["", "_reverse"][:ways]:
            weights = [state[f"{name}_l{layer}{way}"] for name in ("weight_ih", "weight_hh")]
            weights += [
                state.get(f"{name}_l{layer}{way}", np.zeros(GATES[kind] * H)) for name in ("bias_ih", "bias_hh")
            ]
            weights += [state[name] for name in [f"weight_hr_l{layer}{way}"] if name in state]
            ys = np.zeros((T, B, width_of(kind)))
            for b in range(B):
                carry = (np.zeros(width_of(kind)), np.zeros(H))
                for t in range(T)[::-1] if way else range(T):
                    carry = torch_step(kind, weights, xs[t, b], carry)
                    ys[t, b] = carry[0]
            outputs.append(ys)
        xs = np.concatenate(outputs, axis=-1)
    return xs


def unrolled(cell, params, xs):
    return rnnjax.unroll(cell, params, xs, engine="loop")[1]


@every_kind
@every_shape
@with_and_without_bias
def test_forward(kind, layers, ways, bias):
    xs, state = np.random.default_rng(7).normal(size=(T, B, D)), state_dict(kind, layers, ways, bias)
    cell, params = from_torch(state, **activation_of(kind))
    assert_close(np.asarray(unrolled(cell, params, xs)), torch_forward(kind, state, xs, layers, ways))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))


@every_kind
@every_shape
@with_and_without_bias
def test_round_trip_from_rnnjax(kind, layers, ways, bias):
    """A round trip gives the same bits, with PyTorch's names and shapes, and biases only if there are any."""
    cell = CELLS[kind] if bias else rnnjax.WithoutBias(CELLS[kind])
    layer = cell if ways == 1 else rnnjax.Bidirectional(cell, cell)
    cell = layer if layers == 1 else rnnjax.Stack((layer,) * layers)
    params = normal(jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0)), kind)
    state = to_torch(params)
    assert {name: a.shape for name, a in state.items()} == {
        name: a.shape for name, a in state_dict(kind, layers, ways, bias).items()
    }
    back = from_torch(state, **activation_of(kind))
    assert back[0] == cell
    assert_identical(back[1], jax.tree.map(np.asarray, params))


@every_kind
@with_and_without_bias
def test_round_trip_from_torch(kind, bias):
    """A round trip keeps the weights, and adds up the two biases, or has none."""
    state = state_dict(kind, 2, 2, bias)
    back = to_torch(from_torch(state, **activation_of(kind))[1])
    assert back.keys() == state.keys()
    for name in state:
        if name.startswith("weight"):
            assert_identical(back[name], state[name])
    assert_close(
        torch_forward(kind, back, np.ones((T, B, D)), 2, 2), torch_forward(kind, state, np.ones((T, B, D)), 2, 2)
    )


def test_names_and_dtypes():
    """A model's state dict with a prefix, names of PyTorch's single-step cells, and other dtypes."""
    state = state_dict("GRU", dtype="float32")
    cell, params = from_torch(
        {"readout.weight": np.zeros(1)} | {f"rnn.{k}": v for k, v in state.items()}, prefix="rnn."
    )
    assert_identical((cell, params)[1], from_torch(state)[1])
    assert params.w_x.dtype == np.float32
    assert to_torch(params, prefix="rnn.").keys() == {f"rnn.{name}" for name in state}
    assert_identical(from_torch({name.removesuffix("_l0"): a for name, a in state.items()})[1], params)
    assert from_torch(state_dict("LSTM", dtype="bfloat16"))[1].w_h.dtype == jnp.bfloat16
    assert from_torch(state_dict("RNN"), activation="relu")[0] == rnnjax.Elman(H, "relu")


@every_kind
@every_shape
@with_and_without_bias
def test_live(kind, layers, ways, bias):
    """Conversion from and to PyTorch modules."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; its formulas are tested above")
    torch.manual_seed(0)
    options = {"num_layers": layers, "bidirectional": ways == 2, "bias": bias, "dtype": torch.float64}
    module = (
        torch.nn.LSTM(D, H, proj_size=P, **options) if kind == "projected" else getattr(torch.nn, kind)(D, H, **options)
    )
    xs = np.random.default_rng(7).normal(size=(T, B, D))
    cell, params = from_torch(module.state_dict(), **activation_of(kind))
    assert from_torch(module)[0] == cell
    assert_close(np.asarray(unrolled(cell, params, xs)), module(torch.from_numpy(xs))[0].detach().numpy())

    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(params).items()})
    assert_close(np.asarray(unrolled(cell, params, xs)), module(torch.from_numpy(xs))[0].detach().numpy())


def test_live_bfloat16_and_parameters():
    """Tensors with `requires_grad`, and a dtype that NumPy lacks."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; its formulas are tested above")
    module = torch.nn.GRU(D, H, dtype=torch.bfloat16)
    params = from_torch(dict(module.named_parameters()))[1]
    assert params.w_x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(params.w_x.T.astype("float32"), module.weight_ih_l0.detach().float().numpy())
