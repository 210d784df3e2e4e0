"""Unknown, duplicated or missing names and wrong shapes raise errors.

Mocks with the same attributes replace PyTorch's modules; `test_pytorch.py` uses real ones if PyTorch is installed.
"""

import itertools
import types
import warnings

import jax
import numpy as np
import pytest

import rnnjax
from rnnjax.converters import from_torch, to_torch
from tests.converters.test_pytorch import GATES, H, P, activation_of, state_dict
from tests.registry import assert_identical, normal

WHOLE = {kind: state_dict(kind, 2, 2) for kind in GATES}
every_weight = pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in GATES for name in WHOLE[kind]])


class RNNCell:
    """PyTorch stores `nonlinearity` here, but `mode` in an RNN."""

    def __init__(self, state, **attributes):
        self.__dict__ |= attributes
        self.state_dict = lambda: state


LSTMCell, GRUCell = (type(name, (RNNCell,), {}) for name in ("LSTMCell", "GRUCell"))


def module(kind, layers=1, ways=1, bias=True, **attributes):
    """A mock of `torch.nn.LSTM` and so on."""
    usual = {"mode": {"RNN": "RNN_TANH", "projected": "LSTM"}.get(kind, kind), "hidden_size": H, "bias": bias}
    usual |= {"num_layers": layers, "bidirectional": ways == 2, "batch_first": False, "dropout": 0.0}
    usual |= {"proj_size": P if kind == "projected" else 0}
    state = state_dict(kind, layers, ways, bias)
    return types.SimpleNamespace(**(usual | {"state_dict": lambda: state} | attributes))


def model(**parts):
    """A mock of a model with these modules."""
    state = {f"{name}.{key}": array for name, part in parts.items() for key, array in part.state_dict().items()}
    return types.SimpleNamespace(**parts, state_dict=lambda: state, named_modules=lambda: [("", None), *parts.items()])


@every_weight
def test_each_weight_is_accounted_for(kind, name):
    """The error names a weight that is missing, misspelt, of another shape, or duplicated under a cell's name."""
    state, array = WHOLE[kind], WHOLE[kind][name]
    others = {key: value for key, value in state.items() if key != name}
    with pytest.raises(ValueError, match=rf"'{name}' is missing"):
        from_torch(others)
    with pytest.raises(ValueError, match=rf"'{name}x' is unknown \(did you mean '{name}'\?\), '{name}' is missing"):
        from_torch(others | {f"{name}x": array})
    with pytest.raises(ValueError, match=rf"'{name}' is missing"):
        from_torch({f"encoder.lstm.{key}": value for key, value in others.items()}, prefix="encoder.lstm.")
    for shape in (array.shape[:-1], (*array.shape[:-1], 1), (*array.shape, 1)):
        with pytest.raises(ValueError, match=r"`(weight|bias)_[a-z]{2}_l\d(_reverse)?` is \["):
            from_torch(state | {name: np.zeros(shape)})
    doubled = name.split("_l")[0]
    with pytest.raises(ValueError, match=rf"'{doubled}', as a GRUCell names them, beside .*two modules, or one twice"):
        from_torch(state | {doubled: array})


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("", r"'encoder\.lstm\.weight_ih_l0'.* with `prefix`: 'encoder\.lstm\.'"),
        ("encoder.lstm", r"prefix='encoder\.lstm' .*did you mean 'encoder\.lstm\.'\?"),
        ("encoder.ltsm.", r"did you mean 'encoder\.lstm\.'\?"),
        ("encoder.lstm.weight", r"no recurrent weights under prefix"),
        ("readout.", r"some under 'encoder\.lstm\.'"),
    ],
)
def test_prefixes(prefix, says):
    """For a state dict and for the model itself."""
    state = {f"encoder.lstm.{name}": array for name, array in WHOLE["LSTM"].items()} | {"readout.weight": np.zeros(1)}
    with pytest.raises(ValueError, match=says):
        from_torch(state, prefix=prefix)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias_ih_l2": np.zeros(1)}, r"'weight_ih_l2' is missing"),
        ({"weight_ih_l7": np.zeros(1)}, r"layers \[0, 1, 7\], but no `weight_ih_l2`"),
        ({"weight_ih_l00": np.zeros(1)}, r"'weight_ih_l00' is unknown \(did you mean 'weight_ih_l0'\?\)"),
        ({"weight_hr_l0": np.zeros((1, H))}, r"'weight_hr_l1' is missing"),
        ({"hn_bias": np.zeros(H)}, r"'hn_bias' is unknown"),
        ({"weight_hh_l0": np.zeros((5 * H, H))}, rf"`weight_hh_l0` is \[{5 * H}, {H}\] .* n = 4 \(LSTM\), 3 \(GRU\)"),
        (
            {"weight_ih_l1": np.zeros((4 * H, 5))},
            rf"`weight_ih_l1` is .* over a layer of {H} outputs .*\[{4 * H}, {H}\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_module(change, says):
    with pytest.raises(ValueError, match=says):
        from_torch(state_dict("LSTM", 2) | change)


def test_layers_of_two_kinds():
    other = {name.replace("l0", "l1"): array for name, array in state_dict("GRU").items()}
    with pytest.raises(ValueError, match=r"`weight_ih_l1` is .* in this LSTM"):
        from_torch(state_dict("LSTM") | other)
    with pytest.raises(ValueError, match=r"only an LSTM has a projection"):
        from_torch(state_dict("GRU") | {"weight_hr_l0": np.zeros((H, H))})


def test_what_is_no_state_dict():
    for nothing in ([1.0], None, {1: np.zeros(1)}):
        with pytest.raises(TypeError, match="expected a PyTorch module or its `state_dict"):
            from_torch(nothing)
    for other in ({}, {"fc.weight": np.zeros(1)}):
        with pytest.raises(ValueError, match=r"holds no recurrent weights .*but (nothing|'fc\.weight')"):
            from_torch(other)


@pytest.mark.parametrize("kind", GATES)
def test_a_module_is_its_state_dict(kind):
    """A module alone, and as part of a model."""
    for layers, ways, bias in itertools.product((1, 2), (1, 2), (True, False)):
        rnn = module(kind, layers, ways, bias)
        cell, params = from_torch(rnn.state_dict(), **activation_of(kind))
        for found in (from_torch(rnn), from_torch(model(head=module("RNN"), rnn=rnn), prefix="rnn.")):
            assert found[0] == cell
            assert_identical(found[1], params)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_module_of_one_step(kind):
    state = {name.removesuffix("_l0"): array for name, array in state_dict(kind).items()}
    told = {"nonlinearity": "relu"} if kind == "RNN" else {}
    cell = {"LSTM": LSTMCell, "GRU": GRUCell, "RNN": RNNCell}[kind](state, hidden_size=H, bias=True, **told)
    found, params = from_torch(cell)
    assert found == {"LSTM": rnnjax.LSTM(H), "GRU": rnnjax.GRU(H), "RNN": rnnjax.Elman(H, "relu")}[kind]
    assert_identical(params, from_torch(state, **activation_of(kind))[1])


def test_a_module_knows_its_nonlinearity():
    """A state dict lacks the nonlinearity, so the caller must pass it."""
    relu, tanh = (module("RNN", 2, 1, mode=mode) for mode in ("RNN_RELU", "RNN_TANH"))
    for rnn, cell in ((relu, rnnjax.Elman(H, "relu")), (tanh, rnnjax.Elman(H, "tanh"))):
        assert from_torch(rnn)[0] == rnnjax.Stack((cell, cell))
    assert from_torch(relu.state_dict(), activation="relu")[0] == from_torch(relu, activation="relu")[0]
    with pytest.raises(ValueError, match="activation is 'tanh', but the module is a RNN of relu"):
        from_torch(relu, activation="tanh")
    with pytest.raises(ValueError, match="that of an RNN, and does not say its nonlinearity"):
        from_torch(relu.state_dict())
    with pytest.raises(ValueError, match="activation is 'relu', but the weights are LSTM's"):
        from_torch(WHOLE["LSTM"], activation="relu")


def test_what_a_cell_has_not_is_said():
    with pytest.warns(UserWarning, match=r"batch_first=True.*swapaxes"):
        from_torch(module("GRU", 2, batch_first=True))
    with warnings.catch_warnings(action="error"):
        assert from_torch(module("GRU", 2, dropout=0.5))[0] == rnnjax.Stack.of(rnnjax.GRU, (H, H), dropout=0.5)


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("num_layers", 3, "num_layers is 3, .* 2"),
        ("bidirectional", True, "number of directions is 2"),
        ("bias", False, "bias is False"),
        ("hidden_size", 7, "hidden_size is 7"),
        ("proj_size", 2, "proj_size is 2, .* None"),
        ("mode", "LSTM", "kind is 'LSTM', .*'GRU'"),
    ],
)
def test_a_module_whose_weights_were_exchanged(attribute, value, says):
    rnn = module("GRU", 2)
    setattr(rnn, attribute, value)
    with pytest.raises(ValueError, match=says):
        from_torch(rnn)


