"""Any Flax cell in our RNN: by its own step, or in Flax's own loop with a warning that says why."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.flax.cells import (
    KEY,
    LENGTHS,
    QUICK,
    B,
    D,
    H,
    T,
    compiled,
    flags,
    inputs,
    linen,
    linen_cell,
    nnx,
    nnx_cell,
    our_linen,
    our_nnx,
)
from tests.flax.linen_models import pulled, variables_of
from tests.flax.test_nnx import each, gradients, randomised, run
from tests.registry import assert_close, normal

ALL = slice(None)
F64 = {"param_dtype": jnp.float64}
IMAGES = normal(jax.ShapeDtypeStruct((B, T, 3, 2, D), "float64"), "flax images")
SIGNALS = IMAGES[:, :, :, 0]


class Halved(linen.OptimizedLSTMCell):
    """A subclass: its state is halved after every step, and its output is not its state."""

    def __call__(self, carry, inputs):
        (c, h), y = super().__call__(carry, inputs)
        return (c / 2, h), (y, h.sum(-1))


class OwnCell(linen.RNNCellBase):
    """A cell without a parent class: normalised over units, with a carry and outputs in a dictionary."""

    features: int
    num_feature_axes = 1

    @linen.compact
    def __call__(self, carry, inputs):
        z = linen.Dense(self.features, **F64)(jnp.concatenate([inputs, carry["h"]], axis=-1))
        h = (z - z.mean(-1, keepdims=True)) / jnp.sqrt(1 + z.var(-1, keepdims=True)) + carry["h"] / 2
        return {"h": h}, {"h": h}

    @linen.nowrap
    def initialize_carry(self, rng, input_shape):
        return {"h": jnp.zeros((*input_shape[:-1], self.features))}


class Summed(linen.RNNCellBase):
    """A cell without parameters."""

    num_feature_axes = 1

    def __call__(self, carry, inputs):
        return carry + inputs, carry * inputs

    @linen.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.ones(input_shape)


class Dropping(linen.GRUCell):
    """A cell that draws random numbers, unless it is deterministic."""

    deterministic: bool = False

    @linen.compact
    def __call__(self, carry, inputs):
        carry, y = super().__call__(carry, inputs)
        return carry, linen.Dropout(0.5, deterministic=self.deterministic)(y)


class Counting(linen.GRUCell):
    """A cell that keeps more than parameters."""

    @linen.compact
    def __call__(self, carry, inputs):
        self.variable("counts", "steps", lambda: jnp.zeros(()))
        return super().__call__(carry, inputs)


class Timed(linen.RNNCellBase):
    """A cell with one clock for all rows."""

    num_feature_axes = 1

    def __call__(self, carry, inputs):
        t, h = carry
        return (t + 1, h + t * inputs), h

    @linen.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(()), jnp.zeros(input_shape)


halved_params = functools.partial(jax.tree.map, lambda leaf: leaf / 2)
LINEN: dict[str, tuple[Any, Any]] = {
    "mgu": (lambda: linen.MGUCell(H, **F64), None),
    "conv_lstm": (lambda: linen.ConvLSTMCell(H, (2, 2), **F64), IMAGES),
    "subclass": (lambda: Halved(H, **F64, **QUICK), None),
    "own": (lambda: OwnCell(H), None),
    "no parameters": (Summed, None),
    "remat": (lambda: linen.remat(linen.GRUCell)(H, **F64, **QUICK), None),
    "map_variables": (
        lambda: linen.map_variables(linen.GRUCell, "params", trans_in_fn=halved_params, init=True)(H, **F64, **QUICK),
        None,
    ),
    "a function with parameters": (lambda: linen_cell("gru", activation_fn=linen.PReLU(**F64)), None),
    "dropout that is off": (lambda: Dropping(H, deterministic=True, **F64, **QUICK), None),
}
"""Cells that run their own step, and their inputs if they are not the default ones."""

BY_FLAX: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another collection": (lambda: Counting(H, **F64, **QUICK), {"variable_broadcast": ["params", "counts"]}, "counts"),
    "random numbers": (
        lambda: Dropping(H, **F64, **QUICK),
        {"split_rngs": {"params": False, "dropout": True}},
        "random numbers",
    ),
    "a lifting option": (
        lambda: linen_cell("gru"),
        {"variable_axes": {"params": 0}, "variable_broadcast": False, "split_rngs": {"params": True}},
        "all steps share them",
    ),
    "a carry without rows": (Timed, {}, "does not start with the batch"),
}
"""Cells and options that run in Flax's own loop, and a part of the reason."""


