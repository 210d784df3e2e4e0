"""nnx: the same states, outputs and gradients as Flax's RNN, and features that it lacks."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.flax.cells import (
    FUNCTIONS,
    LENGTHS,
    B,
    H,
    carry_of,
    compiled,
    every_cell,
    every_function,
    flags,
    inputs,
    nnx,
    nnx_cell,
    noisy,
    our_nnx,
    valid,
    weights_of,
)
from tests.registry import assert_close, assert_identical

ALL = slice(None)


class Model(nnx.Module):
    """A small model; `library` is nnx or ours."""

    def __init__(self, library, name, **options):
        rngs = nnx.Rngs(1)
        self.rnn = library.RNN(nnx_cell(name, **options), rngs=rngs)
        self.encoder = library.Bidirectional(*(library.RNN(nnx_cell("gru", seed=seed)) for seed in (2, 3)))
        self.readout = nnx.Linear(H, 1, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x, **options):
        return self.readout(self.rnn(x, **options)), self.encoder(x, **options)


def params_of(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def randomised(module):
    """The module with random parameters, since initial biases are zero."""
    nnx.update(module, noisy(params_of(module)))
    return module


def pair(name, cell=None, **options):
    """Ours and Flax's, with the same random parameters."""
    return [randomised(library.RNN(nnx_cell(name, **(cell or {})), **options)) for library in (our_nnx, nnx)]


def run(function, modules, *args):
    """`function(modules, *args)`, compiled, without changing the modules."""
    graph, state = nnx.split(modules)
    return compiled(lambda state, *args: function(nnx.merge(graph, state), *args))(state, *args)


def each(modules, *args, **options):
    """The results of each module for these arguments."""
    return run(lambda modules, *args: [m(*args, **options) for m in modules], modules, *args)


def gradients(function, module, *args):
    """`((value, auxiliary), gradients)` of `function(module, *args)` with respect to all of them."""
    of_all = nnx.value_and_grad(function, argnums=tuple(range(len(args) + 1)), has_aux=True)
    value, (of_module, *others) = of_all(module, *args)
    return value, (nnx.to_pure_dict(of_module), *others)


@every_cell
def test_the_same_state(name):
    """Equal names, shapes, dtypes and values for the same seed, including random streams."""

    def arrays(model):
        leaves = nnx.to_flat_state(nnx.state(model))
        keys = {path: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for path, leaf in leaves}
        return {
            ".".join(map(str, path)): jax.random.key_data(leaf[...]) if keys[path] else leaf[...]
            for path, leaf in leaves
        }

    assert_identical(*(arrays(Model(library, name)) for library in (our_nnx, nnx)))


@every_cell
def test_values_and_gradients(name):
    """In float64 at 1e-12, for rows of different lengths, without the outputs in the padding."""
    carry_weights, weights = weights_of(name)

    def weighted(module, x, carry):
        carry, outputs = module(x, initial_carry=carry, seq_lengths=LENGTHS, return_carry=True)
        total = jax.tree.map(lambda w, y: (w * y).sum(), (carry_weights, valid(weights)), (carry, outputs))
        return sum(jax.tree.leaves(total)), (carry, outputs)

    def both(modules, x, carry):
        return [gradients(weighted, module, x, carry) for module in modules]

    ((_, outputs), got), ((_, expected), expected_gradients) = run(both, pair(name), inputs(), carry_of(name))
    assert_close(outputs, (expected[0], valid(expected[1])))
    assert_identical(outputs[1], valid(outputs[1]))
    assert_close(got, expected_gradients)


def test_float32():
    got, expected = each(pair("optimized_lstm", {"param_dtype": "float32"}), inputs("float32"))
    assert got.dtype == jnp.float32
    assert_close(got, expected, 1e-6)


