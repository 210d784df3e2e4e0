"""Initialisers: exact properties, and statistics with fixed seeds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax.initializers as init
from rnnjax import GRU, LSTM, Elman

ALL = [
    init.Normal(1.5),
    init.Orthogonal(0.9),
    init.Identity(0.5),
    init.SpectralRadius(1.2),
    init.GlorotUniform(),
    init.GlorotNormal(),
    init.LeCunNormal(),
    init.HiddenUniform(),
]
DRAWN_BY_JAX = (init.GlorotUniform, init.GlorotNormal, init.LeCunNormal)  # in the dtype itself
SQUARE_ONLY = (init.Identity, init.SpectralRadius)
every_initializer = pytest.mark.parametrize("initializer", ALL, ids=lambda i: type(i).__name__)
KEY = jax.random.key(0)


def draws(initializer, shape, count=1, dtype="float64"):
    """`count` matrices from `count` keys, jitted: `[count, rows, columns]`."""
    return np.asarray(jax.jit(jax.vmap(lambda key: initializer(key, shape, dtype)))(jax.random.split(KEY, count)))


@every_initializer
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_shape_and_dtype(initializer, dtype):
    """Any float dtype and valid shape, by `jax.eval_shape`."""
    assert jax.eval_shape(lambda key: initializer(key, (6, 6), dtype), KEY).dtype == dtype
    w = initializer(KEY, (6, 6), "float64")
    assert w.shape == (6, 6) and np.isfinite(w).all() and len(np.unique(w)) > 1


@pytest.mark.parametrize(
    "initializer", [i for i in ALL if not isinstance(i, DRAWN_BY_JAX)], ids=lambda i: type(i).__name__
)
def test_half_precision_is_float32_rounded(initializer):
    """Half precision equals rounded float32, since LAPACK has no half-precision QR or eigenvalues."""
    half = initializer(KEY, (6, 6), "bfloat16")
    assert half.dtype == "bfloat16"
    np.testing.assert_allclose(half.astype("float32"), initializer(KEY, (6, 6), "float32"), rtol=2**-8)


@every_initializer
def test_rectangular(initializer):
    """`[D, H]` with D < H and D > H, except for initialisers of square matrices."""
    for shape in ((2, 5), (5, 2)):
        if isinstance(initializer, SQUARE_ONLY):
            with pytest.raises(ValueError, match=rf"square matrices, .*shape is \[{shape[0]}, {shape[1]}\]; .*`w_h`"):
                initializer(KEY, shape)
        else:
            assert jax.eval_shape(lambda key, shape=shape: initializer(key, shape), KEY).shape == shape


@every_initializer
def test_an_initializer_is_a_value(initializer):
    """Frozen, hashable, equal by value, with a repr that evaluates to itself, since it is part of a cell."""
    twin = dataclasses.replace(initializer)
    assert twin == initializer and hash(twin) == hash(initializer)
    assert eval(repr(initializer), dict(vars(init))) == initializer
    assert len({type(i) for i in ALL}) == len(set(ALL))


@every_initializer
def test_the_key_decides(initializer):
    """Equal keys give equal matrices, different keys different ones."""
    first, again, other = (initializer(jax.random.key(k), (6, 6), jnp.float64) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == isinstance(initializer, init.Identity)


def test_jit_and_vmap_are_eager():
    """vmap over keys, as in the experiments' sweeps over seeds."""
    for w, key in zip(draws(init.Normal(), (6, 6), 3), jax.random.split(KEY, 3), strict=True):
        np.testing.assert_allclose(w, init.Normal()(key, (6, 6), jnp.float64), rtol=1e-12)


# (initializer, shape, variance, bound on the absolute value or None)
STATISTICS = [
    (init.Normal(), (50, 20), 1 / 50, None),
    (init.Normal(2.0), (20, 50), 4 / 20, None),
    (init.Orthogonal(), (30, 30), 1 / 30, 1.0),
    (init.GlorotUniform(), (50, 20), 2 / 70, np.sqrt(6 / 70)),
    (init.GlorotNormal(), (50, 20), 2 / 70, None),
    (init.LeCunNormal(), (50, 20), 1 / 50, None),
    (init.HiddenUniform(), (50, 20), 1 / (3 * 20), 1 / np.sqrt(20)),
]


@pytest.mark.parametrize(("initializer", "shape", "variance", "bound"), STATISTICS, ids=str)
def test_mean_variance_and_bound(initializer, shape, variance, bound):
    """The variance within five standard errors; shapes are not square, so it shows which axis is the fan-in."""
    w = draws(initializer, shape, 30 if shape[0] * shape[1] > 900 else 60)
    n = w.size
    kurtosis = np.mean((w - w.mean()) ** 4) / w.var() ** 2
    assert abs(w.mean()) < 5 * np.sqrt(variance / n)
    assert abs(w.var() / variance - 1) < 5 * np.sqrt((kurtosis - 1) / n)
    if bound is not None:
        assert np.abs(w).max() <= bound
        if not isinstance(initializer, init.Orthogonal):
            assert np.abs(w).max() > 0.999 * bound


