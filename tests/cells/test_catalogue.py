"""What each paper promises of its cell, the catalogue as a whole, and errors of cells given by shapes.

Values of every step are compared with `tests.paper_steps` in the property tests.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import cells
from rnnjax.cells.constrained import cayley, exponential
from tests import paper_steps
from tests.registry import CATALOGUE, CELLS, FIRST, assert_close, normal, sample

every_cell = pytest.mark.parametrize("name", cells.catalogue())


def drawn(cell, input_size=2, scale=1.0, seed="parameters"):
    params = jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))
    return normal(params, seed, scale=scale)


def test_every_cell_of_the_catalogue_is_in_the_registry_with_an_oracle():
    names = {*cells.catalogue(), *cells.convolutional()} - set(FIRST)
    assert set(CATALOGUE) == names == set(paper_steps.STEPS)
    assert set(CATALOGUE) <= set(CELLS)
    assert len(cells.catalogue()) >= 60


@every_cell
@pytest.mark.parametrize("hidden_size", [1, 6])
@pytest.mark.parametrize("input_size", [2, 5])
def test_every_size(name, hidden_size, input_size):
    """From drawn parameters; zero inputs stay finite, which masked steps rely on."""
    cell = cells.catalogue()[name](hidden_size)
    params = cell.init(jax.random.key(1), input_size)
    carry = cell.initial_carry(params, (3,))
    for x in (jnp.zeros((3, input_size)), jnp.ones((3, input_size))):
        carry, y = cell.step(params, carry, x)
    assert y.shape[0] == 3 and all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((carry, y)))


@every_cell
def test_hidden_size_is_checked(name):
    with pytest.raises(ValueError, match="must be a positive integer"):
        cells.catalogue()[name](0)


@pytest.mark.parametrize("name", [n for n in CATALOGUE if isinstance(CATALOGUE[n], cells.TextbookCell)])
def test_wrong_shapes_are_refused(name):
    """Of the input, of the carry, and parameters of another width: nothing broadcasts in silence."""
    cell, (params, carry, xs) = CATALOGUE[name], sample(name)
    with pytest.raises(ValueError, match="expect 2 features on its last axis"):
        cell.step(params, carry, xs[0][..., :1])
    with pytest.raises(ValueError, match=r"expected \[3, .*initial_carry"):
        cell.step(params, jax.tree.map(lambda leaf: leaf[:1], carry), xs[0])
    with pytest.raises(TypeError, match="both must have the same dtype"):
        cell.step(params, carry, xs[0].astype("float32"))
    with pytest.raises(ValueError, match="use the cell that they were drawn for"):
        cells.catalogue()[name](6).step(params, carry, xs[0])
    with pytest.raises(TypeError, match="without `w_x`"):
        cell.step(params[:1], carry, xs[0])


def test_hyperparameters_are_checked():
    for wrong in (
        lambda: cells.JANET(4, beta=float("nan")),
        lambda: cells.RecurrentHighway(4, depth=0),
        lambda: cells.OrthogonalRNN(4, map="svd"),  # pyright: ignore[reportArgumentType]
        lambda: cells.RateNetwork(4, form="current"),  # pyright: ignore[reportArgumentType]
        lambda: cells.DiagonalSSM(4, discretization="euler"),  # pyright: ignore[reportArgumentType]
        lambda: cells.IndRNN(4, activation="swish"),  # pyright: ignore[reportArgumentType]
        lambda: cells.Clockwork(5, modules=2),
        lambda: cells.MatrixLSTM(5, heads=2),
        lambda: cells.MassConservingLSTM(4, mass_size=2).init(jax.random.key(0), 2),
    ):
        with pytest.raises(ValueError, match=r"must be|choose|at least one"):
            wrong()


def test_mass_is_conserved():
    cell = cells.MassConservingLSTM(4, mass_size=2)
    params, xs = drawn(cell, 5), jnp.abs(normal(jnp.zeros((7, 3, 5)), "xs"))
    carry, ys = rnnjax.unroll(cell, params, xs)
    np.testing.assert_allclose(carry.sum(-1) + ys.sum((0, -1)), xs[..., :2].sum((0, -1)), rtol=1e-12)


@pytest.mark.parametrize("way", ["exponential", "cayley"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_orthogonal_and_unitary_matrices_keep_norms(way, scale):
    """Of states in a linear network without input, and so of gradients; unitary ones commute with i."""
    cell = cells.OrthogonalRNN(8, activation="linear", map=way)
    params = drawn(cell, scale=scale)._replace(b=jnp.zeros(8))
    h = normal(jnp.zeros(8), "h")
    last, _ = rnnjax.unroll(cell, params, jnp.zeros((50, 2)), carry=h)
    np.testing.assert_allclose(jnp.linalg.norm(last), jnp.linalg.norm(h), rtol=1e-11)
    u = cells.UnitaryRNN(5, map=way).matrix(drawn(cells.UnitaryRNN(5), scale=scale))
    times_i = jnp.kron(jnp.array([[0.0, 1.0], [-1.0, 0.0]]), jnp.eye(5))
    np.testing.assert_allclose(u @ u.T, jnp.eye(10), atol=1e-12)
    np.testing.assert_allclose(u @ times_i, times_i @ u, atol=1e-12)


def test_exponential_and_cayley_are_those_of_numpy():
    a = normal(jnp.zeros((6, 6)), "a", scale=2.0)
    a = a - a.T
    assert_close(exponential(a), jax.scipy.linalg.expm(a), 1e-11)
    assert_close(cayley(a), jnp.linalg.solve(jnp.eye(6) + a, jnp.eye(6) - a), 1e-11)


def test_exponential_gates_do_not_overflow():
    """With input gates up to e^800, in float32, against the same with the largest subtracted from all."""
    cell = cells.ScalarLSTM(2)
    params = drawn(cell, 1)
    params = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
    xs = jnp.linspace(-1.0, 1.0, 9, dtype="float32")[:, None]
    shifted = []
    for height in (0.0, 800.0):
        b = params.b.at[:2].add(jnp.asarray(height, "float32"))
        shifted.append(rnnjax.unroll(cell, params._replace(b=b), xs)[1])
    assert bool(jnp.isfinite(shifted[1]).all())
    np.testing.assert_allclose(shifted[0], shifted[1], atol=1e-4)  # from an empty state, a common factor cancels


def test_clocks_tick_at_their_periods():
    cell = cells.Clockwork(6, modules=3)
    _, ys = rnnjax.unroll(cell, drawn(cell), normal(jnp.zeros((9, 2)), "xs"))
    changed = np.asarray(ys[1:] != ys[:-1])
    assert changed[:, :2].all()
    for t in range(1, 9):
        assert changed[t - 1, 2:4].all() == (t % 2 == 0) == changed[t - 1, 2:4].any()
        assert changed[t - 1, 4:].all() == (t % 4 == 0) == changed[t - 1, 4:].any()


def test_antisymmetric_flows_neither_grow_nor_decay():
    """The Jacobian of the flow has no real parts but -γ times slopes: at γ = 0 all eigenvalues are imaginary."""
    cell = cells.Antisymmetric(6, dt=1.0, gamma=0.0)
    params = drawn(cell)
    jacobian = jax.jacobian(lambda h: cell.step(params._replace(b=jnp.zeros(6)), h, jnp.zeros(2))[0] - h)(jnp.zeros(6))
    np.testing.assert_allclose(jnp.real(jnp.linalg.eigvals(jacobian)), 0.0, atol=1e-12)


def test_oscillators_keep_volume():
    """UnICORNN's step has determinant 1, whatever the state: Rusch and Mishra, proposition 3.1."""
    cell = cells.UnICORNN(3)
    params, (y, z) = drawn(cell), normal((jnp.zeros(3), jnp.zeros(3)), "state")

    def step(state):
        carry, _ = cell.step(params, cells.Oscillator(state[:3], state[3:]), jnp.ones(2))
        return jnp.concatenate(carry)

    assert abs(float(jnp.linalg.det(jax.jacobian(step)(jnp.concatenate([y, z])))) - 1) < 1e-12


