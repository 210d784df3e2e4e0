"""Flossing against NumPy's QR, and its gradient against finite differences."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from rnnjax.gradients.flossing import differentiable_orthonormalise
from tests.gradients.measured import QUICKLY
from tests.registry import CELLS, normal, sample

quick = functools.partial(jax.jit, compiler_options=QUICKLY)

STEPS, TRANSIENT, INTERVAL = 9, 3, 2


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


@functools.cache
def steps_and_jacobians(name: str) -> Any:
    """`(params, carry, x) -> (carry, ∂carry/∂carry)` of one row, the carry as a vector."""
    cell: Any = CELLS[name]
    carry = cell.initial_carry(sample(name).params, ())
    tree = jax.tree.structure(carry)
    edges = np.cumsum([leaf.size for leaf in jax.tree.leaves(carry)])[:-1]

    def step(params, vector, x):
        new, _ = cell.step(params, tree.unflatten(jnp.split(vector, edges)), x)
        return jnp.concatenate(jax.tree.leaves(new))

    return quick(lambda *a: (step(*a), jax.jacfwd(step, argnums=1)(*a)))


def by_numpy(name: str, k: int, params: Any, first: np.ndarray) -> np.ndarray:
    """The k leading exponents of each row by LAPACK's QR, `[B, k]`; `first` [B, k, n] are the perturbations."""
    drawn = sample(name, steps=STEPS)
    both = []
    for b, rows in enumerate(first):
        vector = flat(jax.tree.map(lambda leaf, b=b: leaf[b], drawn.carry))
        total = np.zeros(k)
        for t in range(STEPS):
            vector, jacobian = steps_and_jacobians(name)(params, vector, drawn.xs[t, b])
            rows = rows @ np.asarray(jacobian).T
            if t >= TRANSIENT - 1 and (t + 1 - TRANSIENT) % INTERVAL == 0:
                q, r = np.linalg.qr(rows.T)
                rows = q.T
                if t >= TRANSIENT:
                    total += np.log(np.abs(np.diag(r)))
        both.append(total / (STEPS - TRANSIENT))
    return np.stack(both)


def first_rows(k: int, size: int, rows: int = 3) -> np.ndarray:
    """The perturbations drawn from the key."""
    drawn = jax.random.normal(jax.random.key(0), (rows, k, size), "float64")
    return np.stack([np.linalg.qr(each.T)[0].T for each in np.asarray(drawn)])


@functools.cache
def program(name: str, k: int) -> Any:
    cell: Any = CELLS[name]

    def price(params, carry, xs):
        found = functools.partial(
            gradients.flossing, cell, k=k, transient=TRANSIENT, interval=INTERVAL, target=0.1, key=jax.random.key(0)
        )
        return found(params, xs, carry=carry)

    return quick(jax.value_and_grad(price))


@pytest.mark.parametrize(("name", "k"), [("lstm", 4)])
def test_value_and_gradient_are_those_of_numpy(name, k):
    """Derivatives along random directions of all parameters, through states, Jacobians and orthonormalisations."""
    drawn = sample(name, steps=STEPS)
    start = first_rows(k, flat(jax.tree.map(lambda leaf: leaf[0], drawn.carry)).size)

    def price(params):
        return ((by_numpy(name, k, params, start) - 0.1) ** 2).mean()

    value, found = program(name, k)(*drawn)
    np.testing.assert_allclose(value, price(drawn.params), rtol=1e-11)
    for seed in range(2):
        d = normal(drawn.params, f"flossing {seed}")
        ahead, behind = (price(jax.tree.map(lambda p, d, h=h: p + h * d, drawn.params, d)) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(flat(found) @ flat(d), (ahead - behind) / 2e-5, rtol=2e-6)


def test_the_exponents_are_those_of_the_spectrum():
    drawn = sample("gru", steps=STEPS)
    options: Any = {"k": 3, "transient": TRANSIENT, "interval": INTERVAL}

    def both(drawn):
        spectrum = gradients.lyapunov_spectrum(CELLS["gru"], **drawn._asdict(), **options)
        return gradients.finite_time_exponents(CELLS["gru"], **drawn._asdict(), **options), spectrum.exponents

    found, expected = quick(both)(drawn)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("k", [3, 11])
def test_the_derivative_of_orthonormalisation(k):
    """Derivatives of Q and log diag L, forward and reverse mode, against central differences of LAPACK's QR."""
    rng = np.random.default_rng(k)
    rows, drows = rng.normal(size=(2, 2, k, 12))
    weights = rng.normal(size=(2, k, 12)), rng.normal(size=(2, k))

    def by_lapack(rows):
        q, r = np.linalg.qr(np.swapaxes(rows, -1, -2))
        diagonal = np.diagonal(r, axis1=-2, axis2=-1)
        return np.swapaxes(q * np.sign(diagonal)[:, None, :], -1, -2), np.log(np.abs(diagonal))

    def along(rows, drows):
        q, logs = differentiable_orthonormalise(rows)
        _, pull = jax.vjp(differentiable_orthonormalise, rows)
        return (q, logs), jax.jvp(differentiable_orthonormalise, (rows,), (drows,))[1], pull(weights)[0]

    values, tangents, pulled = quick(along)(rows, drows)
    h = 1e-6
    ahead, behind = by_lapack(rows + h * drows), by_lapack(rows - h * drows)
    for got, expected in zip(values, by_lapack(rows), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)
    for got, a, b in zip(tangents, ahead, behind, strict=True):
        np.testing.assert_allclose(got, (a - b) / (2 * h), rtol=1e-6, atol=1e-7)
    transposed = sum((np.asarray(t) * w).sum() for t, w in zip(tangents, weights, strict=True))
    np.testing.assert_allclose((pulled * drows).sum(), transposed, rtol=1e-10)


def test_training_on_it_moves_the_exponents_to_the_target():
    """Gradient descent turns a network that forgets into one that does not."""
    cell = rnnjax.Elman(4, w_h=rnnjax.initializers.Normal(0.5))
    params = cell.init(jax.random.key(1), 1)
    xs = 0.1 * jax.random.normal(jax.random.key(2), (30, 2, 1))

    @quick
    def train(params):
        def one(params, _):
            value, gradient = jax.value_and_grad(lambda p: gradients.flossing(cell, p, xs, k=2))(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

        return jax.lax.scan(one, params, None, length=400)

    _, prices = train(params)
    assert prices[0] > 0.3 and prices[-1] < 0.01 * prices[0]


def test_what_is_annihilated_costs_infinity_and_bad_input_is_refused():
    params = rnnjax.ElmanParams(w_x=jnp.ones((1, 2)), w_h=jnp.diag(jnp.array([1.0, 0.0])), b=jnp.zeros(2))
    cell, xs = rnnjax.Elman(2, "linear"), jnp.ones((5, 1))
    assert float(quick(lambda: gradients.flossing(cell, params, xs, k=1, transient=1))()) < 1e-20
    assert float(quick(lambda: gradients.flossing(cell, params, xs, k=2, transient=1))()) == np.inf
    wrong: Any = (({"k": 3}, "`k` is 3"), ({"k": 1, "target": float("nan")}, "target is nan"))
    for options, what in wrong:
        with pytest.raises(ValueError, match=what):
            gradients.flossing(cell, params, xs, **options)
    with pytest.raises(TypeError, match="clips its adjoint"):
        gradients.flossing(gradients.ClippedAdjoint(cell), params, xs, k=1)
