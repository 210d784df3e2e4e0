"""Parameters to Flax and back: a round trip gives the same bits, and the forward passes agree."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.flax import from_linen, from_nnx, to_linen, to_nnx
from tests.flax.cells import D, H, compiled, every_cell, inputs, linen, linen_cell, nnx, nnx_cell, noisy
from tests.registry import assert_close, assert_identical

CELLS = {"optimized_lstm": rnnjax.LSTM(H), "lstm": rnnjax.LSTM(H), "gru": rnnjax.GRU(H), "simple": rnnjax.Elman(H)}
BOTH_WAYS = rnnjax.Bidirectional(rnnjax.LSTM(H), rnnjax.GRU(H))


def drawn(cell):
    """Random parameters, including biases."""
    return noisy(jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0)), repr(cell))


def unrolled(cell, params):
    return rnnjax.unroll(cell, params, inputs().swapaxes(0, 1), engine="loop")[1].swapaxes(0, 1)


def in_linen(module, params):
    """The outputs of a linen module with these parameters."""
    return compiled(module.apply)({"params": params}, inputs())


def in_nnx(module):
    """The outputs of an nnx module."""
    graph, state = nnx.split(module)
    return compiled(lambda state, x: nnx.merge(graph, state)(x))(state, inputs())


@every_cell
def test_linen_round_trip(name):
    params = drawn(CELLS[name])
    assert_identical(from_linen(to_linen(params)), params)
    rnn = linen.RNN(linen_cell(name))
    variables = noisy(jax.eval_shape(rnn.init, jax.random.key(0), inputs()))
    converted = from_linen(variables)
    assert_identical({"params": {"cell": to_linen(converted)}}, variables)
    assert_close(unrolled(CELLS[name], converted), in_linen(rnn, variables["params"]))


def test_linen_round_trip_both_ways():
    params = drawn(BOTH_WAYS)
    assert_identical(from_linen(to_linen(params)), params)
    layer = linen.Bidirectional(linen.RNN(linen_cell("lstm")), linen.RNN(linen_cell("gru")))
    assert_close(unrolled(BOTH_WAYS, params), in_linen(layer, to_linen(params)))


@every_cell
def test_nnx_round_trip(name):
    cell, per_gate = nnx_cell(name), name == "lstm"
    params = drawn(CELLS[name])
    if name == "gru":
        params = params._replace(b_hn=jnp.zeros(H))
    assert_identical(from_nnx(to_nnx(params, per_gate=per_gate)), params)
    nnx.update(cell, to_nnx(params, per_gate=per_gate))
    assert_identical(from_nnx(nnx.state(cell)), params)
    assert_identical(to_nnx(from_nnx(nnx.state(cell)), per_gate=per_gate), nnx.to_pure_dict(nnx.state(cell)))
    assert_close(in_nnx(nnx.RNN(cell)), unrolled(CELLS[name], params))


def test_nnx_round_trip_both_ways():
    params = drawn(BOTH_WAYS)
    params = params._replace(backward=params.backward._replace(b_hn=jnp.zeros(H)))
    layer = nnx.Bidirectional(nnx.RNN(nnx_cell("lstm")), nnx.RNN(nnx_cell("gru")))
    nnx.update(layer, to_nnx(params, per_gate=True))
    assert_identical(from_nnx(nnx.state(layer)), params)
    assert_close(in_nnx(layer), unrolled(BOTH_WAYS, params))


def test_linen_and_nnx_share_weights():
    """Parameters of a linen LSTM, converted via rnnjax, run in nnx."""
    params, cell = drawn(rnnjax.LSTM(H)), nnx_cell("optimized_lstm")
    nnx.update(cell, to_nnx(from_linen(to_linen(params))))
    assert_close(in_nnx(nnx.RNN(cell)), in_linen(linen.RNN(linen_cell("lstm")), {"cell": to_linen(params)}))


@pytest.mark.parametrize("name", ["optimized_lstm", "gru", "simple"])
def test_converters_are_pure_functions(name):
    """The converters run under `jit` and are differentiable."""
    params = drawn(CELLS[name])
    gradient = compiled(jax.grad(lambda p: sum((x**2).sum() for x in jax.tree.leaves(from_linen(to_linen(p))))))(params)
    assert_identical(gradient, jax.tree.map(lambda leaf: 2 * leaf, params))


def test_b_hn_is_not_dropped_in_silence():
    """nnx's GRU lacks the bias `b_hn`."""
    params = drawn(rnnjax.GRU(H))
    with pytest.raises(ValueError, match=r"`b_hn` is not zero .*to_linen"):
        to_nnx(params)
    with pytest.raises(ValueError, match="traced"):
        compiled(to_nnx)(params._replace(b_hn=jnp.zeros(H)))


