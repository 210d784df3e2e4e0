"""Whole models: every array is used or refused by name, in each library's layout; the libraries need not be installed.

`tests/parity` compares with the libraries, and `test_live.py` reads their own files.
"""

import json
from typing import Any

import jax
import numpy as np
import pytest

import rnnjax
from rnnjax import cells, converters
from rnnjax.converters import from_any, layouts, names
from rnnjax.converters.keras import Described
from tests.registry import assert_identical, normal

D, H, K = 3, 4, 2
ROWS = {
    f"{name}: {key}": layout
    for name, rows in (
        ("Haiku", layouts.HAIKU),
        ("Equinox", layouts.EQUINOX),
        ("Keras", layouts.KERAS),
        ("PyTorch", layouts.TORCH),
    )
    for key, layout in rows.items()
}
every_row = pytest.mark.parametrize("row", ROWS)


def params_of(cell, input_size=D):
    return jax.tree.map(
        np.asarray, normal(jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size)), repr(cell))
    )


def ours(layout):
    sizes = (H, 2) if "p" in layout.leaves.values() else (H,)
    activation = {None: ("softplus",), "": ()}.get(layout.activation, (layout.activation,))
    cell = layout.cell(*sizes, *activation)
    return cell, params_of(cell)


@every_row
def test_a_row_of_the_table_there_and_back(row):
    """The inverse gives our parameters again; and without biases, if the library has that."""
    layout = ROWS[row]
    cell, params = ours(layout)
    leaves = layouts.to_layout(layout, params)
    assert not layout.misfit(leaves) and set(leaves) == set(layout.leaves)
    found, back = layouts.from_layout(layout, leaves, "softplus")
    assert found == cell
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-15, atol=1e-15), back, params)
    if layout.bias == "optional":
        bare = params._replace(**{name: None for name in params._fields if name.startswith("b")})
        found, back = layouts.from_layout(layout, layouts.to_layout(layout, bare), "softplus")
        assert found == rnnjax.WithoutBias(cell)
        assert_identical(back, bare)
    with pytest.raises(ValueError, match=r"`b` is \[1\]"):
        layouts.to_layout(layout, params._replace(b=np.zeros(1)))


@every_row
def test_shapes_that_do_not_fit(row):
    layout = ROWS[row]
    leaves = layouts.to_layout(layout, ours(layout)[1])
    for name, array in leaves.items():
        width_of_input = layout.leaves[name] == "x" and layout.transposed
        for shape in (array.shape[:-1], (*array.shape, 1), *([] if width_of_input else [(*array.shape[:-1], 1)])):
            assert layout.misfit(leaves | {name: np.zeros(shape)})


def haiku_model():
    cell = rnnjax.Readout(rnnjax.Stack((rnnjax.LSTM(H), rnnjax.LSTM(H), rnnjax.LSTM(H))), K)
    return cell, params_of(cell), converters.to_haiku


def equinox_names(cell, params):
    """Arrays as `eqx.nn` names them."""
    found = {}
    for k, layer in enumerate(params.rnn):
        found |= {f"layers.{k}.{n}": a for n, a in layouts.to_layout(layouts.EQUINOX["GRUCell"], layer).items()}
    return found | {"head.weight": params.w_out.T, "head.bias": params.b_out}


def equinox_model():
    cell = rnnjax.Readout(rnnjax.Stack((rnnjax.GRU(H), rnnjax.GRU(H))), K)
    return cell, params_of(cell), equinox_names


def torch_model():
    cell = rnnjax.Readout(rnnjax.Stack((rnnjax.GRU(H), rnnjax.GRU(H))), K)
    return cell, params_of(cell), lambda cell, params: converters.to_torch(params, prefix="encoder.rnn.", head="fc.")


def linen_model():
    from rnnjax.flax import to_linen

    cell = rnnjax.Readout(rnnjax.Stack((rnnjax.LSTM(H), rnnjax.LSTM(H))), K)

    def to(cell, params):
        layers = {f"OptimizedLSTMCell_{k}": to_linen(layer) for k, layer in enumerate(params.rnn)}
        return {"params": layers | {"Dense_0": {"kernel": params.w_out, "bias": params.b_out}}}

    return cell, params_of(cell), to


MODELS = {"Haiku": haiku_model, "Equinox": equinox_model, "PyTorch": torch_model, "Flax": linen_model}
every_model = pytest.mark.parametrize("library", MODELS)


