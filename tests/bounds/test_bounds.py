"""Bounds hold: values, Jacobians and second derivatives at random points of a box lie inside."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnnjax._bounds import Bounded, Interval, Kink, NoBound, inverse_bound
from rnnjax._bounds.intervals import ULPS, matmul, point
from rnnjax._bounds.rules import FUNCTIONS
from tests.registry import CAUSAL, CELLS, sample

NO_BOUND = {"clockwork": "rem"}
"""Cells without a bound, and the primitive: this one's counter decides which units move."""

LOOSE = {"orthogonal_cayley": "its matrix comes from an iteration that corrects its errors, which intervals cannot see"}
"""Cells whose bounds hold, but are of no use."""


def step_of(name: str):
    """`(F, h)`: the step of a registry cell as a function of its flattened carry, and a carry."""
    drawn = sample(name, batch_shape=())
    flat, unravel = ravel_pytree(drawn.carry)
    return lambda h: ravel_pytree(CELLS[name].step(drawn.params, unravel(h), drawn.xs[0])[0])[0], np.asarray(flat)


def assert_inside(function, lower, upper, points: int = 40) -> None:
    """Random points and corners of the box, in random directions, against automatic differentiation."""
    bounds = Bounded(function, len(lower))(lower, upper)
    flat = lambda h: function(h).ravel()  # noqa: E731

    @jax.jit
    def derivatives(h, u, v):
        second = jax.jvp(lambda h: jax.jvp(flat, (h,), (u,))[1], (h,), (v,))[1]
        return flat(h), jax.jacfwd(flat)(h), second

    rng = np.random.default_rng(0)
    for k in range(points):
        part = rng.uniform(size=len(lower)) if k % 2 else rng.integers(0, 2, len(lower))
        u, v = rng.choice([-1.0, 1.0], (2, len(lower)))
        value, jacobian, second = map(np.asarray, derivatives(lower + part * (upper - lower), u, v if k % 3 else u))
        for found, bound in ((value, bounds.value), (jacobian, bounds.jacobian)):
            slack = 1e-13 * (1 + np.abs(found))  # the rounding of what is compared
            assert (found >= bound.lo - slack).all() and (found <= bound.hi + slack).all()
        assert (np.abs(second) <= bounds.curvature * (1 + 1e-12) + 1e-13 * (1 + np.abs(jacobian).max())).all()


@pytest.mark.parametrize("name", CAUSAL)
def test_cells_lie_inside(name):
    function, h = step_of(name)
    if name not in NO_BOUND:
        assert_inside(function, h - 1e-3, h + 1e-3)


def test_every_cell_has_a_bound_or_a_reason():
    """Also tight: at a point, Jacobians are known to rounding."""
    for name in CAUSAL:
        function, h = step_of(name)
        if name in NO_BOUND:
            with pytest.raises(NoBound) as error:
                Bounded(function, len(h))(h, h)
            assert error.value.primitive == NO_BOUND[name]
        elif name not in LOOSE:
            bounds = Bounded(function, len(h))(h, h)
            widths = (bounds.jacobian.hi - bounds.jacobian.lo).max(), (bounds.value.hi - bounds.value.lo).max()
            assert max(widths) < 1e-9, name


W = np.random.default_rng(1).normal(size=(4, 4))

SMOOTH = {
    "softplus": jax.nn.softplus,
    "log_sigmoid": jax.nn.log_sigmoid,
    "gelu": lambda h: jax.nn.gelu(h, approximate=False),
    "erf": jax.scipy.special.erf,
    "sin_cos": lambda h: jnp.sin(9 * h) * jnp.cos(h),
    "roots": lambda h: jnp.sqrt(1 + h * h) + jax.lax.rsqrt(2 + h),
    "logs": lambda h: jnp.log(2 + h * h) + jnp.log1p(h * h) + jnp.expm1(h),
    "powers": lambda h: (2 + h) ** 1.5 + h**3 + (2 + h) ** -2 + jnp.exp(h) ** h,
    "normalised": lambda h: (h - h.mean()) / jnp.sqrt(h.var() + 0.1),
    "quotient": lambda h: h / (1 + h[::-1] ** 2) / 3,
    "products": lambda h: jnp.einsum("i,ij,j->i", h, W, h) + jnp.outer(h, h) @ h,
    "batched": lambda h: jnp.einsum("bi,bij->bj", h.reshape(2, 2), jnp.outer(h, h).reshape(2, 2, 4)),
    "moved": lambda h: h.at[1].set(h[0] * h[2])[jnp.array([2, 1, 0])] * jnp.pad(jnp.roll(h, 1), 1)[1:4],
    "slices": lambda h: jax.lax.dynamic_update_slice(h, jax.lax.dynamic_slice(h, (1,), (2,)) ** 2, (1,)) ** 2,
    "cumulative": lambda h: jnp.cumsum(h * h) + jax.lax.cumsum(jnp.sin(h), reverse=True),
    "decided": lambda h: (
        jnp.where(h > -9, jnp.maximum(h, -5) * jnp.clip(h, -7, 7), jnp.abs(h + 3)) * jnp.max(h - W[0] * 40)
    ),
    "convolved": lambda h: jax.lax.conv(h.reshape(1, 2, 2), jnp.asarray(W).reshape(4, 2, 2), (1,), "SAME") ** 2,
    "remat": jax.checkpoint(lambda h: jnp.tanh(W @ h)),
}


