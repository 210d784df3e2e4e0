"""Every public function and its gradient lower for CPU, CUDA, ROCm and TPU, with symbolic batch and time.

`jax.export` runs each platform's lowering rules without the platform. Shape checks that compare or branch on a symbolic
dimension fail here.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import rnnjax
from rnnjax import gradients, initializers, numerics, online
from tests.registry import CAUSAL, CELLS, LINEAR, PLAIN, D, assert_close, features, normal

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

BATCH, STEPS = export.symbolic_shape("b, 4*t")
"""Any number of rows, and any multiple of four steps, which segments of two or four divide."""

KEY = jax.eval_shape(lambda: jax.random.key(0))


def lowers(function, *args, platforms=PLATFORMS):
    """The exported program, which holds all the platforms."""
    exported = export.export(jax.jit(function), platforms=platforms)(*args)
    assert exported.platforms == platforms
    return exported


def value_and_gradient(function):
    """The value and gradient of the sum of squares of all results of `function`, for all its arguments."""

    def loss(*args):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(function(*args)))

    def both(*args):
        return jax.value_and_grad(loss, argnums=tuple(range(len(args))))(*args)

    return both


def shapes(name, steps: Any = STEPS, batch: Any = BATCH):
    """`(params, carry, xs)` of a registry cell."""
    cell = CELLS[name]
    params = jax.eval_shape(lambda key: cell.init(key, D), KEY)
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (batch,)), params)
    return params, carry, jax.ShapeDtypeStruct((steps, batch, *features(cell)), "float64")


def times(steps: Any = STEPS, batch: Any = BATCH):
    flags = jax.ShapeDtypeStruct((steps, batch), "bool")
    return {"lengths": jax.ShapeDtypeStruct((batch,), "int32"), "mask": flags, "resets": flags}


def unrolled(name, timed=None, **options):
    return value_and_gradient(lambda p, c, xs: rnnjax.unroll(CELLS[name], p, xs, carry=c, **(timed or {}), **options))


@pytest.mark.parametrize("name", CAUSAL)
def test_step(name):
    params, carry, xs = shapes(name)
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    lowers(value_and_gradient(CELLS[name].step), params, carry, x)


FUNCTIONS = {"elman": (3,), "lstm": (3,), "gru": (3,), "lstm_projected": (3, 2)}
"""The sizes that each family's `init` takes besides the input size."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_arrays(name):
    """`lstm_init`, `lstm_initial_carry`, `lstm_step` and their like."""
    init, initial_carry, step = (getattr(rnnjax, f"{name}_{part}") for part in PARTS)
    lowers(lambda key: init(key, D, *FUNCTIONS[name]), KEY)

    def whole(params, x):
        return step(params, initial_carry(params, x.shape[:-1]), x)

    params = jax.eval_shape(lambda key: init(key, D, *FUNCTIONS[name]), KEY)
    lowers(value_and_gradient(whole), params, jax.ShapeDtypeStruct((BATCH, D), "float64"))


def test_one_step_over_the_contract():
    """`rnnjax.step`, with mask and resets."""
    params, carry, xs = shapes("lstm")
    flags = jax.ShapeDtypeStruct((BATCH,), "bool")

    def run(params, carry, x, mask, resets):
        return value_and_gradient(lambda p, c, x: rnnjax.step(CELLS["lstm"], p, c, x, mask=mask, resets=resets))(
            params, carry, x
        )

    lowers(run, params, carry, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype), flags, flags)


ENGINES = {
    "scan": {"engine": "scan"},
    "hoisted": {"engine": "hoisted"},
    "checkpoint": {"engine": "scan", "checkpoint": 4},
    "hoisted_checkpoint_chunk": {"engine": "hoisted", "checkpoint": 4, "chunk": 2},
    "reverse": {"engine": "hoisted", "reverse": True},
    "carries": {"engine": "hoisted", "carries": True},
    "unroll_2": {"engine": "scan", "unroll": 2},
}


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_unroll_on_every_engine(options):
    """With lengths, mask and resets, and symbolic batch and time."""
    args = shapes("lstm")
    lowers(lambda args, timed: unrolled("lstm", timed, **options)(*args), args, times())