def test_a_chaos_free_network_forgets_without_input():
    cell = cells.CFN(5)
    params = drawn(cell, scale=3.0)
    _, ys = rnnjax.unroll(cell, params, jnp.zeros((4000, 2)), carry=jnp.full(5, 3.0))
    assert float(jnp.abs(ys[-1]).max()) < 0.05 and bool((jnp.abs(ys[1:]) <= jnp.abs(ys[:-1])).all())


def test_an_impulse_decays_with_the_eigenvalues():
    """LRU: y_t = Re(λ^t exp(γ) B C) after an impulse."""
    cell = cells.LRU(4)
    params = cell.init(jax.random.key(0), 1, "float64")
    xs = jnp.zeros((30, 1)).at[0].set(1.0)
    _, ys = rnnjax.unroll(cell, params, xs)
    params = jax.tree.map(np.asarray, params)
    values = np.exp(-np.exp(params.nu) + 1j * np.exp(params.theta))
    b = np.exp(params.gamma) * (params.w_x[0, :4] + 1j * params.w_x[0, 4:])
    c = params.w_o[:4] - 1j * params.w_o[4:]
    expected = np.real(values[None] ** np.arange(30)[:, None] * b @ c) + np.asarray(xs @ params.w_d)
    np.testing.assert_allclose(ys, expected, atol=1e-12)
    assert bool((np.abs(values) <= 1).all())