def flat(tree, separator="/"):
    return names.leaves_of(tree, separator)


@every_model
def test_each_array_of_a_model_is_accounted_for(library):
    """Recognised as a tree and by flat names; and whatever is missing, misspelt, of another shape or new is refused."""
    cell, params, to = MODELS[library]()
    weights = flat(to(cell, params), "." if library in ("Equinox", "PyTorch") else "/")
    for given in (to(cell, params), weights if library != "Flax" else names.nested(weights)):
        found, back = from_any(given)
        assert found == cell
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), back, params)
    for name, array in weights.items():
        others = {key: value for key, value in weights.items() if key != name}
        for bad in (others, others | {f"{name}x": array}, weights | {name: np.zeros((*array.shape, 1))}):
            with pytest.raises(ValueError, match=r"^[^\n]{40,}$"):
                from_any(names.nested(bad))
    with pytest.raises(ValueError, match="extra"):
        from_any(names.nested(weights | {"extra/w": np.zeros(3)}))


def test_from_any_reads_files(tmp_path):
    for library in MODELS:
        cell, params, to = MODELS[library]()
        weights: Any = flat(to(cell, params), "." if library in ("Equinox", "PyTorch") else "/")
        np.savez(tmp_path / "model.npz", **weights)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name, array in weights.items():
            end = len(data) + array.nbytes
            header[name] = {"dtype": "F64", "shape": list(array.shape), "data_offsets": [len(data), end]}
            data += np.ascontiguousarray(array).tobytes()
        text = json.dumps(header).encode()
        (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
        for file in ("model.npz", "model.safetensors"):
            found, back = from_any(tmp_path / file)
            assert found == cell
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), back, params)
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[:-8])
    with pytest.raises(ValueError, match="damaged"):
        from_any(tmp_path / "model.safetensors")
    for name, fix in (("a.pt", "torch.load"), ("a.eqx", "tree_deserialise_leaves"), ("a.txt", "none of .safetensors")):
        with pytest.raises(ValueError, match=fix):
            from_any(tmp_path / name)


def test_haikus_order_of_gates_and_its_one():
    """Haiku's equations in NumPy: i, g, f, o with 1 added to f; and h = (1 - z) h + z a, reset before the product."""
    rng = np.random.default_rng(0)
    x, s = rng.normal(size=(6, D)), lambda a: 1 / (1 + np.exp(-a))
    w, b = rng.normal(size=(D + H, 4 * H)), rng.normal(size=4 * H)
    h, c, expected = np.zeros(H), np.zeros(H), []
    for x_t in x:
        i, g, f, o = np.split(np.concatenate([x_t, h]) @ w + b, 4)
        c = s(f + 1) * c + s(i) * np.tanh(g)
        h = s(o) * np.tanh(c)
        expected.append(h)
    cell, params = from_any({"core/linear": {"w": w, "b": b}})
    np.testing.assert_allclose(rnnjax.unroll(cell, params, x)[1], expected, rtol=1e-12)

    w_i, w_h, b, h, expected = rng.normal(size=(D, 3 * H)), rng.normal(size=(H, 3 * H)), b[: 3 * H], np.zeros(H), []
    for x_t in x:
        (z_x, r_x, a_x), (z_h, r_h, a_h) = np.split(x_t @ w_i + b, 3), np.split(w_h, 3, axis=-1)
        z, r = s(z_x + h @ z_h), s(r_x + h @ r_h)
        h = (1 - z) * h + z * np.tanh(a_x + (r * h) @ a_h)
        expected.append(h)
    cell, params = from_any({"gru": {"w_i": w_i, "w_h": w_h, "b": b}})
    np.testing.assert_allclose(rnnjax.unroll(cell, params, x)[1], expected, rtol=1e-12)
    with pytest.raises(TypeError, match=r"Haiku has no GRU\(.*it has Elman, LSTM, ResetBeforeGRU"):
        converters.to_haiku(rnnjax.GRU(H), params_of(rnnjax.GRU(H)))
    with pytest.raises(TypeError, match="VanillaRNN has relu and not 'tanh'"):
        converters.to_haiku(rnnjax.Elman(H), params_of(rnnjax.Elman(H)))
    with pytest.raises(TypeError, match="always has a bias"):
        converters.to_haiku(rnnjax.WithoutBias(rnnjax.LSTM(H)), params_of(rnnjax.WithoutBias(rnnjax.LSTM(H))))


