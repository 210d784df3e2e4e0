"""Errors of the modules, in the caller's terms: no argument of Flax is silently ignored."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeCollectionNotFound

import rnnjax
from tests.flax.cells import (
    NAMES,
    QUICK,
    B,
    D,
    H,
    T,
    carry_of,
    inputs,
    linen,
    linen_cell,
    nnx,
    nnx_cell,
    our_linen,
    our_nnx,
)
from tests.flax.linen_models import variables_of
from tests.registry import assert_close

KEY = jax.random.key(0)


def outputs_of(library, cell="gru", **options):
    """A function of inputs and call arguments, in linen or nnx."""
    if library is our_linen:
        return lambda x, **call: jax.eval_shape(
            lambda: our_linen.RNN(linen_cell(cell), **options).init_with_output(KEY, x, **call)
        )
    return lambda x, **call: jax.eval_shape(lambda: our_nnx.RNN(nnx_cell(cell), **options)(x, **call))


class Centred(linen.GRUCell):
    """A cell whose rows meet."""

    def __call__(self, carry, inputs):
        return super().__call__(carry - carry.mean(0, keepdims=True), inputs)


both_libraries = pytest.mark.parametrize("library", [our_linen, our_nnx], ids=["linen", "nnx"])


def test_what_is_no_cell():
    for other in (object(), linen.Dense(3)):
        with pytest.raises(
            TypeError, match=r"`cell` is a (object|Dense); expected a cell of Flax, such as nn\.GRUCell"
        ):
            our_linen.RNN(other).init(KEY, inputs())
    with pytest.raises(TypeError, match=r"`cell` is a Linear; expected a cell of Flax, such as nnx\.GRUCell"):
        our_nnx.RNN(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    "options",
    [
        {"variable_broadcast": False},
        {"variable_axes": {"params": 0}, "variable_broadcast": False},
        {"variable_carry": "params", "variable_broadcast": False},
        {"split_rngs": {"params": True}},
    ],
    ids=str,
)
def test_linen_lifting_options(options):
    """Such cells run in Flax's loop, which does not support `mask` and the like."""
    with pytest.raises(TypeError, match=r"`mask` is given, but GRUCell can only.*variable_broadcast=.*share them"):
        outputs_of(our_linen, **options)(inputs(), mask=np.ones((B, T), bool))


def test_linen_lifting_options_that_change_nothing():
    outputs_of(our_linen, variable_broadcast=["params", "constants"], split_rngs={"params": False, "dropout": True})(
        inputs()
    )


def test_nnx_state_axes():
    mask = np.ones((B, T), bool)
    with pytest.raises(TypeError, match=r"`mask` is given, .*state_axes puts dense_h\.kernel on axis 0"):
        outputs_of(our_nnx, state_axes=nnx.StateAxes({nnx.Param: 0, ...: None}))(inputs(), mask=mask)
    outputs_of(our_nnx, state_axes=nnx.StateAxes({nnx.Param: None, ...: nnx.Carry}))(inputs(), mask=mask)


def test_nnx_broadcast_rngs():
    with pytest.warns(UserWarning, match="keep_rngs"):
        cell = nnx_cell("gru", keep_rngs=True)
    with pytest.raises(TypeError, match=r"`mask` is given, .*broadcast_rngs"):
        our_nnx.RNN(cell, broadcast_rngs=...)(inputs(), mask=np.ones((B, T), bool))


def test_bidirectional_refuses():
    x = inputs()
    layer = our_linen.Bidirectional(our_linen.RNN(linen_cell("gru")), our_linen.RNN(linen_cell("gru")))
    with pytest.raises(ValueError, match="reverse is True"):
        layer.init(KEY, x, reverse=True)
    with pytest.raises(ValueError, match=r"`initial_carry` is a .*; expected a pair"):
        layer.init(KEY, x, initial_carry=jnp.zeros((B, H)))
    mixed = our_linen.Bidirectional(our_linen.RNN(linen_cell("gru")), linen.RNN(linen_cell("gru")))
    mixed.init(KEY, x)
    with pytest.raises(TypeError, match=r"`backward_rnn` is a flax\.linen\.recurrent\.RNN, which takes neither"):
        mixed.init(KEY, x, mask=np.ones((B, T), bool))
    rnn = our_nnx.RNN(nnx_cell("gru"))
    with pytest.warns(UserWarning, match="share parameters"):
        our_nnx.Bidirectional(rnn, rnn)(x)