@pytest.mark.parametrize("name", LINEAR)
def test_unroll_by_an_associative_scan(name):
    """It needs a known T."""
    args = shapes(name, steps=5, batch=2)
    lowers(lambda args, timed: unrolled(name, timed, engine="associative")(*args), args, times(steps=5, batch=2))


@pytest.mark.parametrize("above", ["scan", "value"])
def test_unroll_by_newtons_method(above):
    """It needs a known T."""
    args = shapes("lstm", steps=5, batch=2)
    engine = rnnjax.Parallel(above=above)
    lowers(lambda args, timed: unrolled("lstm", timed, engine=engine)(*args), args, times(steps=5, batch=2))


def test_what_raises_from_values_cannot_be_exported():
    """It calls Python, which JAX does not export."""
    args = shapes("elman_tanh", steps=5, batch=2)
    with pytest.raises(NotImplementedError, match="callback"):
        lowers(unrolled("elman_tanh", engine="parallel"), *args)


def test_newtons_method_with_a_report():
    params, carry, xs = shapes("lstm", steps=5, batch=2)
    lowers(lambda p, c, xs: rnnjax.parallel.solve(CELLS["lstm"], p, xs, carry=c, certify=False), params, carry, xs)


def test_unroll_in_python():
    """The loop engine needs a known T; the batch may be symbolic."""
    args = shapes("elman_tanh", steps=3)
    lowers(lambda args, timed: unrolled("elman_tanh", timed, engine="loop")(*args), args, times(steps=3))


@pytest.mark.parametrize("name", [name for name in CELLS if name not in ("lstm", "elman_linear", "elman_relu")])
def test_unroll_of_every_cell(name):
    lowers(unrolled(name), *shapes(name))


@pytest.mark.parametrize("checkpoint", ["sqrt", rnnjax.MemoryBudget(3000)], ids=str)
def test_policies_that_need_to_know_the_size(checkpoint):
    """ "sqrt" needs a known T, and a budget also a known batch; the program is then for that size."""
    lowers(unrolled("gru", checkpoint=checkpoint), *shapes("gru", steps=11, batch=2))
    with pytest.raises(ValueError, match=r"symbol|needs numbers"):
        lowers(unrolled("gru", checkpoint=checkpoint), *shapes("gru"))


def test_segments_of_an_open_time_leave_no_step_over():
    with pytest.raises(ValueError, match=r"T is 4\*t, a symbol not known to be a multiple of 3: call it 3 \* t"):
        lowers(unrolled("gru", checkpoint=3), *shapes("gru"))


def test_explain_leaves_the_batch_open():
    """Engines do not depend on sizes; FLOPs and bytes are symbolic in b."""
    params, carry, xs = shapes("lstm", steps=8)
    plan = rnnjax.explain(CELLS["lstm"], params, xs, carry=carry)
    assert plan.layers[0].engine == "hoisted"
    assert plan.forward_flops == 2 * 8 * (D + 3) * 4 * 3 * BATCH


def test_second_derivatives():
    gradient = unrolled("custom", engine="hoisted")
    lowers(lambda *args: jax.jvp(gradient, args, args)[1], *shapes("custom"))


INSTRUMENTS = [
    gradients.adjoint,
    gradients.adjoint_by_perturbation,
    gradients.attribution,
    gradients.norm_ratios,
    gradients.omega,
]


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda f: f.__name__)
def test_the_gradient_instrument(instrument):
    def measured(params, carry, xs, timed):
        return instrument(CELLS["lstm"], params, xs, lambda ys: (ys**2).sum(), carry=carry, **timed)

    lowers(measured, *shapes("lstm"), times())


