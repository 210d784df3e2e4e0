"""Properties of every cell: a hashable value with pure methods, and a step that treats rows independently."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.custom_cells import Leaky
from tests.registry import (
    CELLS,
    PLAIN,
    WITH_FUNCTIONS,
    B,
    D,
    assert_close,
    assert_identical,
    every_cell,
    every_plain_cell,
    sample,
)

BUILT_IN = [name for name in PLAIN if isinstance(CELLS[name], WITH_FUNCTIONS)]


@every_plain_cell
def test_a_step_takes_every_row_alone(name):
    """No, one and two batch axes give the same numbers."""
    cell, (params, carry, xs) = CELLS[name], sample(name)
    new_carry, y = cell.step(params, carry, xs[0])
    for b in range(B):
        got = cell.step(params, jax.tree.map(lambda leaf, b=b: leaf[b], carry), xs[0, b])
        assert_close(got, jax.tree.map(lambda leaf, b=b: leaf[b], (new_carry, y)))
    got = cell.step(params, jax.tree.map(lambda leaf: leaf[None], carry), xs[:1])
    assert_close(got, jax.tree.map(lambda leaf: leaf[None], (new_carry, y)))


@every_plain_cell
def test_vmap_over_rows_is_the_batch(name):
    cell, (params, carry, xs) = CELLS[name], sample(name)
    rows = jax.vmap(lambda c, x: cell.step(params, c, x))(carry, xs[0])
    assert_close(rows, cell.step(params, carry, xs[0]))


@every_plain_cell
def test_jit_is_eager(name):
    cell, (params, carry, xs) = CELLS[name], sample(name)
    assert_close(jax.jit(cell.step)(params, carry, xs[0]), cell.step(params, carry, xs[0]))


@every_plain_cell
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_step_preserves_the_dtype(name, dtype):
    params, carry, xs = sample(name, dtype)
    for leaf in jax.tree.leaves(jax.eval_shape(CELLS[name].step, params, carry, xs[0])):
        assert leaf.dtype == dtype


@every_cell
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_init_draws_the_dtype_asked_for(name, dtype):
    """The dtype of parameters and carry; composites pass it on."""
    cell = CELLS[name]
    params = jax.eval_shape(lambda key: cell.init(key, D, dtype), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (2, 3)), params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, carry))} == {dtype}


@every_cell
def test_initial_carry_has_the_batch_axes(name):
    """Every leaf is `[*batch, ...]`, and each row equals the carry without batch axes."""
    params = sample(name).params
    one = CELLS[name].initial_carry(params)
    batch = CELLS[name].initial_carry(params, (4, 2))
    assert_identical(batch, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, 2, *leaf.shape)), one))


def test_init_is_a_function_of_the_key():
    """Equal keys draw equal parameters, different keys different ones, except for biases, which are not random."""
    cell = rnnjax.Stack((rnnjax.LSTM(6), rnnjax.GRU(6), rnnjax.Elman(6)))
    first, again, other = (cell.init(jax.random.key(k), 6) for k in (0, 0, 1))
    assert_identical(first, again)
    for (path, a), (_, b) in zip(*map(jax.tree.leaves_with_path, (first, other)), strict=True):
        assert np.array_equal(a, b) == jax.tree_util.keystr(path).rsplit(".", 1)[-1].startswith("b")


@every_cell
def test_a_cell_is_a_value(name):
    """Frozen, hashable, equal by value, and without arrays, as needed for a static argument or a config file."""
    cell = CELLS[name]
    twin = dataclasses.replace(cell)
    assert twin is not cell and twin == cell and hash(twin) == hash(cell)
    field = dataclasses.fields(cell)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cell, field, None)
    assert not any(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(dataclasses.astuple(cell)))
    assert len({cell, twin}) == 1 and all(cell != other for key, other in CELLS.items() if key != name)


@pytest.mark.parametrize("name", [name for name in CELLS if not isinstance(CELLS[name], rnnjax.StepCell)])
def test_the_repr_is_the_architecture(name):
    """Evaluating the repr gives an equal cell, also for nested cells."""
    names = {
        "Leaky": Leaky,
        **{n: getattr(rnnjax, n) for n in rnnjax.__all__},
        **vars(rnnjax.cells),
        **vars(rnnjax.initializers),
    }
    assert eval(repr(CELLS[name]), names) == CELLS[name]


@pytest.mark.parametrize("name", BUILT_IN)
def test_methods_are_the_module_functions(name):
    """`cell.step` equals the function, such as `lstm_step`."""
    cell, (params, carry, xs) = CELLS[name], sample(name)
    prefix = {"LSTMProjected": "lstm_projected"}.get(type(cell).__name__, type(cell).__name__.lower())
    init, initial_carry, step = (getattr(rnnjax, f"{prefix}_{part}") for part in ("init", "initial_carry", "step"))
    activation = (cell.activation,) if prefix == "elman" else ()
    sizes = [value for name, value in vars(cell).items() if name.endswith("_size")]
    key = jax.random.key(0)
    assert_identical(init(key, D, *sizes), cell.init(key, D))
    assert_identical(initial_carry(params, (B,)), cell.initial_carry(params, (B,)))
    assert_identical(step(params, carry, xs[0], *activation), cell.step(params, carry, xs[0]))


@pytest.mark.parametrize("name", BUILT_IN)
def test_module_functions_go_into_a_scan_of_ones_own(name):
    """`jax.lax.scan(functools.partial(rnnjax.lstm_step, params), carry, xs)`, as in the README."""
    cell, (params, carry, xs) = CELLS[name], sample(name)

    def step(carry, x):
        return cell.step(params, carry, x)

    assert_close(jax.lax.scan(step, carry, xs), rnnjax.unroll(cell, params, xs, carry=carry, engine="loop"))


@every_plain_cell
def test_a_zero_input_is_finite(name):
    """Values and derivatives are finite at x = 0, the input of masked steps."""
    cell, (params, carry, xs) = CELLS[name], sample(name)
    outputs, pullback = jax.vjp(cell.step, params, carry, jnp.zeros_like(xs[0]))
    for leaf in jax.tree.leaves((outputs, pullback(outputs))):
        assert np.isfinite(leaf).all()
