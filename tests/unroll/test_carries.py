"""`carries=True`: the carry after each step, for every cell and engine, in values and gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import (
    ALL_COUNT,
    ASSOCIATIVE,
    CAUSAL,
    CELLS,
    COMBINED,
    ENGINES,
    VARIANTS,
    Sample,
    T,
    Times,
    assert_close,
    assert_identical,
    both_directions,
    compiled,
    cotangents,
    every_cell,
    normal,
    on_every_engine,
    sample,
)


def unroll(name: str, drawn: Sample, times: Times, reverse: bool = False, **options: Any) -> Any:
    """`(carry, ys, carries)`."""
    return rnnjax.unroll(CELLS[name], **drawn._asdict(), **times._asdict(), reverse=reverse, carries=True, **options)


@functools.cache
def _pull(name: str, engine: str, reverse: bool) -> Any:
    options = (ENGINES | ASSOCIATIVE | VARIANTS)[engine]

    def pulled(drawn: Sample, times: Times, weights: Any):
        found, pullback = jax.vjp(lambda drawn: unroll(name, drawn, times, reverse, **options), drawn)
        return found, pullback(weights)[0]

    return compiled(engine, pulled)


@functools.cache
def weights(name: str) -> Any:
    """A weight for every number, so that a gradient at the wrong step would be noticed."""
    shapes = jax.eval_shape(lambda drawn: unroll(name, drawn, Times(), engine="scan"), sample(name))
    return (*cotangents(name), normal(shapes[2], f"{name} carries"))


@functools.cache
def pulled(name: str, engine: str, reverse: bool) -> Any:
    """`((carry, ys, carries), gradients)` with lengths, gaps and resets; one compiled program."""
    return _pull(name, engine, reverse)(sample(name), COMBINED, weights(name))


@pytest.mark.parametrize("name", CAUSAL)
@both_directions
def test_they_are_those_of_one_step_after_another(name, reverse):
    """T calls of `rnnjax.step` in scan order; steps after a row's length are masked, like gaps."""
    params, carry, xs = sample(name)
    within = np.arange(T)[:, None] < COMBINED.lengths
    counts, resets = within & COMBINED.mask, within & COMBINED.resets
    step = jax.jit(lambda carry, x, mask, resets: rnnjax.step(CELLS[name], params, carry, x, mask=mask, resets=resets))
    collected, outputs = {}, {}
    for t in reversed(range(T)) if reverse else range(T):
        carry, outputs[t] = step(carry, xs[t], counts[t], resets[t])
        collected[t] = carry

    def over_time(found: dict[int, Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(found[t] for t in range(T)))

    found, _ = pulled(name, "scan", reverse)
    assert_close(found, (carry, over_time(outputs), over_time(collected)))


@on_every_engine(loop=False)
def test_every_engine_is_the_loop(name, engine):
    """All three outputs, and the gradients of parameters, carry and inputs for weights on all of them."""
    assert_close(pulled(name, engine, False), pulled(name, "loop", False))


@every_cell
def test_every_engine_is_the_scan_in_reverse(name):
    """The carries equal those of consecutive steps."""
    assert_close(pulled(name, "hoisted", True), pulled(name, "scan", True))


@every_cell
def test_without_a_gradient_they_are_the_same(name):
    """The hoisted engine has a separate loop for values without derivatives."""
    values = jax.jit(lambda drawn, times: unroll(name, drawn, times, engine="hoisted"))(sample(name), COMBINED)
    assert_close(values, pulled(name, "scan", False)[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["lstm", "step_cell"])
def test_a_masked_step_holds_its_carry(name, engine):
    """A masked step keeps the previous carry bit for bit; the last carry is that of each row's last step."""
    found, _ = pulled(name, engine, False)
    last, _, carries = found
    assert_identical(jax.tree.map(lambda leaf: leaf[-1], carries), last)
    np.testing.assert_array_equal(COMBINED.lengths, [5, 3, 0])
    for here, given in zip(jax.tree.leaves(carries), jax.tree.leaves(sample(name).carry), strict=True):
        np.testing.assert_array_equal(here[1, 0], here[0, 0])  # a gap
        np.testing.assert_array_equal(here[3:, 1], [here[2, 1]] * 2)  # beyond its end
        np.testing.assert_array_equal(here[:, 2], [given[2]] * T)  # a row of length 0


@pytest.mark.parametrize(
    ("name", "engine"), [("stack", "hoisted_checkpoint_3_chunk_2"), ("bidirectional", "scan_checkpoint_2")]
)
def test_segments_of_time_change_nothing(name, engine):
    """Also if layers share segments, and if a layer runs backwards."""
    assert_close(pulled(name, engine, False), pulled(name, "loop", False))


@pytest.mark.parametrize("name", ["lstm", "layer_norm"])
def test_they_are_differentiated_twice(name):
    """Forward mode, and the derivative of a gradient."""
    tangents = normal(sample(name), f"{name} tangents")

    @functools.partial(jax.jit, static_argnums=0)
    def along(engine: str, drawn: Sample, times: Times):
        def outputs(drawn: Sample):
            return unroll(name, drawn, times, engine=engine)

        def gradient(drawn: Sample):
            found, pullback = jax.vjp(outputs, drawn)
            return found, pullback(weights(name))

        return jax.jvp(gradient, (drawn,), (tangents,))

    assert_close(*(along(engine, sample(name), COMBINED) for engine in ("hoisted", "scan")))


def test_the_trees_are_those_of_the_carry():
    """Each leaf is `[T, *batch, ...]`, also for composites and with other options."""
    for name in CELLS:
        of = sample(name, batch_shape=(2, 3))
        last, ys, carries = jax.eval_shape(lambda drawn, name=name: unroll(name, drawn, Times()), of)
        assert jax.tree.structure(carries) == jax.tree.structure(last)
        shapes = [(T, *leaf.shape) for leaf in jax.tree.leaves(last)]
        assert [leaf.shape for leaf in jax.tree.leaves(carries)] == shapes and ys.shape[:3] == (T, 2, 3)


def test_a_carry_with_an_integer():
    """A counter is masked and reset like any leaf, and keeps its dtype."""

    def step(params, carry, x):
        h, count = carry
        h = jnp.tanh(x @ params + h @ params)
        return (h, count + 1), h

    cell = rnnjax.StepCell(step, lambda p, batch_shape: (jnp.zeros((*batch_shape, 2)), jnp.zeros(batch_shape, "int32")))
    xs = sample("gru").xs
    found = {
        engine: rnnjax.unroll(cell, jnp.eye(2), xs, **COMBINED._asdict(), carries=True, **options)
        for engine, options in ENGINES.items()
    }
    for engine in ("scan", "hoisted"):
        assert_close(found[engine], found["loop"])
    np.testing.assert_array_equal(found["loop"][2][1][:, 0], [1, 1, 1, 2, 3])  # a gap, and a reset before step 2
    assert found["hoisted"][2][1].dtype == "int32"


def test_what_is_not_asked_for_is_not_computed():
    """Only the program with `carries` stores T carries, such as the LSTM's c."""
    of = sample("lstm")

    def stacked(carries: bool) -> int:
        program = jax.make_jaxpr(
            lambda drawn: rnnjax.unroll(CELLS["lstm"], **drawn._asdict(), engine="hoisted", carries=carries)
        )(of)
        return sum(v.aval.shape == (T, 3, 3) for v in program.jaxpr.outvars)

    assert (stacked(False), stacked(True)) == (1, 3)


@pytest.mark.parametrize("carries", [1, "all", None])
def test_it_is_a_boolean(carries):
    with pytest.raises(TypeError, match=r"carries is .*True or False"):
        rnnjax.unroll(CELLS["gru"], **sample("gru")._asdict(), **ALL_COUNT._asdict(), carries=carries)
