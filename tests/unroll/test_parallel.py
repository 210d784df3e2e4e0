"""Newton's method in time: equal to the scan where it converges, and said where it does not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import parallel
from tests.registry import (
    COMBINED,
    assert_close,
    assert_identical,
    cotangents,
    curvature,
    every_plain_cell,
    normal,
    sample,
)

STEPS, ROWS, FEATURES = 40, 3, 2
CONTRACTING = {"elman": rnnjax.Elman(4), "gru": rnnjax.GRU(4), "lstm": rnnjax.LSTM(3)}


@functools.cache
def drawn(name, scale=0.5):
    cell = CONTRACTING[name]
    shapes = jax.eval_shape(lambda key: cell.init(key, FEATURES), jax.random.key(0))
    params = normal(shapes, name, scale=scale)
    carry = normal(jax.eval_shape(lambda p: cell.initial_carry(p, (ROWS,)), params), f"{name} carry")
    return params, carry, normal(jnp.zeros((STEPS, ROWS, FEATURES)), f"{name} xs")


def times():
    rng = np.random.default_rng(0)
    flags = rng.random((2, STEPS, ROWS))
    return {"lengths": np.array([STEPS, 17, 0]), "mask": flags[0] > 0.2, "resets": flags[1] < 0.1}


def unrolled(name, engine, **options):
    def run(params, carry, xs):
        return rnnjax.unroll(CONTRACTING[name], params, xs, carry=carry, engine=engine, **options)

    return run


@pytest.mark.parametrize("name", CONTRACTING)
def test_equal_to_the_scan(name):
    """Values, both gradients and a second derivative, with lengths, gaps and resets."""
    primals, tangents = drawn(name), normal(drawn(name), "tangents")

    def all_of(engine):
        run = unrolled(name, engine, carries=True, **times())
        weights = normal(jax.eval_shape(run, *primals), "weights")

        def gradients(*primals):
            outputs, pull = jax.vjp(run, *primals)
            return outputs, pull(weights)

        return jax.jit(lambda: jax.jvp(gradients, primals, tangents))()

    assert_close(all_of(rnnjax.Parallel(tolerance=1e-12)), all_of("scan"), 1e-10)


@pytest.mark.parametrize("options", [{"jacobian": "diagonal"}, {"damping": 0.3}, {"above": "scan", "iterations": 1}])
def test_options_change_nothing_but_the_way(options):
    """In reverse, with lengths, gaps and resets; the last falls back to the scan."""
    found = jax.jit(unrolled("gru", rnnjax.Parallel(**options), carries=True, reverse=True, **times()))(*drawn("gru"))
    expected = jax.jit(unrolled("gru", "scan", carries=True, reverse=True, **times()))(*drawn("gru"))
    assert_close(found, expected, 0.0 if "above" in options else 1e-10)


@pytest.mark.parametrize("cut", [{"checkpoint": 16}, {"chunk": 16}], ids=str)
def test_segments_of_time_run_one_after_another(cut):
    def gradient(**options):
        run = unrolled("elman", options.pop("engine"), **options, **times())
        return jax.jit(jax.grad(lambda *primals: (run(*primals)[1] ** 2).sum(), (0, 1, 2)))(*drawn("elman"))

    assert_close(gradient(engine="parallel", **cut), gradient(engine="scan"), 1e-10)


@every_plain_cell
def test_every_cell(name):
    """Values, gradients, forward mode and a Hessian-vector product, with lengths, gaps and resets."""
    got = curvature(name, "parallel", sample(name), COMBINED, cotangents(name))
    assert_close(got, curvature(name, "loop", sample(name), COMBINED, cotangents(name)), 1e-11)


def test_vmap_is_the_batch():
    params, carry, xs = drawn("elman")
    rows = jax.vmap(
        lambda c, x: rnnjax.unroll(CONTRACTING["elman"], params, x, carry=c, engine="parallel"), (0, 1), (0, 1)
    )
    assert_close(jax.jit(rows)(carry, xs), unrolled("elman", "scan")(params, carry, xs), 1e-10)


def test_padding_affects_nothing():
    """NaN in masked steps, for values and gradients."""
    params, carry, xs = drawn("lstm")
    options = times()
    counts = options["mask"] & (np.arange(STEPS)[:, None] < options["lengths"])

    def loss(params, xs):
        found = rnnjax.unroll(CONTRACTING["lstm"], params, xs, carry=carry, engine="parallel", **options)
        return sum([(leaf**2).sum() for leaf in jax.tree.leaves(found)])

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    poisoned = jnp.where(counts[..., None], xs, jnp.nan)
    assert_identical(gradient(params, poisoned), gradient(params, jnp.where(counts[..., None], xs, 0)))


CHAOTIC = rnnjax.Elman(16)


def chaotic(gain=3.0, steps=400):
    w_h = normal(jnp.zeros((16, 16)), "chaos", scale=gain / 4)
    params = rnnjax.ElmanParams(jnp.zeros((1, 16)), w_h, jnp.zeros(16))
    return params, jnp.zeros((steps, 1)), {"carry": normal(jnp.zeros(16), "chaos carry")}


def test_chaos_is_reported():
    params, xs, options = chaotic()
    found = parallel.solve(CHAOTIC, params, xs, iterations=10, **options)
    assert not found.converged and found.estimate > 1 and found.bound == np.inf
    with pytest.raises(rnnjax.NotConverged, match=r"after 10 iterations, the estimated error of 1 of 1 rows is above"):
        rnnjax.unroll(CHAOTIC, params, xs, engine=rnnjax.Parallel(iterations=10), **options)


def test_above_scan_is_the_scan_and_value_is_what_there_is():
    params, xs, options = chaotic()

    def run(engine):
        return rnnjax.unroll(CHAOTIC, params, xs, engine=engine, **options)[1]

    assert_close(run(rnnjax.Parallel(iterations=10, above="scan")), run("scan"))
    value = run(rnnjax.Parallel(iterations=10, above="value"))
    assert float(jnp.abs(value - run("scan")).max()) > 1


def test_raises_inside_of_jit():
    params, xs, options = chaotic()
    run = jax.jit(lambda xs: rnnjax.unroll(CHAOTIC, params, xs, engine=rnnjax.Parallel(iterations=10), **options))
    with pytest.raises(jax.errors.JaxRuntimeError, match="NotConverged"):
        jax.block_until_ready(run(xs))


def test_a_small_residual_with_a_large_estimate_is_reported():
    """After T iterations every step of the map sin(4 c) holds to rounding; but rounding errors grow over the steps."""
    cell = rnnjax.StepCell(lambda p, c, x: (jnp.sin(p * c), c + 0 * x), lambda p, batch_shape: jnp.full((1,), 0.3))
    found = parallel.solve(cell, jnp.array([4.0]), jnp.zeros((60, 1)), iterations=60)
    assert found.residual < 1e-12 and found.estimate > 1e-9 and not found.converged


def test_what_is_not_finite_does_not_converge():
    """XLA's maximum on a CPU drops NaN; the estimate must not."""
    params, carry, xs = drawn("elman")
    found = parallel.solve(CONTRACTING["elman"], params, xs.at[3, 1].set(jnp.nan), carry=carry, iterations=9)
    assert found.converged.tolist() == [True, False, True]
    assert np.isinf(found.estimate[1]) and np.isinf(found.bound[1]) and np.isfinite(found.bound[0])


