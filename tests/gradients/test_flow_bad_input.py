"""Invalid inputs of exponents and Jacobians, and their messages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import gradients
from tests.gradients.test_bad_input import says

spectrum, leading, jacobians = gradients.lyapunov_spectrum, gradients.leading_exponent, gradients.jacobians
every_function = pytest.mark.parametrize("function", [spectrum, leading, jacobians], ids=lambda f: f.__name__)

GRU = rnnjax.GRU(3)
PARAMS = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda key: GRU.init(key, 2), jax.random.key(0)))
XS = np.ones((20, 2, 2))


@every_function
def test_missing_values_are_named(function):
    """Raises if values are known; under `jit` the result is NaN in that row only (below)."""
    xs = XS.copy()
    xs[7, 1] = np.nan
    xs[9] = np.inf
    with pytest.raises(ValueError) as caught:
        function(GRU, PARAMS, xs)
    says(caught.value, "`xs` is not finite at 2 of 20 steps", "first at step 7", "fill or cut out")


def test_missing_values_under_jit_are_loud_in_their_row_alone():
    xs = XS.copy()
    xs[7, 1] = np.nan
    params = jax.tree.map(lambda leaf: leaf + 0.1, PARAMS)
    found = jax.jit(functools.partial(spectrum, GRU))(params, xs)
    assert np.isnan(found.exponents[1]).any() and np.isnan(found.mean[1]) and int(found.survivors[1]) < 3
    assert np.isnan(found.dimension[1]) and np.isnan(found.entropy_rate[1])
    assert np.isfinite(found.mean[0])


@every_function
def test_a_counter_in_the_carry_has_no_gradient(function):
    cell = rnnjax.StepCell(
        lambda params, carry, x: ((carry[0] + x, carry[1] + 1), x),
        lambda params, batch_shape: (jnp.zeros((*batch_shape, 2)), jnp.zeros(batch_shape, "int32")),
    )
    with pytest.raises(TypeError) as caught:
        function(cell, None, XS)
    says(caught.value, "`carry`[1] is int32", "has no gradient", "keep counters")


@every_function
def test_two_directions_and_half_precision(function):
    cell = rnnjax.Bidirectional(GRU, GRU)
    with pytest.raises(TypeError, match="no single step"):
        function(cell, (PARAMS, PARAMS), XS)
    half = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), PARAMS)
    with pytest.raises(TypeError, match="needs float32 or float64"):
        function(GRU, half, jnp.asarray(XS, "bfloat16"))
    with pytest.raises(ValueError, match="time first"):
        function(GRU, PARAMS, XS[:, 0, 0])
    with pytest.raises(ValueError, match="initial_carry"):
        function(GRU, PARAMS, XS, carry=np.zeros(3))


@pytest.mark.parametrize("k", [0, 4, 2.0, True])
def test_more_exponents_than_there_are(k):
    with pytest.raises(ValueError) as caught:
        spectrum(GRU, PARAMS, XS, k=k)
    says(caught.value, f"`k` is {k!r}", "has 3 numbers", "1 <= k <= 3")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transient": 20}, ("20 steps", "`transient` drops 20", "22 steps or more")),
        ({"transient": 50}, ("`transient` drops 50", "52 steps or more")),
        ({"interval": 11}, ("`interval` is 11", "22 steps or more")),
        ({"transient": -1}, ("`transient` is -1", "0 or more")),
        ({"interval": 0}, ("`interval` is 0", "1 or more")),
        ({"transient": 2.5}, ("`transient` is 2.5", "integer")),
    ],
)
def test_too_few_steps(options, words):
    with pytest.raises(ValueError) as caught:
        spectrum(GRU, PARAMS, XS, **options)
    says(caught.value, *words)
    if "transient" in options:
        with pytest.raises(ValueError, match=r"`transient`"):
            leading(GRU, PARAMS, XS, **options)


def test_matrices_that_are_none():
    for function in (gradients.matrix_statistics, lambda m: gradients.lag_products(m, 1)):
        with pytest.raises(ValueError, match="square"):
            function(np.ones((3, 2, 4)))
        with pytest.raises(ValueError, match="not finite, in 1 of them"):
            function(np.array([[[np.nan]], [[1.0]]]))
    with pytest.raises(ValueError, match="`lag` is 4, but there are 3"):
        gradients.lag_products(np.ones((3, 1, 1)), 4)