def test_order_and_direction_of_layers():
    """Names say the order only of one series, and not even that where it may be one layer's two directions."""
    square = params_of(rnnjax.LSTM(H), H)
    two = converters.to_haiku(rnnjax.Stack((rnnjax.LSTM(H),) * 2), (square, square))
    with pytest.raises(ValueError, match=r"may be a stack or the two directions .*layers=\['lstm', 'lstm_1'\]"):
        from_any(two)
    listed = [layouts.to_layout(layouts.EQUINOX["LSTMCell"], square)] * 2
    assert (
        converters.from_equinox({str(k): each for k, each in enumerate(listed)})[0]
        == from_any(two, layers=["lstm", "lstm_1"])[0]
    )
    assert from_any(two, layers=["lstm_1", "lstm"])[0] == rnnjax.Stack((rnnjax.LSTM(H),) * 2)
    assert from_any(two, layers=[("lstm", "lstm_1")])[0] == rnnjax.Bidirectional(rnnjax.LSTM(H), rnnjax.LSTM(H))
    mixed = rnnjax.Stack((cells.ResetBeforeGRU(H), rnnjax.LSTM(5)))
    tree = converters.to_haiku(mixed, params_of(mixed))
    with pytest.raises(ValueError, match="whose order or direction is not known from their names"):
        from_any(tree)
    assert from_any(tree, layers=["gru", "lstm"])[0] == mixed
    for layers, says in (
        (["lstm", "gru"], "takes 3 inputs, but the layer below it has 5 outputs"),
        (["lstm"], "also holds 'gru', not used"),
        (["gru", "lstn"], "did you mean 'lstm'"),
        (["gru", "gru"], "one layer twice"),
        ([("gru", "lstm")], "takes 3 inputs and 'lstm' 4"),
    ):
        with pytest.raises(ValueError, match=says):
            from_any(tree, layers=layers)
    eleven = rnnjax.Stack((rnnjax.LSTM(H),) * 11)
    params = params_of(eleven)
    tree = dict(sorted(converters.to_haiku(eleven, params).items()))  # lstm_10 before lstm_2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), from_any(tree)[1], params)


def test_heads():
    tree = converters.to_haiku(rnnjax.LSTM(H), params_of(rnnjax.LSTM(H)))
    for head, says in (
        ({"linear": {"w": np.zeros((5, K)), "b": np.zeros(K)}}, "takes 5 inputs, but the top layer has 4 outputs"),
        ({"linear": {"w": np.zeros((H, K))}}, "has no bias, but that of a Readout does"),
        (
            {"linear": {"w": np.zeros((H, K)), "b": np.zeros(K)}, "value": {"w": np.zeros((H, 1))}},
            "'linear', 'value', not used",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            from_any(tree | head)
    params = params_of(rnnjax.Readout(rnnjax.LSTM(8), 4))
    inside = converters.to_haiku(rnnjax.Readout(rnnjax.LSTM(8), 4), params, layers=["net/lstm"], head="net/linear")
    assert from_any(inside)[0] == rnnjax.Readout(rnnjax.LSTM(8), 4)  # the head alone would fit an LSTM of one unit
    before_or_after = {"linear": {"w": np.zeros((H, D)), "b": np.zeros(D)}}
    torch = {f"rnn.{n}": a for n, a in converters.to_torch(params_of(rnnjax.LSTM(H))).items()}
    for model, name in (
        (tree | before_or_after, "linear"),
        (torch | {"fc.weight": np.zeros((D, H)), "fc.bias": np.zeros(D)}, "fc"),
    ):
        with pytest.raises(ValueError, match="it may come before or after them"):
            from_any(model)
        assert from_any(model, head=name)[0] == rnnjax.Readout(rnnjax.LSTM(H), D)
    with pytest.raises(ValueError, match="has no linear map 'x'"):
        from_any(tree, head="x")


KERAS_LSTM = {"name": "l", "units": H, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}


def keras_layer(kind, biased=True, **settings):
    gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[kind]
    rows = () if not biased else ((gates * H,),) if not settings.get("reset_after") else ((2, gates * H),)
    arrays = [np.ones(shape) for shape in ((D, gates * H), (H, gates * H), *rows)]
    return Described(kind, KERAS_LSTM | {"use_bias": biased} | settings, arrays)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (keras_layer("LSTM", activation="relu"), "'activation': 'relu'.* tanh and sigmoid"),
        (keras_layer("LSTM", recurrent_activation="hard_sigmoid"), "hard_sigmoid"),
        (keras_layer("LSTM", go_backwards=True), "go_backwards=True.*reverse=True"),
        (keras_layer("GRU", False, reset_after=False), "reset_after=False and use_bias=False"),
        (keras_layer("SimpleRNN", activation="gelu"), "activation='gelu'; known: tanh, relu"),
        (keras_layer("LSTM")._replace(weights=[]), "has 0 weights, but needs kernel"),
        (keras_layer("LSTM")._replace(weights=keras_layer("LSTM").weights * 2), "3 weights more than are known"),
        (
            keras_layer("GRU", reset_after=True)._replace(weights=keras_layer("GRU").weights),
            "'bias' is .* need .2, 12.",
        ),
        (Described("ConvLSTM1D", {"name": "c"}, []), "ConvLSTM1D 'c', which has no counterpart"),
        (Described("Dense", {"name": "d", "activation": "linear"}, [np.ones((D, K))]), "Dense 'd' besides one head"),
    ],
)
def test_what_of_keras_has_no_counterpart(layer, says):
    with pytest.raises(ValueError, match=says):
        converters.from_keras([layer])