@pytest.mark.parametrize("name", LINEN)
def test_linen_values_and_gradients(name):
    """In float64 at 1e-12, for rows of different lengths, without a warning; `init` gives the same tree."""
    cell, x = LINEN[name][0], inputs() if LINEN[name][1] is None else LINEN[name][1]
    ours, theirs = (library.RNN(cell(), return_carry=True) for library in (our_linen, linen))
    shapes = [jax.eval_shape(rnn.init, KEY, x) for rnn in (ours, theirs)]
    assert jax.tree.leaves_with_path(shapes[0]) == jax.tree.leaves_with_path(shapes[1])
    variables = variables_of(theirs, x)
    carry, outputs = jax.eval_shape(lambda: theirs.apply(variables, x, seq_lengths=LENGTHS))

    def valid(tree):
        inside = np.arange(T) < LENGTHS[:, None]
        return jax.tree.map(lambda y: jnp.where(inside.reshape(B, T, *[1] * (y.ndim - 2)), y, 0), tree)

    carry, weights = normal(carry, "carry"), (normal(carry, "weights"), valid(normal(outputs, "weights")))
    with warnings.catch_warnings(action="error"):
        (got, got_pulled), (expected, expected_pulled) = compiled(
            lambda v, x: [pulled(rnn, weights, v, x, carry, seq_lengths=LENGTHS) for rnn in (ours, theirs)]
        )(variables, x)
    assert_close(got, (expected[0], valid(expected[1])))
    assert_close(got_pulled, expected_pulled)


@pytest.mark.parametrize("cell", [lambda: linen.MGUCell(H, **F64), lambda: Halved(H, **F64)], ids=["mgu", "subclass"])
def test_linen_parameters_are_drawn_as_flax_draws_them(cell):
    ours, theirs = (library.RNN(cell()) for library in (our_linen, linen))
    got, expected = compiled(lambda key: [rnn.init(key, inputs()) for rnn in (ours, theirs)])(KEY)
    assert_close(got, expected, 0)


def test_a_conv_lstm_has_masks_and_resets():
    """A masked step equals a sequence without it; a reset equals two separate rows."""
    rnn = our_linen.RNN(linen.ConvLSTMCell(H, (2, 2), **F64), return_carry=True)
    kept = np.array([0, 1, 3, 4])

    @compiled
    def parts(variables, x):
        masked, cut = rnn.apply(variables, x, mask=~flags((ALL, 2))), rnn.apply(variables, x[:, kept])
        whole, time_first = rnn.apply(variables, x, resets=flags((ALL, 3))), jnp.moveaxis(x, 1, 0)
        turned = rnn.apply(variables, time_first, resets=flags((ALL, 3)).T, time_major=True)
        return masked, cut, whole, turned, rnn.apply(variables, x[:, :3]), rnn.apply(variables, x[:, 3:])

    (carry, outputs), cut, whole, turned, first, second = parts(variables_of(rnn, IMAGES), IMAGES)
    assert_close((carry, outputs[:, kept]), cut)
    assert not outputs[:, 2].any()
    assert_close(whole, (second[0], jnp.concatenate([first[1], second[1]], axis=1)))
    assert_close(turned, (whole[0], jnp.moveaxis(whole[1], 1, 0)))


@pytest.mark.parametrize("name", BY_FLAX)
def test_linen_by_flax_s_own_loop(name):
    """Equal to Flax with the same random numbers, and one warning with the cell and the reason."""
    cell, options, reason = BY_FLAX[name]
    ours, theirs = (library.RNN(cell(), return_carry=True, **options) for library in (our_linen, linen))
    rngs = {"params": KEY, "dropout": KEY}
    with pytest.warns(UserWarning, match=rf"runs {type(cell()).__name__} in Flax's own loop.*{reason}") as caught:
        got = jax.eval_shape(lambda: ours.init(rngs, inputs()))
    assert len([each for each in caught if "Flax's own loop" in str(each.message)]) == 1
    assert got == jax.eval_shape(lambda: theirs.init(rngs, inputs()))
    with warnings.catch_warnings(action="ignore"):
        run = compiled(lambda v, x: [m.apply(v, x, rngs={"dropout": KEY}) for m in (ours, theirs)])
        assert_close(*run(variables_of(theirs), inputs()))
        with pytest.raises(TypeError, match=rf"`mask` is given, but {type(cell()).__name__} can only.*{reason}"):
            ours.apply(variables_of(theirs), inputs(), mask=np.ones((B, T), bool), rngs={"dropout": KEY})