TREES = {
    ("linen", "lstm"): lambda: to_linen(drawn(rnnjax.LSTM(H))),
    ("linen", "gru"): lambda: to_linen(drawn(rnnjax.GRU(H))),
    ("linen", "simple"): lambda: to_linen(drawn(rnnjax.Elman(H))),
    ("nnx", "optimized_lstm"): lambda: to_nnx(drawn(rnnjax.LSTM(H))),
    ("nnx", "lstm"): lambda: to_nnx(drawn(rnnjax.LSTM(H)), per_gate=True),
    ("nnx", "gru"): lambda: to_nnx(drawn(rnnjax.GRU(H))._replace(b_hn=jnp.zeros(H))),
    ("nnx", "simple"): lambda: to_nnx(drawn(rnnjax.Elman(H))),
}


@pytest.mark.parametrize(("library", "name"), TREES)
def test_each_leaf_is_accounted_for(library, name):
    """The error names a leaf that is missing, misspelt, of another shape, or additional, at any level."""
    convert, tree = {"linen": from_linen, "nnx": from_nnx}[library], TREES[library, name]()
    convert(tree)
    for part, leaves in tree.items():
        for leaf, array in leaves.items():
            place, others = f"{part}.{leaf}", {key: value for key, value in leaves.items() if key != leaf}
            with pytest.raises(ValueError, match=rf"'{place}' is missing"):
                convert(tree | {part: others})
            with pytest.raises(ValueError, match=rf"'{place}x' is unknown \(did you mean '{place}'\?\)"):
                convert({"cell": tree | {part: others | {f"{leaf}x": array}}})
            with pytest.raises(ValueError, match=r"does not fit: .* should be \["):
                convert(tree | {part: others | {leaf: jnp.zeros((*array.shape[:-1], array.shape[-1] + 1))}})
    for more in ({"hn_bias": jnp.zeros(H)}, {"hn": {"offset": jnp.zeros(H)}}, {"rngs": {"default": jnp.zeros(1)}}):
        with pytest.raises(ValueError, match=r"'(hn_bias|hn\.offset|rngs\.default)' is unknown"):
            convert({**tree, **more, **({"hn": tree["hn"] | more["hn"]} if "hn" in tree and "hn" in more else {})})
        if "rngs" not in more:
            with pytest.raises(ValueError, match=r"holds hn(_bias)? beside cell"):
                convert({"cell": tree} | more)


def test_what_is_no_cell_is_refused():
    with pytest.raises(ValueError, match=r"`params` holds Dense_0\.kernel \[2, 2\]; expected .*hf, hg"):
        from_linen({"Dense_0": {"kernel": jnp.zeros((2, 2))}})
    with pytest.raises(ValueError, match="`params` holds nothing; expected the tree of a linen"):
        from_linen({})
    for broken in ({}, {"cell": {"kernel": jnp.zeros((2, 2))}}):
        with pytest.raises(ValueError, match=r"`state` holds .*; expected the state of an nnx"):
            from_nnx(broken)
    two_gates = {"dense_i": {"kernel": jnp.zeros((D, 2 * H)), "bias": jnp.zeros(2 * H)}}
    with pytest.raises(ValueError, match=r"of a GRUCell with 3 units, .*; or of a SimpleCell with 3 units, "):
        from_nnx(two_gates | {"dense_h": {"kernel": jnp.zeros((H, 2 * H))}})
    params = to_linen(drawn(rnnjax.LSTM(H)))
    assert_identical(from_linen({"params": params, "batch_stats": {}}), from_linen(params))
    with pytest.raises(ValueError, match="holds batch_stats beside params"):
        from_linen({"params": params, "batch_stats": {"mean": jnp.zeros(1)}})


@pytest.mark.parametrize("convert", [to_linen, to_nnx])
def test_what_flax_has_no_place_for(convert):
    for other in ((drawn(rnnjax.LSTM(H)),) * 2, drawn(rnnjax.LSTMProjected(H, 2)), {"w_x": jnp.zeros(1)}):
        with pytest.raises(TypeError, match=r"is a (tuple|LSTMProjectedParams|dict); .*convert each layer"):
            convert(other)
    with pytest.raises(ValueError, match=r"are GRUParams, but a bias is None, .*put zeros there"):
        convert(drawn(rnnjax.WithoutBias(rnnjax.GRU(H))))
    for name in ("w_x", "w_h", "b", "b_hn"):
        with pytest.raises(ValueError, match=rf"are GRUParams, but {name} is .* where 3 units need"):
            convert(drawn(rnnjax.GRU(H))._replace(**{name: jnp.zeros((H, 1))}))