def test_call_conventions():
    """Every combination of the options, as arguments of `__init__` and of the call."""
    cases = [
        ({"time_major": major, "reverse": reverse, "keep_order": keep, "return_carry": True}, lengths)
        for major in (False, True)
        for reverse, keep in [(False, False), (True, False), (True, True)]
        for lengths in (None, LENGTHS)
    ]
    modules = [[*pair("optimized_lstm", **chosen), pair("optimized_lstm")[0]] for chosen, _ in cases]

    def everything(modules, x):
        results = []
        for (ours, theirs, usual), (chosen, lengths) in zip(modules, cases, strict=True):
            turned = x.swapaxes(0, 1) if chosen["time_major"] else x
            fields = [m(turned, seq_lengths=lengths) for m in (ours, theirs)]
            results.append((*fields, usual(turned, seq_lengths=lengths, **chosen)))
        return results

    for (chosen, lengths), ((carry, ys), (expected_carry, expected), given) in zip(
        cases, run(everything, modules, inputs()), strict=True
    ):
        assert_identical(given, (carry, ys))
        assert_close(carry, expected_carry)
        if chosen["time_major"]:
            ys, expected = ys.swapaxes(0, 1), expected.swapaxes(0, 1)
        assert_close(ys, expected if lengths is None else valid(expected))


@every_function
def test_functions_of_a_cell(name):
    """`gate_fn`, `activation_fn` and `residual` are supported."""
    cell, functions = FUNCTIONS[name]
    got, expected, usual = each([*pair(cell, functions), pair(cell)[0]], inputs())
    assert_close(got, expected)
    assert not np.allclose(got, usual)


def test_the_stream_of_random_numbers_moves_on_as_it_does_in_flax():
    """A random initial carry differs between calls, and uses the same keys as Flax."""
    with pytest.warns(UserWarning, match="carry_init"):
        modules = pair("gru", {"carry_init": nnx.initializers.normal(1.0)})

    def twice(modules, x):
        outputs = [[m(x), m(x), m(x, rngs=nnx.Rngs(carry=5))] for m in modules]
        return outputs, [m.rngs.count[...] for m in modules]

    (got, expected), (count, expected_count) = run(twice, modules, inputs())
    assert_close(got, expected)
    assert not np.allclose(got[0], got[1])
    assert int(count) == int(expected_count) == 2


@pytest.mark.parametrize("drawn", [False, True])
def test_mask_and_resets(drawn):
    """A masked step equals a sequence without it; a reset equals two rows that start from the initial carry."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        options = {"carry_init": nnx.initializers.normal(1.0)} if drawn else {}
        ours, _ = pair("optimized_lstm", options, return_carry=True)
    kept = np.array([0, 1, 3, 4])

    def parts(rnn, x, carry):
        rngs = nnx.Rngs(carry=5)
        masked, cut = rnn(x, mask=~flags((ALL, 2)), initial_carry=carry), rnn(x[:, kept], initial_carry=carry)
        whole = rnn(x, resets=flags((ALL, 3)), initial_carry=carry, rngs=rngs)
        return masked, cut, whole, rnn(x[:, :3], initial_carry=carry), rnn(x[:, 3:], rngs=nnx.Rngs(carry=5))

    (carry, outputs), cut, whole, first, second = run(parts, ours, inputs(), carry_of("lstm"))
    assert_close((carry, outputs[:, kept]), cut)
    assert not outputs[:, 2].any()
    assert_close(whole, (second[0], jnp.concatenate([first[1], second[1]], axis=1)))


def test_bidirectional():
    """Padding, carries and `merge_fn` as in Flax; resets give the same episodes in both directions."""
    ours, theirs = (
        randomised(
            library.Bidirectional(*(library.RNN(nnx_cell(n)) for n in ("gru", "lstm")), merge_fn=lambda a, b: a - 2 * b)
        )
        for library in (our_nnx, nnx)
    )
    options = {"seq_lengths": LENGTHS, "return_carry": True}
    got, expected = each([ours, theirs], inputs(), initial_carry=(carry_of("gru"), carry_of("lstm")), **options)
    assert_close(got, (expected[0], valid(expected[1])))
    kept = np.array([0, 1, 3, 4])

    def parts(layer, x):
        first, second = layer(x[:, :3], seq_lengths=np.minimum(LENGTHS, 3)), layer(x[:, 3:])
        whole = layer(x, seq_lengths=LENGTHS, resets=flags((ALL, 3)))
        return whole, jnp.concatenate([first, second], axis=1), layer(x, mask=~flags((ALL, 2))), layer(x[:, kept])

    whole, expected, masked, cut = run(parts, ours, inputs())
    assert_close(whole, valid(expected))
    assert_close(masked[:, kept], cut)


def test_bidirectional_draws_its_carries_as_flax_does():
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        layers = [
            library.Bidirectional(
                *(library.RNN(nnx_cell("gru", carry_init=nnx.initializers.normal(1.0))) for _ in range(2))
            )
            for library in (our_nnx, nnx)
        ]
    assert_close(*run(lambda layers, x: [[m(x), m(x, rngs=nnx.Rngs(carry=5))] for m in layers], layers, inputs()))


def test_mixed_precision():
    """With matmuls in bfloat16 and the carry in float32, results equal Flax's up to the last bits of bfloat16."""
    with jax.numpy_dtype_promotion("standard"):
        modules = pair("lstm", {"param_dtype": "float32", "dtype": jnp.bfloat16}, return_carry=True)
        got, expected = each(modules, inputs("float32"))
    assert jax.tree.map(lambda a: a.dtype, got) == jax.tree.map(lambda a: a.dtype, expected)
    assert_close(got, expected, 2e-2)