def test_kerass_layers_by_their_configuration():
    assert converters.from_keras([keras_layer("GRU", reset_after=False)])[0] == cells.ResetBeforeGRU(H)
    assert converters.from_keras([keras_layer("GRU", reset_after=True)])[0] == rnnjax.GRU(H)
    assert converters.from_keras([keras_layer("SimpleRNN", activation="relu")])[0] == rnnjax.Elman(H, "relu")
    head = Described("Dense", {"name": "d", "activation": "softmax"}, [np.ones((H, K)), np.ones(K)])
    with pytest.raises(ValueError, match="has activation='softmax', and a Readout is linear"):
        converters.from_keras([keras_layer("LSTM"), head])
    with pytest.warns(UserWarning, match="Dropout is left out"):
        converters.from_keras([keras_layer("LSTM"), Described("Dropout", {"rate": 0.5}, [])])


def test_whose_cannot_be_told():
    rng = np.random.default_rng(0)
    step = {"weight_ih": rng.normal(size=(4 * H, D)), "weight_hh": rng.normal(size=(4 * H, H))}
    biases = {"bias_ih": np.zeros(4 * H), "bias_hh": np.zeros(4 * H)}
    assert from_any(step)[0] == rnnjax.WithoutBias(rnnjax.LSTM(H))  # PyTorch's and Equinox's are the same
    with pytest.raises(
        ValueError, match=r"a LSTMCell of PyTorch and of IntersectionRNNCell, .* of torchrecurrent; call"
    ):
        from_any(step | biases)
    with pytest.raises(ValueError, match=r"torchrecurrent's, .*from_torchrecurrent"):
        from_any({"weight_ih": np.zeros((2 * H, D)), "weight_hh": np.zeros((2 * H, H)), "bias_ih": np.zeros(2 * H)})
    with pytest.raises(ValueError, match=r"names of Keras's, but not its options.*from_keras"):
        from_any({"lstm/kernel": np.zeros((D, 4)), "lstm/recurrent_kernel": np.zeros((1, 4))})
    with pytest.raises(ValueError, match="that of an RNN, and does not say its nonlinearity"):
        from_any({"weight_ih_l0": np.zeros((H, D)), "weight_hh_l0": np.zeros((H, H))})
    with pytest.raises(ValueError, match="SimpleCell of Flax, whose parameters do not say its activation"):
        from_any({"i": {"kernel": np.zeros((D, H)), "bias": np.zeros(H)}, "h": {"kernel": np.zeros((H, H))}})
    with pytest.raises(ValueError, match=r"holds 'a' \[3\], and it is not known whose"):
        from_any({"a": np.zeros(3)})
    with pytest.raises(TypeError, match="is a object; expected a module, arrays or a file of Keras"):
        from_any(object())
    with pytest.raises(ValueError, match="say themselves what `layers` is"):
        from_any({"weight_ih_l0": np.zeros((H, D)), "weight_hh_l0": np.zeros((H, H))}, layers=["a"])
