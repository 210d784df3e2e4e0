"""What the modules cannot do they say: nothing that Flax would have heeded is passed over."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeCollectionNotFound

from tests.flax.cells import B, D, H, T, inputs, linen, linen_cell, nnx, nnx_cell, our_linen, our_nnx

KEY = jax.random.key(0)


class Halved(linen.GRUCell):
    """A cell of one's own: its state is halved after every step."""

    def __call__(self, carry, inputs):
        h = super().__call__(carry, inputs)[0] / 2
        return h, h


class Counting(linen.GRUCell):
    """A cell that keeps more than parameters."""

    @linen.compact
    def __call__(self, carry, inputs):
        self.variable("counts", "steps", lambda: jnp.zeros(()))
        return super().__call__(carry, inputs)


class Prelu(nnx.Module):
    def __call__(self, x):
        return x


def outputs_of(library, cell="gru", **options):
    """A function of inputs and call arguments, in linen or nnx."""
    if library is our_linen:
        return lambda x, **call: jax.eval_shape(
            lambda: our_linen.RNN(linen_cell(cell), **options).init_with_output(KEY, x, **call)
        )
    return lambda x, **call: jax.eval_shape(lambda: our_nnx.RNN(nnx_cell(cell), **options)(x, **call))


both_libraries = pytest.mark.parametrize("library", [our_linen, our_nnx], ids=["linen", "nnx"])


@pytest.mark.parametrize(
    "cell",
    [linen.ConvLSTMCell(H, (2,)), object()],
    ids=lambda c: type(c).__name__,
)
def test_another_linen_cell(cell):
    with pytest.raises(
        TypeError, match=r"`cell` is a .*; rnnjax\.flax runs Flax's own OptimizedLSTMCell, LSTMCell.*Keep"
    ):
        our_linen.RNN(cell).init(KEY, inputs())


@pytest.mark.parametrize("cell", [linen.MGUCell, Halved, linen.remat(linen.GRUCell)], ids=lambda cell: cell.__name__)
def test_any_cell_runs_by_its_own_step(cell):
    """A subclass gives its own numbers, not its parent's; parameters are drawn as Flax draws them."""
    cell = cell(H, param_dtype=jnp.dtype("float64"))
    ours, theirs = our_linen.RNN(cell, return_carry=True), linen.RNN(cell, return_carry=True)
    variables = theirs.init(KEY, inputs())
    for a, b in zip(jax.tree.leaves(ours.init(KEY, inputs())), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, b)
    got, right = ours.apply(variables, inputs()), theirs.apply(variables, inputs())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_cell_that_keeps_more_than_parameters():
    with pytest.raises(TypeError, match=r"`cell` is a Counting with the collections \['counts', 'params'\].*Keep"):
        our_linen.RNN(Counting(H, param_dtype=jnp.dtype("float64"))).init(KEY, inputs())


def test_another_nnx_cell():
    with pytest.raises(TypeError, match="`cell` is a Linear"):
        our_nnx.RNN(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


def test_functions_that_hold_parameters():
    with pytest.raises(TypeError, match="`activation_fn` of GRUCell is a PReLU, a module"):
        our_linen.RNN(linen_cell("gru", activation_fn=linen.PReLU())).init(KEY, inputs())
    with pytest.raises(TypeError, match="`gate_fn` of GRUCell is a Prelu, a module"):
        our_nnx.RNN(nnx_cell("gru", gate_fn=Prelu()))


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
    with pytest.raises(ValueError, match=r"variable_broadcast=.*share `params`"):
        outputs_of(our_linen, **options)(inputs())


def test_linen_lifting_options_that_change_nothing():
    outputs_of(our_linen, variable_broadcast=["params", "constants"], split_rngs={"params": False, "dropout": True})(
        inputs()
    )


def test_nnx_state_axes():
    with pytest.raises(ValueError, match=r"state_axes puts dense_h\.kernel on axis 0"):
        outputs_of(our_nnx, state_axes=nnx.StateAxes({nnx.Param: 0, ...: None}))(inputs())
    outputs_of(our_nnx, state_axes=nnx.StateAxes({nnx.Param: None, ...: nnx.Carry}))(inputs())


def test_nnx_broadcast_rngs():
    with pytest.warns(UserWarning, match="keep_rngs"):
        cell = nnx_cell("gru", keep_rngs=True)
    with pytest.raises(ValueError, match="broadcast_rngs"):
        our_nnx.RNN(cell, broadcast_rngs=...)(inputs())


def test_nnx_layers_that_are_no_longer_flax_s():
    def changed(change):
        rnn = our_nnx.RNN(nnx_cell("gru"))
        change(rnn.cell)
        return rnn

    lora = nnx.LoRALinear(D, 3 * H, lora_rank=1, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="`dense_i` of GRUCell is a LoRALinear"):
        changed(lambda cell: setattr(cell, "dense_i", lora))(inputs())
    with pytest.raises(TypeError, match="`dense_h` of GRUCell is with its own precision"):
        changed(lambda cell: setattr(cell.dense_h, "precision", "highest"))(inputs())
    with pytest.raises(TypeError, match="`promote_dtype` of GRUCell"):
        our_nnx.RNN(nnx_cell("gru", promote_dtype=lambda args, **_: args))(inputs())


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
    with pytest.raises(ValueError, match=r"`seq_lengths` is \[5\] but .* one length a row, \[3\]"):
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
    with pytest.raises(ValueError, match=r"an LSTM's carry is a pair \(c, h\)"):
        lstm(x, initial_carry=jnp.zeros((B, H)))
    with pytest.raises(ValueError, match=r"\(h\) is \[3, 4\] .* the cell has 3 units; expected \[3, 3\]"):
        lstm(x, initial_carry=(jnp.zeros((B, H)), jnp.zeros((B, H + 1))))
    with pytest.raises(ValueError, match=r"`initial_carry` is \[3\]"):
        gru(x, initial_carry=jnp.zeros(H))


@both_libraries
def test_a_dtype_that_a_step_would_change(library):
    """As in Flax, where the scan complains."""
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(TypeError, match="the carry starts in float32 but a step"),
    ):
        if library is our_linen:
            our_linen.RNN(linen_cell("simple", "float32", dtype=jnp.bfloat16)).init(KEY, inputs("float32"))
        else:
            our_nnx.RNN(nnx_cell("simple", "float32", dtype=jnp.bfloat16))(inputs("float32"))


def test_parameters_of_another_size():
    """Flax's linen cells check the shapes of what they are given."""
    variables = jax.eval_shape(our_linen.RNN(linen_cell("gru")).init, KEY, inputs())
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
    with pytest.raises(ValueError, match=r"recurrent weights are \[3, 9\], but the cell has 4 units"):
        our_linen.RNN(linen.GRUCell(features=4)).apply(variables, inputs())


def test_a_missing_parameter_is_flax_s_own_error():
    with pytest.raises(ScopeCollectionNotFound):
        our_linen.RNN(linen_cell("gru")).apply({"params": {}}, inputs())


def test_import_rnnjax_does_not_import_flax():
    program = "import sys, rnnjax, rnnjax.converters; sys.exit(any(m.split('.')[0] == 'flax' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