def test_padding_by_flax_s_own_loop():
    """Zero outputs, NaN in padding without effect, a row of length 0 that keeps its carry, and T = 0."""
    counting, options, _ = BY_FLAX["another collection"]
    rnn = our_linen.RNN(counting(), return_carry=True, **options)
    usual, lengths = our_linen.RNN(linen_cell("gru"), return_carry=True), np.array([7, 3, 0])
    dirty = jnp.where((np.arange(T) < lengths[:, None])[..., None], inputs(), jnp.nan)
    carry = normal(jnp.zeros((B, H)), "carry")

    def results(module, reverse, variables, x):
        outputs = module.apply(variables, x, seq_lengths=lengths, initial_carry=carry, reverse=reverse)
        return sum((leaf**2).sum() for leaf in outputs), outputs

    run = compiled(lambda v, x: [jax.value_and_grad(results, 2, has_aux=True)(*how, v, x) for how in modules])
    modules = [(m, reverse) for reverse in (False, True) for m in (rnn, usual)]
    with warnings.catch_warnings(action="ignore"):
        variables = variables_of(rnn)
        got, expected, back, expected_back = run(variables, dirty)
        assert_close([got, back], [expected, expected_back])
        last, outputs = rnn.apply(variables, inputs()[:, :0], seq_lengths=np.zeros(B, int), initial_carry=carry)
        assert_close(last, carry)
        assert outputs.shape == (B, 0, H)
        with pytest.raises(ValueError, match=r"one batch axis only.*Reshape `inputs` \[1, 3, 5, 2\] to 3 rows"):
            rnn.apply(variables, inputs()[None], seq_lengths=lengths[None])


class ScannedRNN(linen.Module):
    """A GRU scanned over time as in agents, with its state reset at the start of each episode."""

    @functools.partial(linen.scan, variable_broadcast="params", split_rngs={"params": False})
    @linen.compact
    def __call__(self, carry, x):
        ins, resets = x
        carry = jnp.where(resets[:, None], jnp.zeros_like(carry), carry)
        return linen.GRUCell(features=H, **F64, **QUICK)(carry, ins)


class SwappedRNN(linen.Module):
    """The same with our RNN and the same parameters."""

    @linen.compact
    def __call__(self, carry, x):
        rnn = our_linen.RNN(linen.GRUCell(features=H, **F64, **QUICK), time_major=True, return_carry=True)
        return rnn(x[0], initial_carry=carry, resets=x[1])


def test_a_scanned_rnn_swapped_in_one_line():
    """Equal outputs and gradients for any resets, with the same parameters."""
    carry, ins = normal(jnp.zeros((B, H)), "carry"), inputs().swapaxes(0, 1)
    resets = flags((0, 0), (0, 3), (1, 2), (2, 4)).T
    ours, theirs = SwappedRNN(), ScannedRNN()
    shapes = [jax.eval_shape(m.init, KEY, carry, (ins, resets)) for m in (ours, theirs)]
    assert shapes[0] == shapes[1]
    variables = normal(shapes[0], "scanned")

    def loss(module, variables, carry, ins):
        carry, ys = module.apply(variables, carry, (ins, resets))
        return (ys**2).sum() + (carry**3).sum(), (carry, ys)

    results = compiled(
        lambda *args: [jax.value_and_grad(loss, (1, 2, 3), has_aux=True)(m, *args) for m in (ours, theirs)]
    )
    assert_close(*results(variables, carry, ins))


class NnxSubclass(nnx.OptimizedLSTMCell):
    """A subclass: its cell state is bounded, and its output is twice its hidden state."""

    def __call__(self, carry, inputs):
        (c, h), y = super().__call__(carry, inputs)
        return (jnp.clip(c, -0.3, 0.3), h), 2 * y


class NnxRemat(nnx.GRUCell):
    @nnx.remat
    def __call__(self, carry, inputs):
        return super().__call__(carry, inputs)


class NnxOwn(nnx.Module):
    """A cell without a parent class, with random streams that its step does not use."""

    num_feature_axes = 1

    def __init__(self, rngs):
        self.rngs = rngs
        self.order = nnx.Variable(jnp.array([2, 0, 1]))
        self.dense = nnx.Linear(D + H, H, **F64, rngs=rngs)

    def __call__(self, carry, inputs):
        h = jnp.tanh(self.dense(jnp.concatenate([inputs, carry], axis=-1)))
        return h, h[..., self.order[...]]

    def initialize_carry(self, input_shape, rngs=None):
        return jnp.zeros((*input_shape[:-1], H))


class NnxConv(nnx.Module):
    """A recurrent convolution."""

    num_feature_axes = 2

    def __init__(self, rngs):
        self.ih, self.hh = (nnx.Conv(n, H, (2,), **F64, rngs=rngs) for n in (D, H))

    def __call__(self, carry, inputs):
        h = jnp.tanh(self.ih(inputs) + self.hh(carry))
        return h, h

    def initialize_carry(self, input_shape, rngs=None):
        return jnp.zeros((*input_shape[:-1], H))


class NnxDropping(nnx.GRUCell):
    def __init__(self, *args, rngs, **options):
        super().__init__(*args, rngs=rngs, **options)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, carry, inputs):
        carry, y = super().__call__(carry, inputs)
        return carry, self.drop(y)