@pytest.mark.parametrize("name", CONTRACTING)
@pytest.mark.parametrize("iterations", [1, 50])
def test_the_bound_is_above_the_error(name, iterations):
    """Of iterates stopped early, and at rounding error; `python -m tests.unroll.newton` draws hundreds of networks."""
    params, carry, xs = drawn(name)
    found = parallel.solve(CONTRACTING[name], params, xs, carry=carry, iterations=iterations, **times())
    truth = unrolled(name, "scan", carries=True, **times())(params, carry, xs)[2]
    error = functools.reduce(np.maximum, [
        np.abs(np.asarray(a) - np.asarray(b)).max((0, 2))
        for a, b in zip(jax.tree.leaves(found.carries), jax.tree.leaves(truth), strict=True)
    ])  # fmt: skip
    rounding = 1e-14
    assert (found.bound + rounding >= error).all() and (found.bound <= 1.2 * found.estimate + 1e-11).all()


def test_a_kink_in_the_tube_has_no_bound():
    params, carry, xs = jax.tree.map(jnp.zeros_like, drawn("elman"))
    found = parallel.solve(rnnjax.Elman(4, "relu"), params, xs, carry=carry)
    assert found.converged.all() and np.isinf(found.bound).all()


def test_a_linear_step_is_one_scan():
    cell = rnnjax.cells.MinGRU(4)
    params = jax.eval_shape(lambda key: cell.init(key, 2), jax.random.key(0))
    layer = rnnjax.explain(cell, params, jax.ShapeDtypeStruct((5, 2), params.b.dtype), engine="parallel").layers[0]
    assert layer.engine == "associative" and "one scan is exact" in layer.why


def test_predictions():
    """Few iterations at every T for a negative exponent; in proportion to T towards zero; none above it."""
    assert parallel.expected_iterations(-0.5, 100, 1e-10) == parallel.expected_iterations(-0.5, 10**6, 1e-10) < 7
    few, many = (parallel.expected_iterations(-0.01, steps, 1e-10) for steps in (1000, 10_000))
    assert 8 < many / few < 12
    params, _, xs = drawn("lstm")
    plans = [rnnjax.explain(CONTRACTING["lstm"], params, xs, exponent=e).layers[0].prediction for e in (-0.5, 1.0)]
    assert [plan is not None and plan.converges for plan in plans] == [True, False]
    assert (
        parallel.amplification(0.0, 7) == 7
        and abs(parallel.amplification(-0.5, 3) - (1 + np.exp(-0.5) + np.exp(-1))) < 1e-12
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0; it must be a positive number"),
        ({"iterations": 0}, "iterations is 0; it must be a positive integer"),
        ({"damping": 1.5}, r"damping is 1.5; it must be a number in 0..1"),
        ({"jacobian": "half"}, "jacobian is 'half'; choose one of 'full', 'diagonal'"),
        ({"above": "ignore"}, "above is 'ignore'; choose one of 'raise', 'scan', 'value'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        rnnjax.Parallel(**options)


def test_bad_carries_and_calls():
    cell = rnnjax.StepCell(
        lambda p, c, x: ((jnp.tanh(c[0]), c[1] + 1), x * c[0]), lambda p, b: (p, jnp.zeros(b, "int32"))
    )
    with pytest.raises(TypeError, match="needs all of it in one real floating-point dtype"):
        rnnjax.unroll(cell, jnp.ones(()), jnp.ones((3, 1)), engine="parallel")
    params, _, xs = drawn("elman")
    with pytest.raises(TypeError, match="certify=False"):
        jax.jit(lambda xs: parallel.solve(CONTRACTING["elman"], params, xs))(xs)
    with pytest.raises(TypeError, match="needs the whole sequence"):
        parallel.solve(rnnjax.Bidirectional(rnnjax.GRU(2), rnnjax.GRU(2)), params, xs)  # pyright: ignore[reportArgumentType]
