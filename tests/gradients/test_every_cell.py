"""`rnnjax.gradients` on every registry cell with a step, and on stacks, with all masks, resets and directions.

Two independent computations of the adjoint must agree, and must equal `jax.grad` of `unroll` at the start. The
contributions of the unrolled copies must sum to the gradient of the parameters.
"""

import jax
import numpy as np
import pytest

from rnnjax import gradients
from tests.gradients.measured import (
    CONDITIONS,
    EACH_WAY,
    IN_REVERSE,
    QUICKLY,
    assert_rows_close,
    measure,
    plain,
    program,
    row_norms,
    weigh,
    weights,
)
from tests.registry import CAUSAL, CELLS, COMBINED, FIXED, B, Sample, T, sample

every_cell = pytest.mark.parametrize("name", CAUSAL)
every_cell_each_way = pytest.mark.parametrize(("name", "reverse"), EACH_WAY)
some_cells = pytest.mark.parametrize("name", IN_REVERSE)
every_condition = pytest.mark.parametrize("condition", CONDITIONS)

OUTPUT_APART = ["custom", "readout", "intersection", "lstm_mass_conserving", "scrn", "rate", "low_rank", "t_lstm"]
OUTPUT_APART += ["lru", "ssm_zoh", "ssm_bilinear", "mlstm"]
"""Cells whose output is not part of their carry, so the loss does not depend on the carry after the last step."""


@every_condition
@every_cell_each_way
def test_the_two_adjoints_agree(name, reverse, condition):
    """Pullbacks of unit vectors, and one backward pass through added zeros, give the same dL/d(carry)."""
    measured = measure(name, condition, reverse)
    assert_rows_close(plain(measured.adjoint), measured.perturbed, 2, 1e-10)
    assert np.isfinite(row_norms(measured.perturbed, 2)).all()


@every_condition
@every_cell_each_way
def test_at_the_start_it_is_the_gradient_of_the_given_carry(name, reverse, condition):
    """`jax.grad` of `unroll` is independent of `rnnjax.gradients`. In reverse, the run starts at boundary T."""
    measured = measure(name, condition, reverse)
    start = T if reverse else 0
    assert_rows_close(jax.tree.map(lambda a: a[start], plain(measured.adjoint)), measured.carry_gradient, 1, 1e-10)


def reachable(condition: str, reverse: bool, output_apart: bool) -> np.ndarray:
    """`[T + 1, B]`: on which carries the loss depends, in input order."""
    lengths, mask, resets = CONDITIONS[condition]
    inside = np.arange(T)[:, None] < lengths
    counts, resets = inside & mask, inside & resets
    if reverse:
        counts, resets = counts[::-1], resets[::-1]
    reached = np.zeros((T + 1, B), bool)
    for t in range(T, -1, -1):  # carry t is the result of step t (counted from 1), and the input of step t + 1
        if t < T:
            reached[t] = (reached[t + 1] | counts[t]) & ~resets[t]
        if t > 0 and not output_apart:
            reached[t] |= counts[t - 1]
    return reached[::-1] if reverse else reached


@every_condition
@every_cell_each_way
def test_it_is_zero_only_where_nothing_can_arrive(name, reverse, condition):
    """The adjoint is exactly zero where no later step is unmasked, and nonzero elsewhere, so the tests above compare
    more than zeros."""
    expected = reachable(condition, reverse, name in OUTPUT_APART)
    found = np.isfinite(measure(name, condition, reverse).adjoint.log_norm)
    if name == "elman_relu":  # a row may also be zero because all of its units are inactive
        assert not (found & ~expected).any() and found.sum() >= expected.sum() - 3
    else:
        np.testing.assert_array_equal(found, expected)


