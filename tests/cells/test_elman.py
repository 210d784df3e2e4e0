"""The Elman cell against backpropagation through time in NumPy, the chain rule, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import Elman, ElmanParams
from rnnjax.initializers import Orthogonal
from tests.registry import CELLS, NOTHING_SAID, B, T, assert_close, cotangents, on_every_engine, pull, sample

ELMANS = ["elman_tanh", "elman_relu", "elman_linear"]
SLOPES = {  # φ'(z), from h = φ(z)
    "elman_tanh": lambda h: 1 - h**2,
    "elman_relu": lambda h: (h > 0).astype(float),
    "elman_linear": np.ones_like,
}


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def forward(name, params, h, xs):
    """All hidden states [T + 1, B, H], h_0 first."""
    activation = {"elman_tanh": np.tanh, "elman_relu": lambda z: np.maximum(z, 0), "elman_linear": lambda z: z}[name]
    hs = [h]
    for x in xs:
        hs.append(activation(x @ params.w_x + hs[-1] @ params.w_h + params.b))
    return np.stack(hs)


@on_every_engine(ELMANS)
def test_backpropagation_through_time(name, engine):
    """The unrolled chain rule: δ_t = φ'(z_t) (∂L/∂y_t + δ_{t+1} W2ᵀ), with weight gradients summed over time."""
    drawn, weights = sample(name), cotangents(name)
    params, h_0, xs = as_numpy(drawn)
    carry_weight, y_weights = as_numpy(weights)
    hs = forward(name, params, h_0, xs)

    w_x, w_h, b = np.zeros_like(params.w_x), np.zeros_like(params.w_h), np.zeros_like(params.b)
    dxs = np.zeros_like(xs)
    from_later = carry_weight
    for t in reversed(range(T)):
        delta = SLOPES[name](hs[t + 1]) * (y_weights[t] + from_later)
        for row in range(B):
            w_x += np.outer(xs[t, row], delta[row])
            w_h += np.outer(hs[t, row], delta[row])
            b += delta[row]
        dxs[t] = delta @ params.w_x.T
        from_later = delta @ params.w_h.T

    (carry, ys), gradients = pull(name, engine, drawn, NOTHING_SAID, weights)
    assert_close((carry, ys), (jnp.asarray(hs[-1]), jnp.asarray(hs[1:])))
    assert_close(tuple(gradients.params), (w_x, w_h, b))
    assert_close(gradients.carry, from_later)
    assert_close(gradients.xs, dxs)


@pytest.mark.parametrize("name", ELMANS)
def test_the_jacobian_over_all_of_time_is_a_product(name):
    """∂h_T/∂h_0 = Π_t diag(φ'(z_t)) W2ᵀ, computed in NumPy for one row."""
    params, h_0, xs = sample(name)
    jacobian = jax.jacobian(lambda h: rnnjax.unroll(CELLS[name], params, xs[:, 0], carry=h, engine="scan")[0])(h_0[0])
    hs = forward(name, *as_numpy((params, h_0[0], xs[:, 0])))
    product = np.eye(3)
    for h in hs[1:]:
        product = np.diag(SLOPES[name](h)) @ np.asarray(params.w_h).T @ product
    assert_close(jacobian, product)


@pytest.mark.parametrize("name", ELMANS)
def test_without_a_recurrent_weight_it_forgets(name):
    """W2 = 0: each output depends only on its own input, and no gradient reaches earlier inputs."""
    drawn = sample(name)
    drawn = drawn._replace(params=drawn.params._replace(w_h=jnp.zeros((3, 3))))
    weights = (jnp.zeros((B, 3)), cotangents(name)[1].at[:-1].set(0.0))
    (_, ys), gradients = pull(name, "scan", drawn, NOTHING_SAID, weights)
    alone = jnp.stack([CELLS[name].step(drawn.params, jnp.full((B, 3), 9.0), x)[1] for x in drawn.xs])
    assert_close(ys, alone)
    assert not gradients.xs[:-1].any() and not gradients.carry.any()
    assert gradients.xs[-1].any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_an_orthogonal_linear_gradient_is_the_scale_to_the_lag(scale):
    """‖∂L/∂h_0‖ = scale^T ‖∂L/∂h_T‖ exactly, at every lag: the closed form in the decay plots."""
    w_h = Orthogonal(scale)(jax.random.key(0), (3, 3), jnp.float64)
    drawn = sample("elman_linear")
    drawn = drawn._replace(params=drawn.params._replace(w_h=w_h))
    weights = (cotangents("elman_linear")[0], jnp.zeros((T, B, 3)))
    _, gradients = pull("elman_linear", "scan", drawn, NOTHING_SAID, weights)
    got = jnp.linalg.norm(gradients.carry, axis=-1) / jnp.linalg.norm(weights[0], axis=-1)
    np.testing.assert_allclose(got, scale**T, rtol=1e-12)