@pytest.mark.parametrize("function", SMOOTH)
def test_functions_lie_inside(function):
    h = np.array([0.1, -0.3, 0.7, 0.45])
    for radius in (1e-2, 0.4):
        assert_inside(SMOOTH[function], h - radius, h + radius)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ranges_of_pointwise_functions(name):
    """f, f' and f'' over random intervals, all at once, contain what automatic differentiation gives in them."""
    function = getattr(jax.nn, name, None) or getattr(jax.lax, name)
    rng = np.random.default_rng(2)
    lo = rng.choice([-1, 1], 500) * rng.lognormal(0, 2, 500)
    lo = np.abs(lo) if name in ("log", "sqrt", "rsqrt", "log1p") else np.clip(lo, -40, 40)
    box = Interval(lo, lo + rng.lognormal(-2, 2, 500).clip(0, 8))
    orders = [function, jax.grad(function), jax.grad(jax.grad(function))]
    inside = np.clip(box.lo + rng.uniform(size=(20, 500)) * (box.hi - box.lo), box.lo, box.hi)
    for derivative, bound in zip(orders, FUNCTIONS[name], strict=True):
        with np.errstate(all="ignore"):
            lower, upper = bound(box)
        values = np.asarray(jax.vmap(jax.vmap(derivative))(inside))
        slack = 1e-12 * np.maximum(np.abs(values), 1e-3 if derivative is not function else 0)
        if name == "log" or name == "log1p":
            slack = slack + 1e-15
        sizes = np.maximum(np.abs(lower), np.abs(upper))
        if derivative is orders[2]:  # only its size is used
            assert (np.abs(values) <= sizes + slack).all()
        else:
            assert (values >= lower - slack).all() and (values <= upper + slack).all()


@pytest.mark.parametrize("function", [np.tanh, np.exp, np.log, np.log1p, np.expm1, np.sqrt, np.sin])
def test_numpy_is_as_accurate_as_is_assumed(function):
    """Within a quarter of the widening, against extended precision."""
    if np.finfo(np.longdouble).eps >= 2.0**-60:
        pytest.skip("there is no wider type here")
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=50_000) * scale for scale in (1e-3, 1, 30)])
    x = np.concatenate([np.abs(x), 1 + x[:50_000]]) if function in (np.log, np.log1p, np.sqrt) else x
    exact = function(x.astype(np.longdouble))
    assert (np.abs(function(x) - exact) <= ULPS / 4 * 2.0**-52 * np.abs(exact)).all()


@pytest.mark.parametrize(
    ("function", "primitive"),
    [
        (jax.nn.relu, "max"),
        (lambda h: jnp.minimum(h, 0), "min"),
        (jnp.abs, "abs"),
        (lambda h: jnp.sign(h) * h, "sign"),
        (lambda h: jnp.where(h > 0, h, h * h), "select_n"),
        (lambda h: (h > 0).astype(h.dtype), "convert_element_type"),
        (lambda h: jnp.max(h)[None], "reduce_max"),
        (lambda h: jnp.clip(h, 0.0, 1.0), "max"),
        (lambda h: h.astype(int).astype(float), "convert_element_type"),
    ],
)
def test_kinks_are_found(function, primitive):
    """In a box around the kink, in one that it touches, and at the kink itself."""
    for lower, upper in ((-0.1, 0.2), (0.0, 0.2), (-0.1, 0.0), (0.0, 0.0)):
        with pytest.raises(Kink) as error:
            Bounded(function, 2)(np.full(2, lower), np.full(2, upper))
        assert error.value.primitive in (primitive, "clamp") and "box" in error.value.reason