@every_condition
@every_cell_each_way
def test_parts_of_the_carry_add_up_in_squares(name, reverse, condition):
    """‖(h, c)‖² = ‖h‖² + ‖c‖² for an LSTM, and similarly for any carry; each part is the norm of its own gradient."""
    measured = measure(name, condition, reverse)
    parts = jax.tree.leaves(measured.adjoint.log_norm_by_part)
    np.testing.assert_allclose(
        np.logaddexp.reduce([2 * part for part in parts]), 2 * measured.adjoint.log_norm, rtol=1e-12, atol=1e-12
    )
    for part, gradient in zip(parts, jax.tree.leaves(measured.perturbed), strict=True):
        rounding = 1e-15 if name == "slstm" else 0  # its stabiliser has no influence: what is left is rounding
        np.testing.assert_allclose(np.exp(part), row_norms(gradient, 2), rtol=1e-10, atol=rounding)


@every_condition
@every_cell_each_way
def test_what_the_copies_contribute_adds_up(name, reverse, condition):
    """dL/dθ is the sum over the unrolled copies, for every leaf."""
    measured = measure(name, condition, reverse)
    parts, wholes = jax.tree.leaves(measured.parts), jax.tree.leaves(measured.params_gradient)
    for part, whole in zip(parts, wholes, strict=True):
        assert part.shape == (T, *whole.shape)
        scale = np.abs(part).sum(axis=0)  # of rounding errors if parts cancel; rows may cancel inside of a part
        assert (np.abs(part.sum(axis=0) - whole) <= np.maximum(1e-12 * scale, 1e-14 * scale.max())).all()
    learned_carry = name == "step_cell" and condition != "together"  # is used at a reset only
    assert name in FIXED or all(part.any() for part in parts) or learned_carry


@every_cell_each_way
def test_a_copy_that_no_row_runs_contributes_exactly_zero(name, reverse):
    """If one step is masked in every row, the contribution of that copy is exactly zero.

    Copies are in input order also in reverse, which shows because step 1 of 5 is not in the middle.
    """
    mask = np.ones((T, B), bool)
    mask[1] = False
    times = CONDITIONS["plain"]._replace(mask=mask)
    parts = jax.tree.leaves(program(name, reverse)(sample(name), times, weights(name)).parts)
    assert all((part[1] == 0).all() for part in parts)
    found = sum(bool(part[3].any()) for part in parts)
    assert found == 0 if name in FIXED else found >= len(parts) - 1  # h_0 only counts at a reset


@every_cell
def test_a_loss_of_some_rows_leaves_the_others_at_exactly_zero(name):
    """Rows of a batch are independent: a row that the loss ignores has no gradient and does not affect others."""
    some = jax.tree.map(lambda w: w.at[:, 1].set(0), weights(name))
    got = program(name, False)(sample(name), CONDITIONS["plain"], some).adjoint
    whole = measure(name, "plain", False).adjoint
    assert (got.log_norm[:, 1] == -np.inf).all()
    assert all((leaf[:, 1] == 0).all() for leaf in jax.tree.leaves(got.direction))
    np.testing.assert_array_equal(got.log_norm[:, [0, 2]], whole.log_norm[:, [0, 2]])


@some_cells
def test_without_lengths_mask_and_resets_it_is_the_same(name):
    """`None` for `lengths`, `mask` and `resets` removes selections from the program, and equals trivial arrays."""

    def without(drawn: Sample, weights):
        return gradients.adjoint(CELLS[name], **drawn._asdict(), loss=lambda ys: weigh(weights, ys))

    adjoint = jax.jit(without, compiler_options=QUICKLY)(sample(name), weights(name))
    assert_rows_close(plain(adjoint), plain(measure(name, "plain", False).adjoint), 2, 1e-12)


@every_cell_each_way
def test_padding_is_inert(name, reverse):
    """NaN and inf at masked steps change no bit of any log norm."""
    drawn = sample(name)
    hidden = ~((np.arange(T)[:, None] < COMBINED.lengths) & COMBINED.mask)
    assert hidden.sum() > 3
    hidden = hidden.reshape(T, B, *(1 for _ in drawn.xs.shape[2:]))
    dirty = np.where(hidden, np.where(np.arange(2) == 0, np.nan, np.inf), drawn.xs)
    got = program(name, reverse)(drawn._replace(xs=jax.numpy.asarray(dirty)), COMBINED, weights(name))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(measure(name, "together", reverse)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
