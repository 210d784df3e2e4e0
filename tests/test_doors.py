"""`rnnjax.haiku` and `rnnjax.equinox` against the loops of their libraries, where these are installed."""

# pyright: reportMissingImports=false
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

T, B, D, H = 5, 3, 2, 4
LENGTHS = jnp.array([5, 2, 0])


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected)


@pytest.mark.parametrize("library", ["equinox", "haiku"])
def test_a_library_that_is_absent_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"rnnjax.{library}", raising=False)
    with pytest.raises(ImportError, match=rf"rnnjax\.{library} needs .*: pip install"):
        importlib.import_module(f"rnnjax.{library}")


@pytest.fixture(params=["LSTM", "GRU", "VanillaRNN", "DeepRNN"])
def haiku_core(request):
    hk = pytest.importorskip("haiku")

    def core():
        if request.param == "DeepRNN":
            return hk.DeepRNN([hk.LSTM(H), hk.VanillaRNN(H, double_bias=False)])
        return getattr(hk, request.param)(H)

    return hk, core


@pytest.mark.parametrize(
    "options", [{}, {"reverse": True}, {"return_all_states": True}, {"time_major": False}], ids=str
)
def test_haiku(haiku_core, options):
    """The same parameters, values, states and gradients."""
    import rnnjax.haiku

    hk, core = haiku_core
    xs = normal(T, B, D) if options.get("time_major", True) else normal(B, T, D)

    def model(unroll, **more):
        def forward(xs):
            made = core()
            state = jax.tree.map(lambda leaf: leaf.astype(float) + 0.5, made.initial_state(B))
            return unroll(made, xs, state, **options, **more)

        return hk.without_apply_rng(hk.transform(forward))

    theirs, ours = model(hk.dynamic_unroll), model(rnnjax.haiku.dynamic_unroll)
    params = theirs.init(jax.random.key(0), xs)
    close(ours.init(jax.random.key(0), xs), params)
    close(ours.apply(params, xs), theirs.apply(params, xs))

    def loss(net, params):
        return sum([(leaf**2).sum() for leaf in jax.tree.leaves(net.apply(params, xs))])

    close(*[jax.grad(lambda params, net=net: loss(net, params))(params) for net in (ours, theirs)])


def test_haikus_lengths_and_resets(haiku_core):
    import rnnjax.haiku

    hk, core = haiku_core
    xs, resets = normal(T, B, D), jnp.zeros((T, B), bool).at[2].set(True)

    def net(**options):
        def forward(xs):
            made = core()
            start = jax.tree.map(lambda leaf: leaf.astype(float), made.initial_state(B))
            return rnnjax.haiku.dynamic_unroll(made, xs, start, **options)

        return hk.without_apply_rng(hk.transform(forward))

    params = net().init(jax.random.key(0), xs)
    whole, padded, reset = (net(**each).apply(params, xs)[0] for each in ({}, {"lengths": LENGTHS}, {"resets": resets}))
    close(padded, jnp.where((jnp.arange(T)[:, None] < LENGTHS)[..., None], whole, 0.0))
    close(reset[2:], net().apply(params, xs[2:])[0])


def test_what_of_haiku_is_refused():
    hk = pytest.importorskip("haiku")
    import rnnjax.haiku

    for core in (lambda: hk.ResetCore(hk.LSTM(H)), lambda: hk.IdentityCore(), lambda: hk.DeepRNN([jax.nn.relu])):

        def forward(xs, core=core):
            return rnnjax.haiku.dynamic_unroll(core(), xs, ())

        with pytest.raises(TypeError, match=r"rnnjax runs hk\.LSTM, .*Use `hk\.dynamic_unroll`"):
            hk.transform(forward).init(jax.random.key(0), normal(T, B, D))

    def skipping(xs):
        return rnnjax.haiku.dynamic_unroll(hk.deep_rnn_with_skip_connections([hk.LSTM(H), hk.LSTM(H)]), xs, ())

    with pytest.raises(TypeError, match=r"is a _DeepRNN; .*without skip connections"):
        hk.transform(skipping).init(jax.random.key(0), normal(T, B, D))


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_equinox(kind, use_bias):
    """The same values, carries and gradients as a scan of the cell; with and without a batch."""
    eqx = pytest.importorskip("equinox")
    import rnnjax.equinox

    cell = getattr(eqx.nn, kind)(D, H, use_bias=use_bias, key=jax.random.key(0), dtype=float)
    rnn, xs = rnnjax.equinox.RNN(cell), normal(T, B, D)
    start = (normal(H), normal(H) + 1) if kind == "LSTMCell" else normal(H)

    def row(cell, xs):
        def step(carry, x):
            carry = cell(x, carry)
            return carry, carry[0] if kind == "LSTMCell" else carry

        return jax.lax.scan(step, start, xs)

    def scanned(cell):
        return jax.vmap(lambda xs: row(cell, xs), in_axes=1, out_axes=(0, 1))(xs)

    batched = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, H)), start)
    close(rnn(xs, batched), scanned(cell))
    close(rnn(xs[:, 0], start), row(cell, xs[:, 0]))
    close(jax.vmap(rnn, in_axes=(1, None), out_axes=(0, 1))(xs, start), scanned(cell))

    def loss(run):
        return lambda tree: sum([(leaf**2).sum() for leaf in jax.tree.leaves(run(tree))])

    found = jax.jit(jax.grad(loss(lambda rnn: rnn(xs, batched))))(rnn)
    close(found.cell, jax.grad(loss(scanned))(cell))

    resets = jnp.zeros((T, B), bool).at[2].set(True)
    whole = rnn(xs)[1]
    close(rnn(xs, lengths=LENGTHS)[1], jnp.where((jnp.arange(T)[:, None] < LENGTHS)[..., None], whole, 0.0))
    close(rnn(xs, resets=resets)[1][2:], rnn(xs[2:])[1])
    close(rnnjax.equinox.RNN(cell, reverse=True)(xs)[1], rnn(xs[::-1])[1][::-1])


def test_what_of_equinox_is_refused():
    eqx = pytest.importorskip("equinox")
    import rnnjax.equinox

    for other in (eqx.nn.Linear(D, H, key=jax.random.key(0)), None):
        with pytest.raises(TypeError, match=r"expected an eqx\.nn\.LSTMCell or eqx\.nn\.GRUCell"):
            rnnjax.equinox.RNN(other)
