"""Models of the libraries themselves: trained a little, saved to the library's own file, and read here."""

# pyright: reportMissingImports=false, reportArgumentType=false
import importlib.util
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax
from rnnjax.converters import from_any, from_keras
from tests.parity.pairs import precision

T, B, D, H = 6, 3, 2, 4
XS = np.random.default_rng(0).normal(size=(T, B, D)).astype("float32")
TARGETS = np.cumsum(XS[..., :1], axis=0).astype("float32")


@pytest.fixture(autouse=True)
def as_users_have_it():
    with precision("float32"):
        yield


def check(weights, theirs, **options):
    """The same predictions as theirs."""
    cell, params = from_any(weights, **options)
    ours = rnnjax.unroll(cell, params, jnp.asarray(XS))[1]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def trained(apply, params, steps=5) -> Any:
    """A few steps of gradient descent."""
    loss = jax.jit(jax.value_and_grad(lambda params: ((apply(params, XS) - TARGETS) ** 2).mean()))
    optimizer = optax.adam(0.05)
    state, first = optimizer.init(params), loss(params)[0]
    for _ in range(steps):
        updates, state = optimizer.update(loss(params)[1], state, params)
        params = optax.apply_updates(params, updates)
    assert loss(params)[0] < first
    return params


def test_haiku(tmp_path):
    """Haiku has no format of its own: its parameters as `.npz`."""
    hk = pytest.importorskip("haiku")

    def forward(xs):
        core = hk.DeepRNN([hk.LSTM(H), hk.LSTM(H)])
        start = jax.tree.map(lambda leaf: leaf.astype("float32"), core.initial_state(B))
        return hk.Linear(1)(hk.dynamic_unroll(core, xs, start)[0])

    net = hk.without_apply_rng(hk.transform(forward))
    params = trained(net.apply, net.init(jax.random.key(0), XS))
    np.savez(tmp_path / "model.npz", **{f"{m}/{n}": a for m, leaves in params.items() for n, a in leaves.items()})
    check(tmp_path / "model.npz", net.apply(params, XS))


def test_equinox(tmp_path):
    eqx = pytest.importorskip("equinox")
    key = jax.random.key(0)

    class Net(eqx.Module):
        cell: Any
        head: Any

        def __call__(self, xs):
            zeros = jnp.zeros(H, "float32")
            ys = jax.lax.scan(lambda h, x: (self.cell(x, h),) * 2, zeros, xs)[1]
            return jax.vmap(self.head)(ys)

    def made():
        options = {"key": key, "dtype": jnp.float32}
        return Net(eqx.nn.GRUCell(D, H, **options), eqx.nn.Linear(H, 1, **options))

    def apply(net, xs):
        return jax.vmap(net, in_axes=1, out_axes=1)(xs)

    net = trained(apply, made())
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", net)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", made())
    check(loaded, apply(net, XS))
    with pytest.raises(ValueError, match="tree_deserialise_leaves"):
        from_any(tmp_path / "model.eqx")

    class Other(eqx.nn.GRUCell):
        """The same arrays, and another step."""

    with pytest.raises(TypeError, match=r"Other at .*but may compute something else"):
        from_any(Other(D, H, key=key))


def test_linen(tmp_path):
    from flax import linen as nn
    from flax import serialization

    class Net(nn.Module):
        @nn.compact
        def __call__(self, xs):
            return nn.Dense(1)(nn.RNN(nn.OptimizedLSTMCell(H), time_major=True)(xs))

    params = trained(Net().apply, Net().init(jax.random.key(0), XS))
    (tmp_path / "model.msgpack").write_bytes(serialization.to_bytes(params))
    loaded = serialization.msgpack_restore((tmp_path / "model.msgpack").read_bytes())
    check(loaded, Net().apply(params, XS))
    with pytest.raises(ValueError, match="msgpack_restore"):
        from_any(tmp_path / "model.msgpack")


