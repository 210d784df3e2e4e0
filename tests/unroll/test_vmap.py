"""`jax.vmap` over each argument, alone or with all others, equals a loop over slices."""

import functools

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from tests.registry import CELLS, COMBINED, LENGTHS_ONLY, assert_close, sample

ARGUMENTS = ("params", "carry", "xs", "lengths", "mask", "resets")


@functools.cache
def pairs(name):
    """Two of each argument, stacked."""
    first = {**sample(name)._asdict(), **COMBINED._asdict()}
    second = {key: jax.tree.map(lambda a: a[::-1] if a.ndim else -a, first[key]) for key in ARGUMENTS}
    second |= {"lengths": LENGTHS_ONLY.lengths[::-1], "carry": jax.tree.map(lambda a: -a, first["carry"])}
    return {key: jax.tree.map(lambda *both: jnp.stack(both), first[key], second[key]) for key in ARGUMENTS}


@pytest.mark.parametrize("mapped", [*ARGUMENTS, "all"])
@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "layer_norm", "bidirectional"])
def test_vmap_is_a_loop_over_slices(name, mapped):
    """Values, and gradients with respect to the parameters."""
    both = pairs(name)
    chosen = ARGUMENTS if mapped == "all" else (mapped,)
    fixed = {key: jax.tree.map(lambda a: a[0], both[key]) for key in ARGUMENTS if key not in chosen}

    def run(given):
        arguments = fixed | given
        params, xs = arguments.pop("params"), arguments.pop("xs")

        def outputs(params):
            found = rnnjax.unroll(CELLS[name], params, xs, **arguments)
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(found)), found

        return jax.grad(outputs, has_aux=True)(params)

    given = {key: both[key] for key in chosen}
    together = jax.jit(jax.vmap(run))(given)
    alone = jax.jit(run)
    for i in range(2):
        assert_close(jax.tree.map(lambda a, i=i: a[i], together), alone(jax.tree.map(lambda a, i=i: a[i], given)))