@both_libraries
def test_arguments_that_do_not_fit(library):
    run, x = outputs_of(library), inputs()
    with pytest.raises(ValueError, match=r"`mask` is \[5, 3\] but `inputs` is \[3, 5, 2\], batch first .* `mask\.T`"):
        run(x, mask=np.ones((T, B), bool))
    with pytest.raises(ValueError, match=r"`resets` is \[3, 5\] .* time first \(time_major=True\)"):
        run(x.swapaxes(0, 1), resets=np.ones((B, T), bool), time_major=True)
    with pytest.raises(TypeError, match="`mask` is int64; it must be boolean"):
        run(x, mask=np.ones((B, T), int))
    with pytest.raises(ValueError, match=r"`seq_lengths` is \[5\] but .* one length per row, \[3\]"):
        run(x, seq_lengths=np.ones(T, int))
    with pytest.raises(TypeError, match="`seq_lengths` is float64"):
        run(x, seq_lengths=np.ones(B))
    with pytest.raises(ValueError, match=r"`inputs` is \[3\]; expected \[\*batch, T, D\]"):
        run(x[:, 0, 0])
    with pytest.raises(ValueError, match="engine is 'fast'"):
        outputs_of(library, engine="fast")(x)


@both_libraries
def test_carries_that_do_not_fit(library):
    lstm, gru, x = outputs_of(library, "lstm"), outputs_of(library, "gru"), inputs()
    with pytest.raises(ValueError, match=r"`initial_carry` is \[3, 3\], but LSTMCell makes \(\[3, 3\], \[3, 3\]\)"):
        lstm(x, initial_carry=jnp.zeros((B, H)))
    with pytest.raises(ValueError, match=r"is \(\[3, 3\], \[3, 4\]\), but LSTMCell makes \(\[3, 3\], \[3, 3\]\)"):
        lstm(x, initial_carry=(jnp.zeros((B, H)), jnp.zeros((B, H + 1))))
    with pytest.raises(ValueError, match=r"`initial_carry` is \[3\]"):
        gru(x, initial_carry=jnp.zeros(H))


@both_libraries
def test_a_dtype_that_a_step_would_change(library):
    """Raises, as Flax's scan does."""
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(TypeError, match="the carry of SimpleCell is float32 before a step and bf"),
    ):
        if library is our_linen:
            our_linen.RNN(linen_cell("simple", "float32", dtype=jnp.bfloat16)).init(KEY, inputs("float32"))
        else:
            our_nnx.RNN(nnx_cell("simple", "float32", dtype=jnp.bfloat16))(inputs("float32"))


OTHERS = {
    (
        "linen",
        "simple",
        "optimized_lstm",
    ): "a OptimizedLSTMCell of 4 units, but its parameters are those of a SimpleCell",
    ("linen", "simple", "gru"): "a GRUCell of 4 units, but its parameters are those of a SimpleCell",
    ("linen", "gru", "lstm"): "a LSTMCell of 4 units, but its parameters are those of a GRUCell",
    ("linen", "lstm", "simple"): "a SimpleCell of 4 units, but its parameters are those of an LSTMCell or Optimized",
    ("nnx", "simple", "gru"): "a GRUCell of 4 units, but its parameters are those of a SimpleCell",
    ("nnx", "gru", "simple"): "a SimpleCell of 4 units, but its parameters are those of a GRUCell",
}


@pytest.mark.parametrize(("library", "given", "name"), OTHERS)
def test_parameters_of_another_kind_of_cell(library, given, name):
    """Some of them would broadcast with four units."""
    says = rf"`cell` is {OTHERS[library, given, name]}.*recurrent weights \[4, "
    with pytest.raises(ValueError, match=says):
        if library == "linen":
            made = lambda name: getattr(linen, NAMES[name])(4, param_dtype=jnp.float64)  # noqa: E731
            variables = variables_of(linen.RNN(made(given)))
            our_linen.RNN(made(name)).apply(variables, inputs())
        else:
            cell, other = (getattr(nnx, NAMES[n])(D, 4, **QUICK, rngs=nnx.Rngs(0)) for n in (name, given))
            nnx.update(cell, nnx.to_pure_dict(nnx.state(other)))
            our_nnx.RNN(cell)(inputs("float32"))