@pytest.mark.parametrize(("w", "value"), [(2.0, 1125899906842624.0), (0.5, 2.0**-50)])
def test_the_scalar_case_is_a_power(w, value):
    """The lecture's 50 products of W2, which are exact powers of two."""
    params = ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), w), jnp.zeros(1))
    cell, xs = Elman(1, "linear"), jnp.ones((50, 1))
    gradient = jax.grad(lambda h: rnnjax.unroll(cell, params, xs, carry=h, engine="scan")[0][0])(jnp.zeros(1))
    assert float(gradient[0]) == value


@pytest.mark.parametrize(
    ("days", "hidden"),
    [
        ([0, 0], [0, 0]),
        ([0, 0.5], [0, 0.9]),
        ([1, 0.5], [1.8, 0]),
        ([1, 1], [1.8, 0.9]),
        ([1, 0.5, 0.5], [1.8, 0, 0.9]),
    ],
)
def test_the_lectures_network(days, hidden):
    """Hidden states of the published StatQuest network (W1 = 1.8, W2 = -0.5, ReLU); 1.1 of the last is its answer."""
    params = ElmanParams(w_x=jnp.array([[1.8]]), w_h=jnp.array([[-0.5]]), b=jnp.zeros(1))
    step = functools.partial(rnnjax.elman_step, params, activation="relu")
    _, hs = jax.lax.scan(step, jnp.zeros(1), jnp.array(days, float)[:, None])
    np.testing.assert_allclose(hs[:, 0], hidden, atol=1e-15)


def test_parameters_are_shaped_as_documented():
    params = jax.eval_shape(lambda key: Elman(4).init(key, 2), jax.random.key(0))
    assert [leaf.shape for leaf in params] == [(2, 4), (4, 4), (4,)]
    assert not Elman(6).init(jax.random.key(0), 6).b.any()


def test_the_initializers_given_are_the_ones_used():
    """The initializers `w_x` and `w_h` are used for the right matrix."""
    cell = Elman(4, w_x=rnnjax.initializers.Identity(3.0), w_h=rnnjax.initializers.Identity(0.5))
    params = cell.init(jax.random.key(0), 4)
    np.testing.assert_array_equal(params.w_x, 3 * np.eye(4))
    np.testing.assert_array_equal(params.w_h, np.eye(4) / 2)


@pytest.mark.parametrize(("name", "function"), [("elman_tanh", jnp.tanh), ("elman_relu", jax.nn.relu)])
def test_an_activation_of_ones_own(name, function):
    """Any elementwise function works and is hoisted, like the three names."""
    drawn, weights = sample(name), cotangents(name)

    def pulled(cell):
        outputs, pullback = jax.vjp(lambda p, h, xs: rnnjax.unroll(cell, p, xs, carry=h, engine="hoisted"), *drawn)
        return outputs, pullback(weights)

    assert_close(pulled(Elman(3, function)), pulled(CELLS[name]))
    outputs, _ = pulled(Elman(3, lambda z: jnp.sin(z) + z**2))
    h = drawn.carry
    for x in drawn.xs:
        z = x @ drawn.params.w_x + h @ drawn.params.w_h + drawn.params.b
        h = np.sin(z) + z**2
    assert_close(outputs[0], jnp.asarray(h))
