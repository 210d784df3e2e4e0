"""The associative engine: which steps it takes, and long sequences; its properties are in the tests of all engines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import cells
from tests.registry import CELLS, LINEAR, PLAIN, assert_close, normal, sample

NOT_LINEAR = [name for name in PLAIN if name not in LINEAR]


def leaky(step):
    """A user's cell of four units with a parameter for each."""
    return rnnjax.StepCell(step, lambda p, batch_shape: jnp.zeros((*batch_shape, 4), p.dtype))


def run(cell, params, xs, **options):
    return rnnjax.unroll(cell, params, xs, **options)


@pytest.mark.parametrize(
    "step",
    [
        lambda a, h, x: (a * h + x, jnp.tanh(a * h + x)),
        lambda a, h, x: (-(x - h / (1 + a * a)) / 2, h),
        lambda a, h, x: (jnp.where(x > 0, h, a * x - h), h * h),
        lambda a, h, x: (jnp.maximum(h - a, x), h),
        lambda a, h, x: (x * a, h),
        lambda a, h, x: (jnp.exp(-jnp.abs(x)) * (h - x) + jnp.tanh(x) * h, h + x),
    ],
    ids=["decay", "signs", "choice", "maximum", "no memory", "twice"],
)
def test_a_users_own_step(step):
    cell, a, xs = leaky(step), normal(jnp.zeros(4), "a"), normal(jnp.zeros((9, 3, 4)), "xs")
    options = {"lengths": np.array([9, 4, 0]), "resets": np.arange(27).reshape(9, 3) % 4 == 0}
    expected = run(cell, a, xs, engine="scan", carries=True, **options)
    assert_close(run(cell, a, xs, engine="associative", carries=True, **options), expected)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda a, h, x: (jnp.tanh(h + x), h), "`carry` goes through `tanh`, which is not linear in it"),
        (lambda a, h, x: (h * h + x, h), "`carry` goes through `(mul|integer_pow|square)`, which is not linear in it"),
        (lambda a, h, x: (h @ jnp.outer(a, a) + x, h), "goes through `dot_general`"),
        (lambda a, h, x: (jnp.roll(h, 1, axis=-1) + x, h), "mixes its elements or changes their number"),
        (lambda a, h, x: (jnp.maximum(2 * h, x), h), "goes through `max`"),
    ],
    ids=["tanh", "square", "matrix", "roll", "scaled maximum"],
)
def test_what_is_not_linear_is_named(step, why):
    with pytest.raises(rnnjax.NotLinear, match=f"cannot run as an associative scan: .*{why}"):
        run(leaky(step), jnp.ones(4), jnp.ones((5, 4)), engine="associative")


def test_a_counter_in_the_carry_is_named():
    cell = rnnjax.StepCell(
        lambda p, carry, x: ((carry[0] * p + x, carry[1] + 1), carry[0]),
        lambda p, b: (jnp.zeros((*b, 4)), jnp.zeros(b, int)),
    )
    with pytest.raises(rnnjax.NotLinear, match=r"`carry\[1\]` is int64"):
        run(cell, jnp.array(0.5), jnp.ones((5, 4)), engine="associative")


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_no_other_cell_of_the_registry_is_linear(name):
    """So that `LINEAR` has all for which the properties must hold."""
    with pytest.raises(rnnjax.NotLinear):
        run(CELLS[name], **sample(name)._asdict(), engine="associative")


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("steps", [1000, 100_000])
def test_long_sequences_are_those_of_the_scan(name, steps):
    """With lengths, a mask and resets, to 1e-10 of the largest value."""
    cell = CELLS[name]
    params = sample(name).params
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(steps, 2, 2)))
    options = {
        "lengths": np.array([steps, steps // 2]),
        "mask": rng.random((steps, 2)) > 0.1,
        "resets": rng.random((steps, 2)) < 3 / steps,
    }
    got = run(cell, params, xs, engine="associative", carries=True, **options)
    expected = run(cell, params, xs, engine="scan", carries=True, **options)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * float(jnp.abs(b).max()))


def test_explain_says_what_runs():
    cell = cells.MinGRU(4)
    params = jax.eval_shape(lambda key: cell.init(key, 2), jax.random.key(0))
    layer = rnnjax.explain(cell, params, jax.ShapeDtypeStruct((5, 2), params.b.dtype), engine="associative").layers[0]
    assert layer.engine == "associative" and "linear in its carry" in layer.why
