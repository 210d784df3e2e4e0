"""Masked inputs affect neither values nor gradients, bit for bit, whatever they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import (
    ALL_COUNT,
    CELLS,
    COMBINED,
    LENGTHS_ONLY,
    B,
    Sample,
    T,
    Times,
    assert_close,
    assert_identical,
    both_directions,
    cotangents,
    curvature,
    every_cell,
    on_every_engine,
    pull,
    run,
    sample,
)

POISON = [np.nan, np.inf, -np.inf, 1e300]
MASK_ONLY = ALL_COUNT._replace(mask=COMBINED.mask)
CASES = {"lengths": LENGTHS_ONLY, "mask": MASK_ONLY, "lengths, mask and resets": COMBINED}


def counts(times: Times) -> np.ndarray:
    """`[T, B]`: which steps are not masked, by definition."""
    return (np.arange(T)[:, None] < times.lengths) & times.mask


def padded_with(padding, drawn: Sample, times: Times) -> Sample:
    """`drawn` with `padding`, a number or several in turn, at masked steps."""
    padding = jnp.asarray(np.resize(padding, drawn.xs.shape), drawn.xs.dtype)
    shown = counts(times).reshape(T, B, *(1 for _ in drawn.xs.shape[2:]))
    return drawn._replace(xs=jnp.where(shown, drawn.xs, padding))


@on_every_engine()
@both_directions
def test_nan_and_inf_in_padding_change_nothing(name, engine, reverse):
    """Outputs and gradients are bitwise equal to zero padding; the gradient for the padding itself is exactly zero.

    Second derivatives too, where they are compiled anyway.
    """
    for times in CASES.values():
        clean = pull(name, engine, padded_with(0.0, sample(name), times), times, cotangents(name), reverse)
        dirty = pull(name, engine, padded_with(POISON, sample(name), times), times, cotangents(name), reverse)
        assert_identical(dirty, clean)
        if engine != "loop" and not reverse:
            assert_identical(*(curvature_with(padding, name, engine, times) for padding in (POISON, 0.0)))
        (_, ys), gradients = clean
        assert not ys[~counts(times)].any() and not gradients.xs[~counts(times)].any()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))


def curvature_with(padding, name: str, engine: str, times: Times):
    return curvature(name, engine, padded_with(padding, sample(name), times), times, cotangents(name))


@on_every_engine()
@both_directions
def test_nothing_counts(name, engine, reverse):
    """Length 0, or an all-false mask, keeps the carry and gives zero outputs and finite zero gradients."""
    params, carry, xs = sample(name)
    for nothing in (ALL_COUNT._replace(lengths=np.zeros(B, int)), ALL_COUNT._replace(mask=np.zeros((T, B), bool))):
        drawn = Sample(params, carry, jnp.full_like(xs, np.nan))
        (got, ys), gradients = pull(name, engine, drawn, nothing, cotangents(name), reverse)
        assert_identical(got, carry)
        assert_identical(gradients.carry, cotangents(name)[0])
        assert not any(leaf.any() for leaf in jax.tree.leaves((ys, gradients.params, gradients.xs)))


@every_cell
@both_directions
def test_a_padded_row_is_the_row_at_its_true_length(name, reverse):
    """A row of length 3 in a batch of length 5 equals the same row without padding."""
    length, row = 3, np.s_[1]
    this_row = np.arange(B) == row

    def only_this_row(leaf, rows):
        return jnp.where(rows.reshape(rows.shape + (1,) * (leaf.ndim - rows.ndim)), leaf, jnp.zeros_like(leaf))

    carry_weights, ys_weights = cotangents(name)
    carry_weights = jax.tree.map(lambda leaf: only_this_row(leaf, this_row), carry_weights)
    ys_weights = only_this_row(ys_weights, this_row[None])

    def of_row(tree):
        return jax.tree.map(lambda leaf: leaf[row], tree)

    padded = padded_with(POISON, sample(name), LENGTHS_ONLY)
    (carry, ys), padded = pull(name, "loop", padded, LENGTHS_ONLY, (carry_weights, ys_weights), reverse)
    short = sample(name)._replace(xs=sample(name).xs[:length])
    short_weights = (carry_weights, ys_weights[:length])
    (short_carry, short_ys), alone = pull(name, "loop", short, Times(), short_weights, reverse)
    assert_close(of_row(carry), of_row(short_carry))
    assert_close(ys[:length, row], short_ys[:, row])
    assert_close(padded.params, alone.params)
    assert_close(of_row(padded.carry), of_row(alone.carry))
    assert_close(padded.xs[:length, row], alone.xs[:, row])


@on_every_engine()
def test_a_gap_is_as_if_cut_out(name, engine):
    """A step that is masked in every row equals a shorter sequence without it."""
    hidden = 2
    mask = np.ones((T, B), bool)
    mask[hidden] = False
    drawn = sample(name)
    shorter = drawn._replace(xs=jnp.delete(drawn.xs, hidden, axis=0))
    (carry, ys), _ = pull(name, engine, drawn, ALL_COUNT._replace(mask=mask), cotangents(name))
    assert_close((carry, jnp.delete(ys, hidden, axis=0)), run(name, "loop", shorter))


@pytest.mark.parametrize("name", ["gru", "step_cell"])
def test_padding_in_half_precision(name):
    """The same holds bit for bit in bfloat16."""
    drawn = sample(name, "bfloat16")
    clean = run(name, "loop", padded_with(0.0, drawn, COMBINED), COMBINED)
    assert_identical(run(name, "loop", padded_with(POISON, drawn, COMBINED), COMBINED), clean)


def test_gradient_of_a_mean_over_padded_outputs_is_finite():
    """`jax.grad` of a mean over all of `ys`, with NaN in the padding and no mask in the loss."""
    params, _, xs = padded_with(np.nan, sample("lstm"), LENGTHS_ONLY)

    def loss(params):
        _, ys = rnnjax.unroll(CELLS["lstm"], params, xs, lengths=LENGTHS_ONLY.lengths)
        return jnp.mean(ys**2)

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))