def test_a_state_space_model_is_the_solution_of_its_equation():
    """With a constant input, zero-order hold is exact, and the bilinear rule of second order in dt."""
    errors = {}
    for way in ("zoh", "bilinear"):
        for dt in (0.1, 0.05):
            cell = cells.DiagonalSSM(1, discretization=way)
            params = drawn(cell, 1)._replace(rate=jnp.zeros(1), frequency=jnp.ones(1), log_dt=jnp.log(jnp.full(1, dt)))
            carry, _ = rnnjax.unroll(cell, params, jnp.ones((round(1 / dt), 1)))
            rate, b = -1 + 1j, complex(params.w_x[0, 0], params.w_x[0, 1])
            errors[way, dt] = abs(complex(carry.re[0], carry.im[0]) - b * (np.exp(rate) - 1) / rate)
    assert errors["zoh", 0.1] < 1e-12
    assert 3.5 < errors["bilinear", 0.1] / errors["bilinear", 0.05] < 4.5


def test_both_forms_of_rates_have_the_same_dynamics():
    """v = r W_h, without input: Miller and Fumarola (2012)."""
    before, after = cells.RateNetwork(4), cells.RateNetwork(4, form="rate")
    params = drawn(before)._replace(b=jnp.zeros(4))
    r = normal(jnp.zeros(4), "r")
    v, _ = rnnjax.unroll(before, params, jnp.zeros((20, 2)), carry=r @ params.w_h)
    r, _ = rnnjax.unroll(after, params, jnp.zeros((20, 2)), carry=r)
    assert_close(v, r @ params.w_h)


def test_a_reservoir_is_not_trained():
    cell = cells.EchoState(20)
    params = cell.init(jax.random.key(0), 2)
    gradient = jax.grad(lambda p: rnnjax.unroll(cell, p, jnp.ones((5, 2)))[1].sum())(params)
    assert all(not bool(leaf.any()) for leaf in jax.tree.leaves(gradient))
    assert abs(float(jnp.abs(jnp.linalg.eigvals(params.w_h)).max()) - 0.9) < 1e-5


def test_the_gate_of_mut2_is_the_reset_before_gru():
    mut2, gru = cells.MUT2(4), cells.ResetBeforeGRU(4)
    params, h, x = drawn(mut2), normal(jnp.zeros(4), "h"), normal(jnp.zeros(2), "x")
    swapped = [0, 1, 2]  # blocks z, r, n here; r, z, n there, with -z
    sign = jnp.array([-1.0, 1.0, 1.0])

    def there(w):
        parts = [s * part for s, part in zip(sign, jnp.split(w, 3, axis=-1), strict=True)]
        return jnp.concatenate([parts[swapped[1]], parts[swapped[0]], parts[swapped[2]]], axis=-1)

    assert_close(gru.step(jax.tree.map(there, params), h, x), mut2.step(params, h, x))


@pytest.mark.parametrize("name", cells.convolutional())
@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 4)], ids=["1d", "2d", "3d"])
def test_convolutions_with_a_kernel_of_one_are_the_cell_at_every_place(name, shape):
    conv = cells.convolutional()[name](4, shape)
    conv = type(conv)(4, shape, kernel=1)
    plain = {"conv_lstm": rnnjax.LSTM(4), "conv_gru": cells.ResetBeforeGRU(4)}[name]
    params = drawn(conv)
    x = normal(jnp.zeros((2, *shape, 2)), "x")
    carry = normal(conv.initial_carry(params, (2,)), "carry")
    flat = [leaf.reshape(leaf.shape[-2:]) if leaf.ndim > 1 else leaf for leaf in params]
    record = rnnjax.LSTMParams if name == "conv_lstm" else cells.Gated
    state = rnnjax.LSTMCarry(*carry) if name == "conv_lstm" else carry
    expected_carry, expected = plain.step(record(*flat), state, x)
    new, y = conv.step(params, carry, x)
    assert_close(y, expected)
    assert_close(jax.tree.leaves(new), jax.tree.leaves(expected_carry))
