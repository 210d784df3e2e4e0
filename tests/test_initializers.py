"""Initializers: exact properties, and statistics with fixed seeds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax.initializers as init
from rnnjax import GRU, LSTM, Elman, cells

ALL = [
    init.Normal(1.5),
    init.Orthogonal(0.9),
    init.Identity(0.5),
    init.SpectralRadius(1.2),
    init.GlorotUniform(),
    init.GlorotNormal(),
    init.HeUniform(),
    init.HeNormal(),
    init.LeCunNormal(),
    init.HiddenUniform(),
    init.SkewSymmetric(0.7),
    init.Ring(0.5, 0.9, 3.0),
]
SQUARE_ONLY = (init.Identity, init.SpectralRadius, init.SkewSymmetric, init.Ring)
SCALED = [init.Normal, init.Orthogonal, init.Identity, init.SpectralRadius, init.SkewSymmetric]
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


@every_initializer
def test_half_precision_is_float32_rounded(initializer):
    """Half precision equals rounded float32, since LAPACK has no half-precision QR or eigenvalues."""
    half = initializer(KEY, (6, 6), "bfloat16")
    assert half.dtype == "bfloat16"
    np.testing.assert_array_equal(half, initializer(KEY, (6, 6), "float32").astype("bfloat16"))


@every_initializer
def test_rectangular(initializer):
    """`[D, H]` with D < H and D > H, except for initializers of square matrices."""
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


@pytest.mark.parametrize(
    ("initializer", "shape"),
    [(init.Normal(), (6, 6)), (init.HeNormal(), (6, 6)), *[(i, (7, 7)) for i in ALL[-2:]], (init.Chrono(50), (5,))],
    ids=str,
)
def test_jit_and_vmap_are_eager(initializer, shape):
    """vmap over keys, as in the experiments' sweeps over seeds."""
    for w, key in zip(draws(initializer, shape, 3), jax.random.split(KEY, 3), strict=True):
        np.testing.assert_allclose(w, initializer(key, shape, jnp.float64), rtol=1e-12)


# (initializer, shape, variance, bound on the absolute value or None)
STATISTICS = [
    (init.Normal(), (50, 20), 1 / 50, None),
    (init.Normal(2.0), (20, 50), 4 / 20, None),
    (init.Orthogonal(), (30, 30), 1 / 30, 1.0),
    (init.GlorotUniform(), (50, 20), 2 / 70, np.sqrt(6 / 70)),
    (init.GlorotNormal(), (50, 20), 2 / 70, None),
    (init.HeUniform(), (50, 20), 2 / 50, np.sqrt(6 / 50)),
    (init.HeNormal(), (50, 20), 2 / 50, None),
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


@pytest.mark.parametrize("kind", SCALED)
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


def uniform(sample):
    """Whether a sample is from U(0, 1): the Kolmogorov-Smirnov distance, which exceeds 1.95 / sqrt(n) once in 1000."""
    sample, n = np.sort(np.ravel(sample)), np.size(sample)
    return np.abs(sample - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)


def test_skew_symmetric():
    """Exactly antisymmetric in every dtype, with imaginary eigenvalues in Wigner's semicircle of radius 2 gain."""
    for dtype in ("float64", "float32", "bfloat16"):
        w = init.SkewSymmetric(0.7)(KEY, (7, 7), dtype)
        assert bool((w == -w.T).all())
    w = draws(init.SkewSymmetric(0.7), (200, 200))[0]
    entries = w[np.triu_indices(200, 1)]
    assert abs(entries.var() / (0.49 / 200) - 1) < 5 * np.sqrt(2 / entries.size)
    values = np.linalg.eigvals(w)
    assert np.abs(values.real).max() < 1e-12 and abs(np.abs(values).max() / 1.4 - 1) < 0.05
    assert abs(np.mean(values.imag**2) / 0.49 - 1) < 0.05  # the variance of the semicircle is gain²


@pytest.mark.parametrize(("low", "high", "phase"), [(0.0, 1.0, 2 * np.pi), (0.6, 0.9, 0.5)])
def test_ring_is_uniform_by_area(low, high, phase):
    """|λ|² and the phase of the eigenvalues, in pairs of conjugates, and of `cells.LRU`; Orvieto et al., lemma 3.2."""
    ring = init.Ring(low, high, phase)
    matrices = np.linalg.eigvals(draws(ring, (6, 6), 400)).ravel()
    np.testing.assert_allclose(np.sort_complex(matrices), np.sort_complex(matrices.conj()), atol=1e-12)
    drawn = cells.LRU(500, low=low, high=high, phase=phase).init(KEY, 1)
    lru = np.exp(-np.exp(np.asarray(drawn.nu)) + 1j * np.exp(np.asarray(drawn.theta)))
    for values, largest in ((matrices[matrices.imag > 0], min(phase, np.pi)), (lru, phase)):
        assert uniform((np.abs(values) ** 2 - low**2) / (high**2 - low**2))
        assert uniform(np.angle(values) % (2 * np.pi) / largest)
    assert np.isfinite(drawn.gamma).all()


def test_ring_of_an_odd_size_has_one_real_eigenvalue():
    values = np.linalg.eigvals(draws(init.Ring(0.5, 0.9), (3, 3), 200))
    real = values[np.abs(values.imag) < 1e-12].real
    assert real.size == 200 and uniform((real**2 - 0.25) / (0.81 - 0.25)) and 0.3 < (real > 0).mean() < 0.7


def test_the_edges_of_a_ring_are_finite():
    """A point, a circle of radius 1 and phases of 0, whose logarithms would be infinite, also in half precision."""
    for ring in (init.Ring(0.0, 0.0), init.Ring(1.0, 1.0, 0.0)):
        for dtype in ("float32", "bfloat16"):
            assert bool(jnp.isfinite(ring.log_decay(KEY, (3,), dtype)).all())
            assert bool(jnp.isfinite(ring.log_phase(KEY, (3,), dtype)).all())
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(ring(KEY, (4, 4), "float64"))), ring.high, atol=1e-12)