def test_a_module_that_is_not_recurrent():
    holder = model(encoder=module("GRU"), head=module("GRU", mode="other"))
    with pytest.raises(TypeError, match=r"is a SimpleNamespace, which is no LSTM.*recurrent ones at 'encoder\.'"):
        from_torch(holder)
    with pytest.raises(ValueError, match=r"prefix='encodr\.' .*did you mean 'encoder\.'"):
        from_torch(holder, prefix="encodr.")
    with pytest.raises(ValueError, match=r"did you mean 'encoder\.'"):
        from_torch(holder, prefix="encoder")
    with pytest.raises(TypeError, match="holds no recurrent one"):
        from_torch(module("GRU", mode="other"))


def params_of(cell, input_size):
    return normal(jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size)), repr(cell))


def test_what_no_module_of_pytorch_can_hold():
    lstm, gru = params_of(rnnjax.LSTM(2), 3), params_of(rnnjax.GRU(2), 2)
    bare = params_of(rnnjax.WithoutBias(rnnjax.LSTM(2)), 2)
    for layers in ((lstm, gru), (lstm, bare), (lstm, params_of(rnnjax.LSTM(3), 2)), ()):
        with pytest.raises(ValueError, match=r"`params` holds .* one kind of cell.*biases everywhere or nowhere"):
            to_torch(layers)
    with pytest.raises(ValueError, match=r"`weight_ih_l1` is \[8, 3\], .* \[8, 2\]"):
        to_torch((lstm, lstm))
    with pytest.raises(ValueError, match=r"`b` is \[1\], but 2 units need \[8\]"):
        to_torch(lstm._replace(b=np.zeros(1)))
    with pytest.raises(ValueError, match="b_hn given; a GRU of PyTorch has both"):
        to_torch(gru._replace(b=None))
    for other in ({"w": np.zeros(1)}, rnnjax.LearnedCarryParams(lstm, None), (lstm, (lstm,))):
        with pytest.raises(TypeError, match=r"holds a (dict|LearnedCarryParams|tuple)"):
            to_torch(other)