@pytest.mark.parametrize(
    ("function", "primitive", "words"),
    [
        (jnp.sort, "sort", "without it"),
        (jnp.round, "round", "without it"),
        (lambda h: jax.lax.scan(lambda c, _: (jnp.tanh(c), None), h, None, length=2)[0], "scan", "without it"),
        (lambda h: h.astype("float32").astype("float64"), "convert_element_type", "float64"),
        (lambda h: jnp.abs(jax.lax.complex(h, h)), "complex", "imaginary"),
        (lambda h: 1 / h, "div", "zero"),
        (jnp.log, "log", "negative"),
        (jnp.sqrt, "sqrt", "negative"),
        (lambda h: jnp.exp(1000 + h), "exp", "finite"),
        (lambda h: h[jnp.floor(h).astype(int)], "floor", "without it"),
    ],
)
def test_what_has_no_bound_is_named(function, primitive, words):
    with pytest.raises(NoBound, match=words) as error:
        Bounded(function, 2)(np.full(2, -0.1), np.full(2, 0.2))
    assert error.value.primitive == primitive and not isinstance(error.value, Kink)


def test_products_of_matrices_contain_the_exact_ones():
    """Rational arithmetic, for ends and members of intervals of very different sizes."""
    rng = np.random.default_rng(4)
    for width in (0, 1e-9, 0.3):
        a, b = (rng.normal(size=(3, 3)) * 10.0 ** rng.integers(-8, 8, (3, 3)) for _ in range(2))
        boxes = [Interval(m - width * np.abs(m), m + width * np.abs(m)) for m in (a, b)]
        product = matmul(*boxes)
        for _ in range(8):
            left, right = (np.where(rng.uniform(size=(3, 3)) < 0.5, *box) for box in boxes)
            for i in range(3):
                for j in range(3):
                    exact = sum(Fraction(left[i, k]) * Fraction(right[k, j]) for k in range(3))
                    assert Fraction(product.lo[i, j]) <= exact <= Fraction(product.hi[i, j])


def test_inverses():
    """The residual holds for members of the interval; a singular midpoint is never said to be invertible."""
    rng = np.random.default_rng(5)
    m, w = np.eye(6) + 0.3 * rng.normal(size=(6, 6)), rng.lognormal(size=6)
    found = inverse_bound(Interval(m - 1e-3, m + 1e-3), w)
    norm = lambda a: (np.abs(a) @ w / w).max()  # noqa: E731
    assert found.residual < 1 and np.isclose(found.norm, norm(found.matrix))
    for _ in range(50):
        member = m + 1e-3 * rng.choice([-1, 1], (6, 6))
        assert norm(np.eye(6) - found.matrix @ member) <= found.residual
        assert norm(np.linalg.inv(member)) <= found.norm / (1 - found.residual)
    singular = np.outer(m[0], m[1])
    assert inverse_bound(point(singular)).residual >= 1 and inverse_bound(point(np.zeros((2, 2)))).residual == np.inf


def test_weights_scale_the_directions_of_the_curvature():
    """Curvature with weights w is that of F(w z); the Jacobian is not scaled."""
    h, w = np.array([0.1, -0.3, 0.7, 0.45]), np.array([1.0, 3.0, 0.1, 2.0])
    function = lambda h: jnp.tanh(W @ h) * h[0]  # noqa: E731
    found = Bounded(function, 4)(h - w * 0.01, h + w * 0.01, weights=w)
    scaled = Bounded(lambda z: function(w * z), 4)(h / w - 0.01, h / w + 0.01)
    plain = Bounded(function, 4)(h - w * 0.01, h + w * 0.01)
    np.testing.assert_allclose(found.curvature, scaled.curvature, rtol=1e-12)
    np.testing.assert_allclose(found.jacobian, plain.jacobian, rtol=1e-12)
    assert (np.abs(found.curvature / plain.curvature - 1) > 0.1).any()


def test_further_arguments_are_given_with_each_box():
    """One trace serves all inputs; parts without h and input are computed once."""
    traces = []

    def step(h, x):
        traces.append(1)
        return jnp.tanh(W @ h + jnp.exp(jnp.asarray(W)) @ x)

    bounded = Bounded(step, 4, np.zeros(4))
    for x in W:
        bounds, exact = bounded(W[0], W[0], x), step(W[0], x)
        assert (bounds.value.lo <= exact).all() and (exact <= bounds.value.hi).all()
        assert (bounds.value.hi - bounds.value.lo).max() < 1e-13
    assert len(traces) == 1 + len(W)