def test_parameters_of_another_size():
    """Flax's linen cells check the shapes of their parameters."""
    variables = variables_of(our_linen.RNN(linen_cell("gru")))
    with pytest.raises(ValueError, match=r"GRUCell of 4 units, .* those of a GRUCell of 3 units"):
        our_linen.RNN(linen.GRUCell(features=4)).apply(variables, inputs())
    with pytest.raises(
        ValueError, match=r"`inputs` is \[3, 5, 1\], but the parameters of this GRUCell were made for 2"
    ):
        our_linen.RNN(linen_cell("gru")).apply(variables, inputs()[..., :1])
    with pytest.raises(
        ValueError, match=r"`inputs` is \[5, 3, 7\], but the parameters of this GRUCell were made for 2"
    ):
        our_nnx.RNN(nnx_cell("gru"))(jnp.ones((T, B, 7)), time_major=True)


@both_libraries
def test_lengths_beyond_the_steps(library):
    """They are clipped to 0..T, with and without `jit`, in both directions and for any dtype."""
    x, carry = inputs(), carry_of("gru")
    rnn = library.RNN(linen_cell("gru") if library is our_linen else nnx_cell("gru"), return_carry=True)
    variables = variables_of(rnn) if library is our_linen else None

    def run(lengths, **how):
        how |= {"initial_carry": carry}
        return rnn.apply(variables, x, seq_lengths=lengths, **how) if variables else rnn(x, seq_lengths=lengths, **how)

    for how in ({}, {"reverse": True}):
        expected = run(np.array([5, 3, 0]), **how)
        for lengths in (np.array([9, 3, -2]), np.array([2**40, 3, -(2**40)]), np.array([100, 3, -100], "int8")):
            for function in (run, jax.jit(run, static_argnames="reverse")):
                assert_close(function(lengths, **how), expected)


@both_libraries
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_no_steps(library, name):
    """With T = 0 the carry is unchanged, as in Flax, there are no outputs, and parameters are still created."""
    x, carry, lengths = inputs()[:, :0], carry_of(name), np.zeros(B, int)
    rnn = library.RNN(linen_cell(name) if library is our_linen else nnx_cell(name), return_carry=True)
    variables = variables_of(rnn) if library is our_linen else None
    if variables:
        assert jax.eval_shape(rnn.init, KEY, x) == jax.eval_shape(lambda: variables)

    def run(**how):
        how |= {"initial_carry": carry, "seq_lengths": lengths}
        return rnn.apply(variables, x, **how) if variables else rnn(x, **how)

    for how in ({}, {"reverse": True}, {"resets": np.zeros((B, 0), bool), "mask": np.ones((B, 0), bool)}):
        last, outputs = run(**how)
        assert_close(last, carry)
        assert (outputs.shape, outputs.dtype) == ((B, 0, H), jnp.float64)


def test_deeper_errors_speak_of_inputs():
    """Errors of `rnnjax.unroll` use the caller's names, layout and cell."""
    variables, x = variables_of(our_linen.RNN(linen_cell("gru"))), inputs()
    with pytest.raises(ValueError, match=r"for any segments of `inputs` \[3, 5, 2\] in time"):
        our_linen.RNN(linen_cell("gru"), checkpoint=rnnjax.MemoryBudget(10)).apply(variables, x)
    with pytest.raises(rnnjax.NotHoistable, match=r"^Centred cannot be hoisted: .* brings rows together"):
        our_linen.RNN(Centred(H, param_dtype=jnp.float64), engine="hoisted").apply(variables, x)
    mgu, start = our_linen.RNN(linen.MGUCell(H, param_dtype=jnp.float64)), jnp.zeros(H)
    with pytest.raises(
        ValueError, match=r"`initial_carry` is \[3\], but MGUCell makes \[3, 3\] of `inputs` \[3, 5, 2\]"
    ):
        mgu.apply(variables_of(mgu), x, initial_carry=start)
    with pytest.raises(ValueError, match=r"`initial_carry` is \(\[3\],\), but MGUCell makes \[3, 3\] of"):
        mgu.apply(variables_of(mgu), x, initial_carry=(start,))


def test_a_missing_parameter_is_flax_s_own_error():
    with pytest.raises(ScopeCollectionNotFound):
        our_linen.RNN(linen_cell("gru")).apply({"params": {}}, inputs())


def test_import_rnnjax_does_not_import_flax():
    program = "import sys, rnnjax, rnnjax.converters; sys.exit(any(m.split('.')[0] == 'flax' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