def test_nnx():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.rnn = nnx.RNN(nnx.GRUCell(D, H, rngs=rngs), time_major=True, rngs=rngs)
            self.head = nnx.Linear(H, 1, rngs=rngs)

        def __call__(self, xs):
            return self.head(self.rnn(xs, initial_carry=jnp.zeros((B, H), "float32")))

    graph, drawn, rest = nnx.split(Net(), nnx.Param, ...)
    state = trained(lambda state, xs: nnx.merge(graph, state, rest)(xs), drawn)
    net = nnx.merge(graph, state, rest)
    for weights in (net, nnx.state(net), nnx.to_pure_dict(nnx.state(net, nnx.Param))):
        check(weights, net(XS))


def test_pytorch(tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.RNN(D, H, nonlinearity="relu", bidirectional=True)
            self.head = torch.nn.Linear(2 * H, 1)

        def forward(self, xs):
            return self.head(self.rnn(xs)[0])

    net, xs, targets = Net(), torch.tensor(XS), torch.tensor(TARGETS)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        ((net(xs) - targets) ** 2).mean().backward()
        optimizer.step()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    theirs = net(xs).detach().numpy()
    with pytest.raises(ValueError, match="does not say its nonlinearity"):
        from_any(state)
    check(state, theirs, activation="relu")
    if importlib.util.find_spec("safetensors"):
        from safetensors.torch import save_file

        save_file(net.state_dict(), tmp_path / "model.safetensors")
        check(tmp_path / "model.safetensors", theirs, activation="relu")


def test_keras(tmp_path):
    pytest.importorskip("keras")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    layers = keras.layers

    def functional():
        xs = kept = layers.Input((T, D))
        xs = layers.Masking()(xs)
        xs = layers.Bidirectional(layers.LSTM(H, return_sequences=True), merge_mode="ave")(xs)
        xs = layers.GRU(H, reset_after=False, return_sequences=True)(xs)
        return keras.Model(kept, layers.TimeDistributed(layers.Dense(1))(xs))

    def sequential():
        cells = [layers.GRUCell(H), layers.LSTMCell(H), layers.GRUCell(H)]
        stacked = layers.RNN(layers.StackedRNNCells(cells), return_sequences=True)
        parts = [layers.Input((T, D)), stacked, layers.SimpleRNN(H, return_sequences=True), layers.Dense(1)]
        return keras.Sequential(parts)

    for net in (functional(), sequential()):
        net.compile(keras.optimizers.Adam(0.05), "mse")
        net.fit(XS.swapaxes(0, 1), TARGETS.swapaxes(0, 1), epochs=3, verbose=0)
        net.save(tmp_path / "model.keras")
        net.save_weights(tmp_path / "model.weights.h5")
        net.save(tmp_path / "model.h5")
        theirs = np.asarray(net(XS.swapaxes(0, 1))).swapaxes(0, 1)
        for weights in (net, tmp_path / "model.keras", tmp_path / "model.h5"):
            check(weights, theirs)
        cell, params = from_keras(tmp_path / "model.weights.h5", config=net.to_json())
        np.testing.assert_allclose(rnnjax.unroll(cell, params, XS)[1], theirs, rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match=r"config=model\.to_json"):
            from_any(tmp_path / "model.weights.h5")
        with pytest.raises(ValueError, match="the file also holds layers/"):
            short = keras.Sequential([layers.Input((T, D)), layers.LSTM(H)])
            from_keras(tmp_path / "model.weights.h5", config=short.to_json())
    xs = kept = layers.Input((T, D))
    xs = layers.Add()([layers.LSTM(D, return_sequences=True)(xs), kept])
    with pytest.raises(ValueError, match="the model is no chain"):
        from_any(keras.Model(kept, layers.LSTM(H)(xs)))


def test_modules_that_hold_nothing():
    from flax import linen as nn

    with pytest.raises(TypeError, match="a linen module, which holds no parameters"):
        from_any(nn.LSTMCell(H))
    torchrecurrent = pytest.importorskip("torchrecurrent")
    with pytest.raises(ValueError, match=r"from_torchrecurrent\(cell, .*rnnjax.cells.MGU"):
        from_any(torchrecurrent.MGUCell(D, H))
