"""PyTorch's layout against its documented formulas in NumPy, and against PyTorch itself where it is installed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax.converters import from_torch, to_torch
from tests.registry import assert_close, assert_identical, normal

T, B, D, H = 4, 2, 3, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
CELLS = {"LSTM": rnnjax.LSTM(H), "GRU": rnnjax.GRU(H), "RNN": rnnjax.Elman(H)}

every_kind = pytest.mark.parametrize("kind", GATES)
every_shape = pytest.mark.parametrize(("layers", "ways"), [(1, 1), (2, 1), (1, 2), (3, 2)])


def state_dict(kind, layers=1, ways=1, bias=True, dtype="float64"):
    """Random weights by PyTorch's names and in its shapes."""
    state = {}
    for layer, way in itertools.product(range(layers), ["", "_reverse"][:ways]):
        rows, width = GATES[kind] * H, D if layer == 0 else ways * H
        shapes = {"weight_ih": (rows, width), "weight_hh": (rows, H), "bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in itertools.islice(shapes.items(), 4 if bias else 2):
            state[f"{name}_l{layer}{way}"] = np.random.default_rng(len(state)).normal(size=shape).astype(dtype)
    return state


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def torch_step(kind, weights, x, carry):
    """One step for one row, as the documentation of `torch.nn.LSTM`, `GRU` and `RNN` writes it."""
    h, c = carry
    w_ih, w_hh, b_ih, b_hh = weights
    from_x, from_h = np.split(w_ih @ x + b_ih, GATES[kind]), np.split(w_hh @ h + b_hh, GATES[kind])
    if kind == "RNN":
        return np.tanh(from_x[0] + from_h[0]), c
    if kind == "GRU":
        r, z = (sigmoid(from_x[k] + from_h[k]) for k in range(2))
        n = np.tanh(from_x[2] + r * from_h[2])
        return (1 - z) * n + z * h, c
    i, f, g, o = (a + b for a, b in zip(from_x, from_h, strict=True))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def torch_forward(kind, state, xs, layers, ways):
    """The outputs of all layers and directions, `[T, B, ways * H]`."""
    for layer in range(layers):
        outputs = []
        for way in ["", "_reverse"][:ways]:
            weights = [state[f"{name}_l{layer}{way}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            ys = np.zeros((T, B, H))
            for b in range(B):
                carry = (np.zeros(H), np.zeros(H))
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
def test_forward(kind, layers, ways):
    xs, state = np.random.default_rng(7).normal(size=(T, B, D)), state_dict(kind, layers, ways)
    cell, params = from_torch(state)
    assert_close(np.asarray(unrolled(cell, params, xs)), torch_forward(kind, state, xs, layers, ways))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))


@every_kind
@every_shape
def test_round_trip_from_rnnjax(kind, layers, ways):
    """The same bits back; and PyTorch's shapes on the way."""
    layer = CELLS[kind] if ways == 1 else rnnjax.Bidirectional(CELLS[kind], CELLS[kind])
    cell = layer if layers == 1 else rnnjax.Stack((layer,) * layers)
    params = normal(jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0)), kind)
    state = to_torch(params)
    assert {name: a.shape for name, a in state.items()} == {
        name: a.shape for name, a in state_dict(kind, layers, ways).items()
    }
    back = from_torch(state)
    assert back[0] == cell
    assert_identical(back[1], jax.tree.map(np.asarray, params))


@every_kind
def test_round_trip_from_torch(kind):
    """The weights come back as they were, and the two biases as one."""
    state = state_dict(kind, 2, 2)
    back = to_torch(from_torch(state)[1])
    assert back.keys() == state.keys()
    for name in state:
        if name.startswith("weight"):
            assert_identical(back[name], state[name])
    assert_close(
        torch_forward(kind, back, np.ones((T, B, D)), 2, 2), torch_forward(kind, state, np.ones((T, B, D)), 2, 2)
    )


def test_names_and_dtypes():
    """A model's state dict by prefix, the names of PyTorch's single-step cells, no biases, other dtypes."""
    state = state_dict("GRU", dtype="float32")
    cell, params = from_torch(
        {"readout.weight": np.zeros(1)} | {f"rnn.{k}": v for k, v in state.items()}, prefix="rnn."
    )
    assert_identical((cell, params)[1], from_torch(state)[1])
    assert params.w_x.dtype == np.float32
    assert to_torch(params, prefix="rnn.").keys() == {f"rnn.{name}" for name in state}
    assert_identical(from_torch({name.removesuffix("_l0"): a for name, a in state.items()})[1], params)
    assert not from_torch(state_dict("GRU", bias=False))[1].b.any()
    assert from_torch(state_dict("LSTM", dtype="bfloat16"))[1].w_h.dtype == jnp.bfloat16
    assert from_torch(state_dict("RNN"), activation="relu")[0] == rnnjax.Elman(H, "relu")


def test_refusals():
    state = state_dict("LSTM", 2)
    with pytest.raises(ValueError, match=r"'weight_hr_l0', a projection \(proj_size\)"):
        from_torch(state | {"weight_hr_l0": np.zeros((1, H))})
    with pytest.raises(ValueError, match=r"'fc\.weight', no recurrent weight; .* by `prefix`"):
        from_torch({"fc.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"no weights with prefix='rnn\.'"):
        from_torch(state, prefix="rnn.")
    with pytest.raises(ValueError, match="layer 1 of `state_dict` holds bias_hh, bias_ih, weight_ih"):
        from_torch({k: v for k, v in state.items() if k != "weight_hh_l1"})
    with pytest.raises(ValueError, match=r"directions \[\] of layer 0"):
        from_torch({k: v for k, v in state.items() if k.endswith("_l1")})
    with pytest.raises(ValueError, match=r"layer 0 has weight_ih \[6, 3\] and weight_hh \[8, 2\]"):
        from_torch(state | {"weight_ih_l0": np.zeros((6, D))})
    lstm, gru = from_torch(state_dict("LSTM"))[1], from_torch(state_dict("GRU"))[1]
    with pytest.raises(ValueError, match=r"LSTMParams, GRUParams .* one kind of cell"):
        to_torch((lstm, gru))
    with pytest.raises(TypeError, match="holds a dict"):
        to_torch({"w": np.zeros(1)})


@every_kind
@every_shape
def test_live(kind, layers, ways):
    """PyTorch itself, both ways."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; its formulas are tested above")
    torch.manual_seed(0)
    module = getattr(torch.nn, kind)(D, H, num_layers=layers, bidirectional=ways == 2, dtype=torch.float64)
    xs = np.random.default_rng(7).normal(size=(T, B, D))
    cell, params = from_torch(module.state_dict())
    assert_close(np.asarray(unrolled(cell, params, xs)), module(torch.from_numpy(xs))[0].detach().numpy())

    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch(params).items()})
    assert_close(np.asarray(unrolled(cell, params, xs)), module(torch.from_numpy(xs))[0].detach().numpy())


def test_live_bfloat16_and_parameters():
    """Tensors that ask for gradients, and a dtype that NumPy does not know."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; its formulas are tested above")
    module = torch.nn.GRU(D, H, dtype=torch.bfloat16)
    params = from_torch(dict(module.named_parameters()))[1]
    assert params.w_x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(params.w_x.T.astype("float32"), module.weight_ih_l0.detach().float().numpy())
