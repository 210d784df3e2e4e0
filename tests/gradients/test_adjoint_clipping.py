"""The adjoint clipped at every step, against an explicit recursion with NumPy's norms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from rnnjax.gradients import ClippedAdjoint
from tests.gradients.measured import QUICKLY
from tests.registry import (
    ALL_COUNT,
    CELLS,
    COMBINED,
    Sample,
    assert_close,
    assert_identical,
    cotangents,
    sample,
)

LIMIT = 0.7  # some adjoints have smaller norms, some larger
NAMES = ["elman_tanh", "lstm", "step_cell"]  # one leaf, two, and two of different rank with a learned initial carry

every_name = pytest.mark.parametrize("name", NAMES)
both_conditions = pytest.mark.parametrize("times", [ALL_COUNT, COMBINED], ids=["plain", "together"])


@functools.cache
def program(name: str) -> Any:
    """Gradients of a weighted sum of all outputs; one compiled function for all conditions."""
    cell = ClippedAdjoint(CELLS[name], LIMIT)

    def run(drawn: Sample, times: Any, weights: Any):
        def outputs(params: Any, carry: Any, xs: Any):
            return rnnjax.unroll(cell, params, xs, carry=carry, **times._asdict())

        return Sample(*jax.vjp(outputs, *drawn)[1](weights))

    return jax.jit(run, compiler_options=QUICKLY)


@functools.cache
def one_step_back(name: str) -> Any:
    """`(params, carry, x, (dcarry, dy)) -> (dparams, dcarry, dx)` of the cell that does not clip."""
    cell: Any = CELLS[name]
    return jax.jit(lambda params, carry, x, d: jax.vjp(cell.step, params, carry, x)[1](d), compiler_options=QUICKLY)


def clipped(tree: Any) -> tuple[Any, np.ndarray]:
    """Rows of a tree `[B, ...]` clipped in NumPy, and which of them changed."""
    norms = np.sqrt(sum(np.square(leaf).reshape(len(leaf), -1).sum(1) for leaf in jax.tree.leaves(tree)))
    factor = np.where(norms > LIMIT, LIMIT / np.where(norms > 0, norms, 1), 1)
    shorter = jax.tree.map(lambda leaf: leaf * factor.reshape(factor.shape + (1,) * (leaf.ndim - 1)), tree)
    return shorter, norms > LIMIT


def choose(flags: np.ndarray, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: np.where(flags.reshape(-1, *[1] * (np.ndim(a) - 1)), a, b), one, other)


def by_hand(name: str, drawn: Sample, times: Any, weights: Any) -> tuple[Sample, np.ndarray]:
    """The backward recursion; only the cell's step clips, not resets or masked steps.

    Also returns `[T, B]`, where clipping changed an unmasked row.
    """
    cell: Any = CELLS[name]
    steps, rows = drawn.xs.shape[:2]
    within = np.arange(steps)[:, None] < times.lengths
    counts, resets = within & times.mask, within & times.resets
    start, pull_start = jax.vjp(lambda p: cell.initial_carry(p, (rows,)), drawn.params)
    carry, before = drawn.carry, []
    for t in range(steps):
        before.append(choose(resets[t], start, carry))
        carry = choose(counts[t], cell.step(drawn.params, before[t], drawn.xs[t])[0], before[t])

    adjoint, weights_y = jax.tree.map(np.asarray, weights)
    zeros = jax.tree.map(np.zeros_like, adjoint)
    total, dxs, shortened = [jax.tree.map(np.zeros_like, drawn.params)], [], []
    for t in reversed(range(steps)):
        dy = jax.tree.map(lambda w, t=t: w[t], weights_y)
        arriving = choose(counts[t], adjoint, zeros), choose(counts[t], dy, jax.tree.map(np.zeros_like, dy))
        found = one_step_back(name)(drawn.params, before[t], drawn.xs[t], arriving)
        dparams, dcarry, dx = jax.tree.map(np.asarray, found)
        dcarry, long = clipped(dcarry)
        dcarry = jax.tree.map(np.add, dcarry, choose(counts[t], zeros, adjoint))
        total += [dparams, pull_start(choose(resets[t], dcarry, zeros))[0]]
        adjoint = choose(resets[t], zeros, dcarry)
        dxs.append(dx)
        shortened.append(long[counts[t]])
    params = jax.tree.map(lambda *parts: sum(np.asarray(part) for part in parts), *total)
    return Sample(params, adjoint, jnp.stack(dxs[::-1])), np.concatenate(shortened)


@every_name
@both_conditions
def test_the_recursion_is_the_clipped_one(name, times):
    """Clips per row over the whole carry, with masks, resets and learned initial carries."""
    drawn, weights = sample(name), cotangents(name)
    found = program(name)(drawn, times, weights)
    expected, shortened = by_hand(name, drawn, times, weights)
    assert shortened.any() and not shortened.all()
    assert_close(found, expected)


def test_values_are_those_of_the_cell_inside():
    drawn, times = sample("lstm"), COMBINED._asdict()
    one, other = (
        jax.jit(lambda drawn, cell=cell: rnnjax.unroll(cell, **drawn._asdict(), **times, engine="scan"))(drawn)
        for cell in (CELLS["lstm"], ClippedAdjoint(CELLS["lstm"], LIMIT))
    )
    assert_identical(one, other)


def test_a_high_limit_changes_nothing():
    drawn, weights = sample("lstm"), cotangents("lstm")
    one, other = (
        jax.jit(lambda d, cell=cell: jax.vjp(lambda p, c, xs: rnnjax.unroll(cell, p, xs, carry=c), *d)[1](weights))(
            drawn
        )
        for cell in (CELLS["lstm"], ClippedAdjoint(CELLS["lstm"], 1e9))
    )
    assert_close(one, other)


@pytest.mark.parametrize("name", ["lstm", "custom"])
def test_the_engine_is_the_scan_and_explain_says_so(name):
    """Remat and the loop engine give the same gradients; the hoisted engine raises."""
    cell, drawn = ClippedAdjoint(CELLS[name], LIMIT), sample(name)
    (layer,) = rnnjax.explain(cell, **drawn._asdict()).layers
    assert layer.engine == "scan" and "backward pass of its own" in layer.why
    with pytest.raises(rnnjax.NotHoistable, match="backward pass of its own"):
        rnnjax.unroll(cell, **drawn._asdict(), engine="hoisted")


def test_every_way_to_run_clips_alike():
    """The same recursion in a stack, in recomputed segments, and in the Python loop."""
    drawn, weights = sample("elman_tanh"), cotangents("elman_tanh")
    cell = ClippedAdjoint(CELLS["elman_tanh"], LIMIT)
    expected = program("elman_tanh")(drawn, ALL_COUNT, weights)

    def back(cell, **options):
        def outputs(params, carry, xs):
            return rnnjax.unroll(cell, (params,), xs, carry=(carry,), **options)

        return Sample(*jax.jit(lambda d: jax.vjp(outputs, *d)[1](((weights[0],), weights[1])))(drawn))

    for options in ({"engine": "loop"}, {"checkpoint": 2}):
        assert_close(back(rnnjax.Stack((cell,)), **options), expected)


def test_a_gate_with_a_backward_pass_of_its_own_is_not_hoisted():
    """Hoisting elementwise clipping would give unclipped gradients, since its slopes are those of the identity."""

    @jax.custom_vjp
    def small(h):
        return h

    small.defvjp(lambda h: (h, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))
    cell = rnnjax.StepCell(
        lambda p, h, x: (p * small(h) + x, p * small(h) + x), lambda p, batch: jnp.zeros((*batch, 2))
    )
    w, xs = jnp.array(1.5), jnp.ones((4, 2))
    assert rnnjax.explain(cell, w, xs).layers[0].engine == "scan"
    found = jax.grad(lambda xs: rnnjax.unroll(cell, w, xs)[1][-1].sum())(xs)
    np.testing.assert_allclose(found[:, 0], [0.1, 0.1, 0.1, 1.0], rtol=1e-14)

    def mixes(params, h, x):
        h = x @ params["w_x"] + small(h @ params["w_h"])
        return h, h

    params, of = {"w_x": jnp.eye(2), "w_h": jnp.eye(2)}, jnp.ones((4, 2))
    cell = rnnjax.StepCell(mixes, lambda p, batch: jnp.zeros((*batch, 2)))
    (layer,) = rnnjax.explain(cell, params, of).layers
    assert layer.engine == "scan" and "a backward pass of its own" in layer.why and "custom_vjp" in layer.why


def test_an_exploding_adjoint_stays_finite_in_float32():
    """3^200 is 10^95: with clipping, the gradient stays finite, and that of w is the sum of clipped terms."""
    params = rnnjax.ElmanParams(
        *(jnp.full(shape, value, "float32") for shape, value in [((1, 1), 1), ((1, 1), 3), (1, 0)])
    )
    xs = jnp.zeros((200, 1), "float32")
    cell = rnnjax.Elman(1, "linear")

    def gradient(cell):
        start = jnp.full(1, 1e-20, "float32")
        return jax.grad(lambda h: rnnjax.unroll(cell, params, xs, carry=h, engine="scan")[1][-1, 0])(start)

    assert not np.isfinite(gradient(cell)).all()
    np.testing.assert_allclose(gradient(ClippedAdjoint(cell, 2.5)), [2.5], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_clip_adjoint_scales_rows_and_keeps_dtypes(dtype):
    """Norms whose squares overflow, zero rows, leaves that are not floats; and the bound in bfloat16."""
    big = float(jnp.finfo(dtype).max) / 8
    cotangent = jnp.array([[3 * big, 4 * big], [0.0, 0.0], [0.3, 0.4]], dtype)
    _, pull = jax.vjp(lambda h: gradients.clip_adjoint({"h": h, "count": jnp.ones(3, int)}, 2.0, 1)["h"], 0 * cotangent)
    (found,) = pull(cotangent)
    assert found.dtype == dtype
    tolerance = 8 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype("float64"), [[1.2, 1.6], [0, 0], [0.3, 0.4]], rtol=tolerance)
    assert_identical(found[2], cotangent[2])


def test_nan_is_not_hidden():
    _, pull = jax.vjp(lambda h: gradients.clip_adjoint(h, 1.0, 1), jnp.zeros((2, 2)))
    (found,) = pull(jnp.array([[jnp.nan, 1.0], [5.0, 0.0]]))
    assert np.isnan(found[0]).any()
    np.testing.assert_allclose(found[1], [1, 0], rtol=1e-15)


def test_the_gradient_of_the_clipped_gradient():
    """Second derivatives against finite differences of the clipped gradient."""
    cell, drawn = ClippedAdjoint(CELLS["elman_tanh"], 0.05), sample("elman_tanh")
    direction = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), drawn.params
    )

    def slope(params):
        gradient = jax.grad(lambda p: (rnnjax.unroll(cell, p, drawn.xs, carry=drawn.carry)[1] ** 2)[-1].sum())(params)
        return sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)), jnp.zeros(()))

    found = jax.jit(jax.grad(slope), compiler_options=QUICKLY)(drawn.params)
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), found, direction)), jnp.zeros(()))
    h = 1e-5
    slope = jax.jit(slope, compiler_options=QUICKLY)
    ahead, behind = (slope(jax.tree.map(lambda p, d, s=s: p + s * h * d, drawn.params, direction)) for s in (1, -1))
    np.testing.assert_allclose(along, (ahead - behind) / (2 * h), rtol=1e-7)


def test_bad_input_is_refused():
    for value in (0, -1.0, float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match=r"max_norm is .* finite number above zero"):
            ClippedAdjoint(rnnjax.GRU(3), value)  # pyright: ignore[reportArgumentType]
    for cell in (rnnjax.Stack((rnnjax.GRU(3),)), rnnjax.Bidirectional(rnnjax.GRU(3), rnnjax.GRU(3))):
        with pytest.raises(TypeError, match="wrap each layer"):
            ClippedAdjoint(cell)  # pyright: ignore[reportArgumentType]
    cells: list[Any] = [ClippedAdjoint(rnnjax.GRU(3)), rnnjax.Stack((rnnjax.GRU(3), ClippedAdjoint(rnnjax.GRU(3))))]
    for cell in cells:
        params = jax.eval_shape(lambda key, cell=cell: cell.init(key, 2), jax.random.key(0))
        with pytest.raises(TypeError, match="adjoint_by_perturbation"):
            gradients.adjoint(cell, params, jnp.ones((4, 2)), lambda ys: ys.sum())
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda h: gradients.clip_adjoint(h, 1.0), (jnp.ones(2),), (jnp.ones(2),))


def test_equal_cells_are_one():
    """Compiles once as a static argument; `adjoint_by_perturbation` gives the clipped adjoints."""
    assert hash(ClippedAdjoint(rnnjax.GRU(3), 2.0)) == hash(ClippedAdjoint(rnnjax.GRU(3), 2.0))
    assert repr(ClippedAdjoint(rnnjax.Elman(3), 2.0)).startswith("ClippedAdjoint(cell=Elman(hidden_size=3")
    params = rnnjax.ElmanParams(w_x=jnp.ones((1, 1)), w_h=jnp.array([[2.0]]), b=jnp.zeros(1))
    cell = ClippedAdjoint(rnnjax.Elman(1, "linear"), 3.0)
    found = gradients.adjoint_by_perturbation(cell, params, jnp.ones((4, 1)), lambda ys: ys[-1, 0])
    np.testing.assert_allclose(found[:, 0], [3, 3, 3, 2, 1], rtol=1e-14)