class NnxPrelu(nnx.Module):
    def __init__(self):
        self.slope = nnx.Param(jnp.array(0.1))

    def __call__(self, x):
        return jnp.where(x > 0, x, self.slope[...] * x)


def changed(**layers):
    """A Flax GRU with modified layers."""
    cell = nnx_cell("gru")
    for name, value in layers.items():
        owner, attribute = name.rsplit("__", 1) if "__" in name else ("", name)
        setattr(getattr(cell, owner) if owner else cell, attribute, value)
    return cell


def dropping(train):
    cell = NnxDropping(D, H, **F64, **QUICK, rngs=nnx.Rngs(0))
    cell.train() if train else cell.eval()
    return cell


NNX: dict[str, tuple[Any, Any]] = {
    "subclass": (lambda: NnxSubclass(D, H, **F64, **QUICK, rngs=nnx.Rngs(0)), None),
    "remat": (lambda: NnxRemat(D, H, **F64, **QUICK, rngs=nnx.Rngs(0)), None),
    "own": (lambda: NnxOwn(nnx.Rngs(0)), None),
    "convolution": (lambda: NnxConv(nnx.Rngs(0)), SIGNALS),
    "a function with parameters": (lambda: nnx_cell("gru", activation_fn=NnxPrelu()), None),
    "a layer with a precision": (lambda: changed(dense_h__precision="highest"), None),
    "another layer": (lambda: changed(dense_i=nnx.LinearGeneral(D, 3 * H, **F64, rngs=nnx.Rngs(0))), None),
    "dropout that is off": (lambda: dropping(train=False), None),
}

NNX_BY_FLAX: dict[str, tuple[Any, dict[str, Any], str]] = {
    "dropout": (lambda: dropping(train=True), {}, r"changes its state \(drop\.rngs\.count\)"),
    "dropout, its stream split": (lambda: dropping(train=True), {"broadcast_rngs": "dropout"}, "broadcast_rngs is"),
}


@pytest.mark.parametrize("name", NNX)
def test_nnx_values_and_gradients(name):
    """In float64 at 1e-12, for rows of different lengths, without a warning; the state is the same as in Flax."""
    cell, x = NNX[name][0], inputs() if NNX[name][1] is None else NNX[name][1]
    modules = [randomised(library.RNN(cell(), return_carry=True)) for library in (our_nnx, nnx)]

    def loss(module, x):
        carry, outputs = module(x, seq_lengths=LENGTHS)
        inside = (np.arange(T) < LENGTHS[:, None]).reshape(B, T, *[1] * (outputs.ndim - 2))
        outputs = jnp.where(inside, outputs, 0)
        return (outputs**2).sum() + sum((leaf**3).sum() for leaf in jax.tree.leaves(carry)), (carry, outputs)

    with warnings.catch_warnings(action="error"):
        got, expected = run(lambda modules, x: [gradients(loss, m, x) for m in modules], modules, x)
    assert_close(got, expected)


@pytest.mark.parametrize("name", NNX_BY_FLAX)
def test_nnx_by_flax_s_own_loop(name):
    """Equal to Flax in consecutive calls, with random streams in the same state."""
    cell, options, reason = NNX_BY_FLAX[name]
    ours, theirs = (randomised(library.RNN(cell(), return_carry=True, **options)) for library in (our_nnx, nnx))
    for _ in range(2):
        with pytest.warns(UserWarning, match=rf"runs NnxDropping in Flax's own loop.*{reason}"):
            got = ours(inputs())
        assert_close(got, theirs(inputs()))
    assert int(ours.cell.drop.rngs.count[...]) == int(theirs.cell.drop.rngs.count[...]) > 0
    with pytest.raises(TypeError, match=rf"`resets` is given, but NnxDropping can only.*{reason}"):
        ours(inputs(), resets=np.zeros((B, T), bool))


def test_an_nnx_cell_of_one_s_own_has_masks_and_resets():
    rnn, kept = randomised(our_nnx.RNN(NnxOwn(nnx.Rngs(0)))), np.array([0, 1, 3, 4])

    def parts(rnn, x):
        masked, cut = rnn(x, mask=~flags((ALL, 2))), rnn(x[:, kept])
        return masked[:, kept], cut, rnn(x, resets=flags((ALL, 3))), rnn(x[:, :3]), rnn(x[:, 3:])

    masked, cut, whole, first, second = run(parts, rnn, inputs())
    assert_close(masked, cut)
    assert_close(whole, jnp.concatenate([first, second], axis=1))


def test_engines_of_any_cell():
    """`engine` and other options work for any cell."""
    modules = [
        randomised(our_nnx.RNN(NnxOwn(nnx.Rngs(0)), **options))
        for options in ({}, {"engine": "scan"}, {"engine": "hoisted", "checkpoint": 2, "chunk": 2})
    ]
    first, *others = each(modules, inputs())
    for other in others:
        assert_close(other, first)