OF_GIVEN_LENGTH = [
    functools.partial(gradients.attribution_by_lag, loss=lambda ys: (ys**2).sum()),
    gradients.jacobians,
    gradients.leading_exponent,
    functools.partial(gradients.lyapunov_spectrum, k=2),
    functools.partial(gradients.finite_time_exponents, k=2),
    functools.partial(gradients.flossing, k=2),
]
"""These need a known number of steps."""

IN_NUMPY = {"matrix_statistics", "lag_products", "kaplan_yorke_dimension", "entropy_rate"}


def name_of(function):
    return getattr(function, "func", function).__name__


@pytest.mark.parametrize("instrument", OF_GIVEN_LENGTH, ids=name_of)
def test_the_instrument_at_a_given_length(instrument):
    params, carry, xs = shapes("lstm", 6, 2)
    lowers(lambda params, carry, xs: instrument(CELLS["lstm"], params, xs, carry=carry), params, carry, xs)


def test_a_clipped_adjoint():
    tree = jax.ShapeDtypeStruct((BATCH, 3), "float64")
    lowers(lambda a: jax.grad(lambda b: gradients.clip_adjoint(b, 1.0, 1).sum())(a), tree)


def test_theory():
    variances = jax.ShapeDtypeStruct((STEPS,), "float64")
    gain = jax.ShapeDtypeStruct((), "float64")
    lowers(gradients.theory.tanh_mean_field_rates, gain, variances)
    lowers(gradients.theory.relu_mean_field_rate, gain)


def test_numerics():
    tree = jax.ShapeDtypeStruct((BATCH, 3), "float64")
    logs = jax.ShapeDtypeStruct((BATCH,), "float64")
    lowers(lambda a: numerics.normalise(a, 1), tree)
    lowers(lambda a, b, c, d: numerics.add_scaled([(a, b), (c, d)], 1), tree, logs, tree, logs)


INITIALIZERS = [
    kind
    for kind in vars(initializers).values()
    if inspect.isclass(kind) and kind.__module__ == initializers.__name__ and kind is not initializers.Initializer
]


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=lambda c: c.__name__)
def test_initializers(initializer):
    """All initializers except `SpectralRadius` lower for any platform."""
    if initializer is initializers.Chrono:
        initializer = functools.partial(initializer, 50)  # whose number has no default
    if initializer is initializers.SpectralRadius:
        platforms = ("cpu",)  # TPUs have no eigenvalues of a non-symmetric matrix; GPUs no serializable call for them
        with pytest.raises((ValueError, NotImplementedError)):
            lowers(lambda key: initializer()(key, (3, 3)), KEY)
    else:
        platforms = PLATFORMS
    lowers(lambda key: initializer()(key, (3, 3)), KEY, platforms=platforms)


def test_linear_rate_is_for_the_cpu():
    """Eigenvalues only lower for the CPU."""
    lowers(gradients.theory.linear_rate, jax.ShapeDtypeStruct((3, 3), "float64"), platforms=("cpu",))


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("elman_relu", "elman_linear")])
def test_drawing_parameters(name):
    platforms = ("cpu",) if name == "echo_state" else PLATFORMS  # its spectral radius: see `test_initializers`
    lowers(lambda key: CELLS[name].init(key, D), KEY, platforms=platforms)


def test_noise_of_wrappers():
    """Drawn and used in one program."""
    cell = rnnjax.Stack((rnnjax.wrappers.Zoneout(rnnjax.LSTM(3), 0.2), rnnjax.wrappers.Dropout(rnnjax.GRU(3), 0.2)))
    params = jax.eval_shape(lambda key: cell.init(key, D, "float64"), KEY)
    xs = jax.ShapeDtypeStruct((4, 2, D), "float64")

    def loss(params, xs, key):
        noise = rnnjax.draw_noise(cell, key, params, 4, (2,), D)
        return rnnjax.unroll(cell, params, xs, noise=noise)[1].sum()

    lowers(jax.value_and_grad(loss), params, xs, KEY)