CHRONO = [
    LSTM(64, forget_bias=init.Chrono(50)),
    cells.LSTMProjected(64, 2, forget_bias=init.Chrono(50)),
    cells.PeepholeLSTM(64, forget_bias=init.Chrono(50)),
    cells.ConvLSTM(64, (2,), forget_bias=init.Chrono(50)),
    cells.CoupledLSTM(64, forget_bias=init.Chrono(50)),
    cells.JANET(64, forget_bias=init.Chrono(50)),
    GRU(64, update_bias=init.Chrono(50)),
]


def test_chrono_is_the_log_of_a_uniform_number_of_steps():
    assert uniform((np.exp(draws(init.Chrono(5), (4000,))) - 1) / 3)


@pytest.mark.parametrize("cell", CHRONO, ids=lambda cell: type(cell).__name__)
def test_a_cell_with_chrono(cell):
    """The gate that keeps the state, minus that at the input gate, and nothing else; drawn from the key."""
    params, close = (
        jax.jit(lambda key: cell.init(key, 2))(KEY),
        functools.partial(np.testing.assert_allclose, rtol=1e-12),
    )
    plain = dataclasses.replace(cell, **{"update_bias" if isinstance(cell, GRU) else "forget_bias": 0.0}).init(KEY, 2)
    jax.tree.map(close, params._replace(b=0.0), plain._replace(b=0.0))
    gates = {3: "fgo", 2: "fg"}.get(len(params.b) // 64, "ifgo") if not isinstance(cell, GRU) else "rfn"
    biases = dict(zip(gates, np.split(np.asarray(params.b), len(gates)), strict=True))
    kept = biases.pop("f")
    assert uniform((np.exp(kept) - 1) / 48) and (kept != cell.init(jax.random.key(1), 2).b[64 * gates.index("f")]).all()
    np.testing.assert_array_equal(biases.pop("i", -kept), -kept)
    assert not any(gate.any() for gate in biases.values())
    assert eval(repr(cell), vars(init) | vars(cells)) == cell


def test_a_gru_with_an_update_bias():
    np.testing.assert_array_equal(GRU(2, update_bias=1.5).init(KEY, 3).b, [0, 0, 1.5, 1.5, 0, 0])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: init.Chrono(2), "max_steps is 2; .* more than 2"),
        (lambda: init.Chrono(np.inf), "max_steps is inf"),
        (lambda: init.Ring(0.5, 0.4), "low is 0.5 and high is 0.4; .* low <= high <= 1"),
        (lambda: init.Ring(0.5, 1.1), "high is 1.1"),
        (lambda: init.Ring(phase=7.0), "phase is 7.0"),
        (lambda: cells.LRU(3, low=-0.1), "low is -0.1"),
        (lambda: GRU(3, update_bias=np.nan), "update_bias is nan; it must be a finite number"),
    ],
)
def test_numbers_that_do_not_fit(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_no_initializer_has_the_name_of_a_cell():
    """A saved model finds its classes by their names."""
    assert not set(vars(init)) & set(cells.__all__)


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


@pytest.mark.parametrize("make", SCALED)
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
