"""linen: features that Flax's RNN lacks, and dtypes."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.flax.cells import (
    KEY,
    LENGTHS,
    B,
    T,
    carry_of,
    compiled,
    flags,
    inputs,
    linen,
    linen_cell,
    our_linen,
    valid,
    weights_of,
)
from tests.flax.linen_models import pulled, variables_of
from tests.registry import assert_close, assert_identical

ALL = slice(None)


def test_mask():
    """A masked step equals a sequence without it; flags have the layout of the inputs."""
    rnn = our_linen.RNN(linen_cell("gru"), return_carry=True)
    mask, kept = ~flags((ALL, 2)), np.array([0, 1, 3, 4])

    @compiled
    def run(variables, x):
        masked = rnn.apply(variables, x, mask=mask)
        turned = rnn.apply(variables, x.swapaxes(0, 1), mask=mask.T, time_major=True)
        return masked, turned, rnn.apply(variables, x[:, kept])

    (carry, outputs), turned, expected = run(variables_of(rnn), inputs())
    assert_close((carry, outputs[:, kept]), expected)
    assert not outputs[:, 2].any()
    assert_close(turned, (carry, outputs.swapaxes(0, 1)))


@pytest.mark.parametrize("drawn", [False, True])
def test_resets(drawn):
    """A reset equals two rows, the second of which starts from the cell's initial carry, random or zero."""
    chosen = {"carry_init": linen.initializers.normal(1.0)} if drawn else {}
    rnn = our_linen.RNN(linen_cell("optimized_lstm", **chosen), return_carry=True)

    @compiled
    def run(variables, x, carry):
        got = rnn.apply(variables, x, initial_carry=carry, resets=flags((ALL, 3)), init_key=KEY)
        first = rnn.apply(variables, x[:, :3], initial_carry=carry)
        return got, first, rnn.apply(variables, x[:, 3:], init_key=KEY)

    (carry, outputs), first, second = run(variables_of(rnn), inputs(), carry_of("lstm"))
    assert_close(outputs, jnp.concatenate([first[1], second[1]], axis=1))
    assert_close(carry, second[0])


def test_resets_both_ways_are_the_same_episodes():
    """No state crosses a boundary in either direction; a reset after a row's end has no effect."""
    layer = our_linen.Bidirectional(our_linen.RNN(linen_cell("gru")), our_linen.RNN(linen_cell("simple")))
    resets = flags((ALL, 3))
    # the one row that reaches the boundary has no carry of its own, so that its second half can be run alone
    carry = (carry_of("gru").at[0].set(0), carry_of("simple").at[0].set(0))

    @compiled
    def run(variables, x):
        options = {"initial_carry": carry, "seq_lengths": LENGTHS}
        got = layer.apply(variables, x, resets=resets, **options)
        turned = layer.apply(variables, x.swapaxes(0, 1), resets=resets.T, time_major=True, **options)
        first = layer.apply(variables, x[:, :3], seq_lengths=np.minimum(LENGTHS, 3), initial_carry=carry)
        second = layer.apply(variables, x[:, 3:])
        return got, turned.swapaxes(0, 1), jnp.concatenate([first, second], axis=1)

    got, turned, expected = run(variables_of(layer), inputs())
    assert_close(got, valid(expected))
    assert_close(turned, got)


def test_mask_both_ways():
    """A masked step equals a sequence without it, in both directions."""
    layer, kept = our_linen.Bidirectional(*(our_linen.RNN(linen_cell("gru")) for _ in range(2))), np.array([0, 1, 3, 4])
    run = compiled(lambda v, x: (layer.apply(v, x, mask=~flags((ALL, 2))), layer.apply(v, x[:, kept])))
    masked, cut = run(variables_of(layer), inputs())
    assert_close(masked[:, kept], cut)


def test_padding_is_inert():
    """NaN in padding affects no output and no gradient, and a row of length 0 keeps its carry."""
    rnn = our_linen.RNN(linen_cell("optimized_lstm"), return_carry=True)
    lengths, carry = np.array([5, 3, 0]), carry_of("lstm")
    run = compiled(lambda *args: pulled(rnn, weights_of("lstm"), *args, seq_lengths=lengths))
    got = run(variables_of(rnn), inputs(), carry)
    dirty = jnp.where(valid(jnp.ones((B, T, 1)), lengths) == 1, inputs(), jnp.nan)
    assert_identical(run(variables_of(rnn), dirty, carry), got)
    assert_identical(jax.tree.map(lambda leaf: leaf[2], got[0][0]), jax.tree.map(lambda leaf: leaf[2], carry))