def test_ridge():
    hs, targets = jax.ShapeDtypeStruct((7, 2, 3), "float64"), jax.ShapeDtypeStruct((7, 2, 1), "float64")
    lowers(jax.value_and_grad(lambda hs, targets: rnnjax.ridge(hs, targets)[0].sum()), hs, targets, platforms=("cpu",))


def test_pooling_of_tokens():
    """An embedding, and the three ways of pooling."""
    embedding, pooling = rnnjax.Embedding(7, 3), rnnjax.AttentionPooling(2)
    table = jax.eval_shape(lambda key: embedding.init(key), KEY)
    attention = jax.eval_shape(lambda key: pooling.init(key, 3), KEY)

    def pooled(table, attention, tokens, timed):
        def all_ways(table, attention):
            ys = embedding(table, tokens)
            return rnnjax.pool_last(ys, **timed), rnnjax.pool_mean(ys, **timed), pooling(attention, ys, **timed)

        return value_and_gradient(all_ways)(table, attention)

    timed = {name: times()[name] for name in ("lengths", "mask")}
    lowers(pooled, table, attention, jax.ShapeDtypeStruct((STEPS, BATCH), "int32"), timed)


def test_an_exported_program_gives_the_numbers():
    """One program with symbolic batch and time, run for two sizes."""
    options = {"engine": "hoisted", "checkpoint": 4}

    def run(args, timed):
        return unrolled("lstm", timed, **options)(*args)

    exported = lowers(run, shapes("lstm"), times())
    for steps, batch in ((4, 2), (8, 3)):
        args = normal(shapes("lstm", steps, batch), f"{steps}")
        flags = np.arange(steps * batch).reshape(steps, batch) % 3 > 0
        timed = {"lengths": jnp.arange(batch, dtype="int32") + 2, "mask": flags, "resets": ~flags}
        got = exported.call(args, jax.tree.map(jnp.asarray, timed))
        assert_close(got, unrolled("lstm", timed, engine="scan")(*args))


RULES = [online.RTRL(), online.SnAp(1), online.TBPTT(3), online.UORO(), online.KFRTRL(), online.KeRNL()]
RULES += [online.EProp("random"), online.RFLO(), online.DNI(), online.Immediate()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_one_step_of_a_rule(rule):
    """From its start, with mask and resets; over time it is the user's scan."""
    cell = rnnjax.Readout(rnnjax.cells.RateNetwork(3), 1)
    params = jax.eval_shape(lambda key: cell.init(key, D, "float64"), KEY)
    flags = jax.ShapeDtypeStruct((BATCH,), "bool")

    def run(params, x, mask, resets, key):
        carry, trace = cell.initial_carry(params, x.shape[:1]), rule.init(cell, params, x.shape[:1])
        return rule.step(cell, params, carry, trace, x, jnp.ones_like, mask=mask, resets=resets, key=key)

    lowers(run, params, jax.ShapeDtypeStruct((BATCH, D), "float64"), flags, flags, KEY)


PARTS = ("init", "initial_carry", "step")

COVERED = {f"{cell}_{part}": "test_functions_of_arrays" for cell in FUNCTIONS for part in PARTS} | {
    "draw_noise": "test_noise_of_wrappers",
    "explain": "test_explain_leaves_the_batch_open",
    "pool_last": "test_pooling_of_tokens",
    "pool_mean": "test_pooling_of_tokens",
    "ridge": "test_ridge",
    "step": "test_one_step_over_the_contract",
    "unroll": "test_unroll_on_every_engine",
}


def test_no_public_function_is_missing():
    """A new public function needs a line in `COVERED` and a test above; classes are tested by the registry."""
    functions = {name for name in rnnjax.__all__ if inspect.isfunction(getattr(rnnjax, name))}
    assert functions <= set(COVERED)
    assert set(COVERED.values()) <= set(globals())
    instruments = {name for name in gradients.__all__ if inspect.isfunction(getattr(gradients, name))}
    covered = {name_of(instrument) for instrument in (*INSTRUMENTS, *OF_GIVEN_LENGTH, gradients.clip_adjoint)}
    assert instruments - IN_NUMPY == covered