@pytest.mark.parametrize("kind", [init.Normal, init.Orthogonal, init.Identity, init.SpectralRadius])
def test_scale_only_scales(kind):
    """With one key, scale s gives s times scale 1, so a sweep over scales can draw once."""
    one = kind()(KEY, (6, 6), jnp.float64)
    for scale in (0.25, -2.0, 3.0, 0.0):
        np.testing.assert_allclose(kind(scale)(KEY, (6, 6), jnp.float64), scale * one, rtol=1e-12, atol=1e-15)


def test_normal_is_gaussian_with_a_circular_law():
    """Kurtosis 3, and at H = 200 a spectral radius near the gain."""
    w = draws(init.Normal(1.5), (200, 200))[0]
    assert abs(np.mean(w**4) / np.mean(w**2) ** 2 - 3) < 5 * np.sqrt(96 / w.size)
    assert abs(np.abs(np.linalg.eigvals(w)).max() / 1.5 - 1) < 0.1


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (4, 6)])
def test_orthogonal_has_every_singular_value_at_the_scale(shape):
    w = init.Orthogonal(0.9)(KEY, shape, jnp.float64)
    np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), 0.9, rtol=1e-12)


def test_orthogonal_is_uniform():
    """Haar measure: tr Q has mean 0 and variance 1, and det Q = ±1 equally often, unlike QR without a sign fix."""
    q = draws(init.Orthogonal(), (3, 3), 4000)
    trace = np.trace(q, axis1=1, axis2=2)
    assert abs(trace.mean()) < 5 / np.sqrt(4000)
    assert abs(trace.var() - 1) < 5 * np.sqrt(2 / 4000)
    assert abs(np.linalg.det(q).mean()) < 5 / np.sqrt(4000)
    np.testing.assert_allclose(q.mean(0), 0, atol=5 * np.sqrt(1 / 3 / 4000))


@pytest.mark.parametrize("radius", [0.0, 0.5, 2.0])
def test_spectral_radius_is_exact(radius):
    for seed in range(3):
        w = init.SpectralRadius(radius)(jax.random.key(seed), (6, 6), jnp.float64)
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(w)).max(), radius, rtol=1e-12)


def test_identity_is_exact():
    np.testing.assert_array_equal(init.Identity(0.5)(KEY, (3, 3), jnp.float64), 0.5 * np.eye(3))


@pytest.mark.parametrize("cell", [LSTM(6, w_h=init.Orthogonal(0.9)), GRU(6, w_h=init.Orthogonal(0.9))], ids=str)
def test_each_gate_is_orthogonal_by_itself(cell):
    """Every [H, H] block is orthogonal and different: an orthogonal [H, 4H] is not four orthogonal [H, H]."""
    w_h = np.asarray(cell.init(KEY, 6).w_h)
    gates = np.split(w_h, w_h.shape[1] // 6, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, 0.81 * np.eye(6), atol=1e-12)
    assert len({gate.tobytes() for gate in gates}) == len(gates)


@pytest.mark.parametrize("cell", [LSTM(6, w_h=init.HiddenUniform()), GRU(6, w_x=init.HiddenUniform())], ids=str)
def test_hidden_uniform_bounds_by_the_size_of_one_gate(cell):
    """1/sqrt(H), with H of one gate and not of the packed matrix: PyTorch's rule."""
    params = cell.init(KEY, 6)
    w = np.abs(params.w_h if isinstance(cell, LSTM) else params.w_x)
    assert 0.9 / np.sqrt(6) < w.max() <= 1 / np.sqrt(6)


def test_per_gate_stacks_on_the_last_axis():
    """One key per gate, in the order of `jax.random.split`."""
    w = init.per_gate(init.Normal(), KEY, (2, 3), 4, jnp.float64)
    assert w.shape == (2, 12)
    for k, key in enumerate(jax.random.split(KEY, 4)):
        np.testing.assert_array_equal(w[:, 3 * k : 3 * k + 3], init.Normal()(key, (2, 3), jnp.float64))


@pytest.mark.parametrize("make", [init.Normal, init.Orthogonal, init.Identity, init.SpectralRadius])
@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan])
def test_a_scale_that_is_not_finite(make, scale):
    """The constructor raises, and names the field."""
    field = dataclasses.fields(make)[0].name
    with pytest.raises(ValueError, match=f"^{field} is {scale}; it must be a finite number"):
        make(scale)


@every_initializer
def test_a_numpy_scale_widens_nothing(initializer):
    """A scale from `np.linspace` is a float64 scalar; float32 weights stay float32, also under strict promotion."""
    fields = [field.name for field in dataclasses.fields(initializer)]
    numpy_scale = dataclasses.replace(initializer, **{field: np.float64(0.5) for field in fields})
    assert numpy_scale(KEY, (6, 6), jnp.float32).dtype == jnp.float32


def test_a_numpy_forget_bias_widens_nothing():
    assert LSTM(6, np.float64(2.0)).init(KEY, 6, "float32").b.dtype == jnp.float32


def test_defaults_are_orthogonal_over_time_and_lecun_over_inputs():
    """The documented defaults of cells: `w_h` orthogonal, `w_x` of variance 1/D, separate keys, zero biases."""
    params = Elman(6).init(KEY, 6)
    key_x, key_h = jax.random.split(KEY)
    np.testing.assert_array_equal(params.w_x, init.LeCunNormal()(key_x, (6, 6), jnp.float64))
    np.testing.assert_array_equal(params.w_h, init.Orthogonal()(key_h, (6, 6), jnp.float64))
    assert not params.b.any()