def test_mixed_precision():
    """With matmuls in bfloat16 and the carry in float32, results equal Flax's up to the last bits of bfloat16."""
    cell = linen_cell("gru", "float32", dtype=jnp.bfloat16)
    modules = [library.RNN(cell, return_carry=True) for library in (our_linen, linen)]
    x, carry = inputs("float32"), carry_of("gru", "float32")
    with jax.numpy_dtype_promotion("standard"):
        variables = variables_of(modules[1], x)
        got, expected = compiled(lambda *args: [pulled(m, weights_of("gru"), *args) for m in modules])(
            variables, x, carry
        )
        program = str(jax.make_jaxpr(modules[0].apply)(variables, x))
    assert jax.tree.map(lambda a: a.dtype, got) == jax.tree.map(lambda a: a.dtype, expected)
    assert_close(got, expected, 5e-2)
    matmuls = [line for line in program.splitlines() if "= dot_general" in line]
    assert matmuls and all(":bf16[" in line for line in matmuls)


def test_dtypes_are_inferred_as_flax_does():
    """Half-precision parameters keep their dtype, and integer inputs are promoted."""
    half, whole = (linen_cell("gru", dtype) for dtype in ("bfloat16", "float64"))
    x = inputs("bfloat16")
    with jax.numpy_dtype_promotion("standard"):
        cases = [(half, x), (whole, jnp.ones((B, T, 2), "int32"))]
        variables = [variables_of(linen.RNN(cell), x) for cell, x in cases]
        run = compiled(
            lambda variables: [
                [library.RNN(cell).apply(v, x) for library in (our_linen, linen)]
                for v, (cell, x) in zip(variables, cases, strict=True)
            ]
        )
        (got, expected), promoted = run(variables)
    assert got.dtype == expected.dtype == jnp.bfloat16
    assert_close(got.astype("float32"), expected.astype("float32"), 5e-2)
    assert_close(*promoted)


def test_resets_in_another_dtype_than_the_cell_s_own_carry():
    """A reset returns to the cell's initial carry, in the dtype of the given one."""
    rnn = our_linen.RNN(linen_cell("simple", "float32", dtype=jnp.bfloat16), return_carry=True)
    x, carry = inputs("float32"), carry_of("simple", "bfloat16")
    with jax.numpy_dtype_promotion("standard"):
        results = jax.eval_shape(
            lambda: rnn.init_with_output(KEY, x, initial_carry=carry, resets=flags((ALL, 3))),
        )[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(results)} == {"bfloat16"}


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "loop"},
        {"engine": "scan", "unroll": 5},
        {"engine": "hoisted", "chunk": 2},
        {"checkpoint": 2},
        {"checkpoint": rnnjax.MemoryBudget(3000)},
    ],
    ids=str,
)
def test_options_of_unroll(options):
    """Options reach `rnnjax.unroll` and do not change the results."""
    less = dict(list(options.items())[:-1])  # all but the one that is tested
    plain, ours = (our_linen.RNN(linen_cell("gru"), **chosen) for chosen in (less, options))
    variables = variables_of(plain)
    assert_close(*compiled(lambda v, x: [m.apply(v, x) for m in (plain, ours)])(variables, inputs()))
    programs = [
        str(jax.make_jaxpr(jax.grad(lambda v, m=m: m.apply(v, inputs()).sum()))(variables)) for m in (plain, ours)
    ]
    assert programs[0] != programs[1]


def test_any_number_of_batch_axes():
    rnn = our_linen.RNN(linen_cell("gru"))
    run = compiled(
        lambda v, x: (rnn.apply(v, x), rnn.apply(v, x[0]), rnn.apply(v, x[None], seq_lengths=np.full((1, B), T)))
    )
    got, row, more = run(variables_of(rnn), inputs())
    assert_close(row, got[0])
    assert_close(more, got[None])


def test_lowers_for_every_platform():
    """Exports a gradient with symbolic batch and time, for other platforms."""
    layer = our_linen.Bidirectional(our_linen.RNN(linen_cell("lstm")), our_linen.RNN(linen_cell("gru")))
    batch, steps = jax.export.symbolic_shape("batch, steps", constraints=["batch >= 1", "steps >= 1"])
    variables = jax.eval_shape(layer.init, KEY, inputs())
    shapes = [((batch, steps, 2), "float64"), ((batch,), "int32"), ((batch, steps), "bool")]
    gradient = jax.jit(
        jax.grad(lambda v, x, lengths, resets: layer.apply(v, x, seq_lengths=lengths, resets=resets).sum())
    )
    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = jax.export.export(gradient, platforms=platforms)(
        variables, *(jax.ShapeDtypeStruct(*shape) for shape in shapes)
    )
    assert exported.platforms == platforms