def test_one_line_swap_loads_the_old_state_and_trains_the_same():
    """A checkpoint of Flax's model loads into the model with our RNN, which has the same loss and gradients."""
    theirs = randomised(Model(nnx, "optimized_lstm"))
    saved = jax.tree.map(np.asarray, params_of(theirs))
    ours = Model(our_nnx, "optimized_lstm")
    nnx.update(ours, saved)
    assert_identical(jax.tree.map(np.asarray, params_of(ours)), saved)

    def loss(model, x):
        outputs = model(x, seq_lengths=LENGTHS)
        return sum(jnp.mean(valid(part) ** 2) for part in outputs), ()

    assert_close(*run(lambda modules, x: [gradients(loss, m, x) for m in modules], [ours, theirs], inputs()))


def test_nnx_s_own_transforms():
    """`nnx.jit` and `nnx.grad` handle the module like Flax's, and its state advances."""
    ours, theirs = pair("gru")
    gradient, expected = (nnx.jit(nnx.grad(lambda m, x: (m(x) ** 2).sum()))(m, inputs()) for m in (ours, theirs))
    assert_close(nnx.to_pure_dict(gradient), nnx.to_pure_dict(expected))
    assert int(ours.rngs.count[...]) == int(theirs.rngs.count[...])


@pytest.mark.parametrize("options", [{"engine": "loop"}, {"engine": "hoisted", "chunk": 2}, {"checkpoint": 2}], ids=str)
def test_options_of_unroll(options):
    """Options reach `rnnjax.unroll` and do not change the results."""
    plain, _ = pair("gru")
    ours = randomised(our_nnx.RNN(nnx_cell("gru"), **options))
    assert_close(*each([plain, ours], inputs()))

    def program(module):
        graph, state = nnx.split(module)

        def total(x):
            own = jax.tree.map(lambda leaf: leaf, state)  # variables of this trace, not of the one outside
            return nnx.merge(graph, own)(x).sum()

        return str(jax.make_jaxpr(jax.grad(total))(inputs()))

    assert program(plain) != program(ours)
    with pytest.raises(ValueError, match="engine"):
        our_nnx.RNN(nnx_cell("gru"), engine="fast")(jnp.ones((B, 1, 2)))
