"""A reset splits a row in two parts that equal separate runs, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from tests.registry import (
    ALL_COUNT,
    CAUSAL,
    CELLS,
    B,
    Sample,
    T,
    Times,
    assert_close,
    assert_identical,
    both_directions,
    cotangents,
    on_every_engine,
    pull,
    run,
    sample,
)

CUT = 2
LENGTHS = np.array([5, 3, 1])


def cut_at(steps: int, reverse: bool) -> np.ndarray:
    """Resets that separate steps 0..steps-1 from the rest, at the first step after the cut in scan order."""
    flags = np.zeros((T, B), bool)
    flags[steps - 1 if reverse else steps] = True
    return flags


@on_every_engine()
@both_directions
def test_reset_is_two_sequences_run_apart(name, engine, reverse):
    """Also for bidirectional cells: nothing crosses the cut in either direction, and lengths apply to each part."""
    params, _, xs = sample(name)
    initial = CELLS[name].initial_carry(params, (B,))
    times = Times(LENGTHS, ALL_COUNT.mask, cut_at(CUT, reverse))
    # A reset after a row's end has no effect, and the last row of length 1 ends before the cut.
    (_, ys), _ = pull(name, engine, Sample(params, initial, xs), times, cotangents(name), reverse)
    parts = [(xs[:CUT], np.minimum(LENGTHS, CUT)), (xs[CUT:], np.maximum(LENGTHS - CUT, 0))]
    apart = [
        rnnjax.unroll(CELLS[name], params, part, lengths=lengths, reverse=reverse, engine="loop")[1]
        for part, lengths in parts
    ]
    assert_close(ys, jnp.concatenate(apart))


@on_every_engine(CAUSAL)
@both_directions
def test_carry_after_a_reset_is_the_last_parts(name, engine, reverse):
    """The last part starts from the initial carry, not from the given one."""
    params, carry, xs = sample(name)
    times = ALL_COUNT._replace(resets=cut_at(CUT, reverse))
    (got, _), _ = pull(name, engine, Sample(params, carry, xs), times, cotangents(name), reverse)
    last = xs[:CUT] if reverse else xs[CUT:]
    expected, _ = rnnjax.unroll(CELLS[name], params, last, reverse=reverse, engine="loop")
    assert_close(got, expected)


def test_carries_of_a_bidirectional_cell_around_a_reset():
    """Forward's last carry comes from the last part, backward's from the first; the given ones enter at either end."""
    cell, (params, carry, xs) = CELLS["bidirectional"], sample("bidirectional")
    got, ys = run("bidirectional", "loop", sample("bidirectional"), Times(resets=cut_at(CUT, False)))
    initial = cell.initial_carry(params, (B,))
    first, ys_first = rnnjax.unroll(
        cell, params, xs[:CUT], carry=carry._replace(backward=initial.backward), engine="loop"
    )
    last, ys_last = rnnjax.unroll(cell, params, xs[CUT:], carry=carry._replace(forward=initial.forward), engine="loop")
    assert_close(got, got._replace(forward=last.forward, backward=first.backward))
    assert_close(ys, jnp.concatenate([ys_first, ys_last]))


@on_every_engine()
@both_directions
def test_no_gradient_crosses_a_reset(name, engine, reverse):
    """Outputs of one part have an exactly zero gradient at the inputs of the other, both ways round."""
    times = ALL_COUNT._replace(resets=cut_at(CUT, reverse))
    weights = jax.tree.map(jnp.zeros_like, cotangents(name))
    for one, other in ((np.s_[:CUT], np.s_[CUT:]), (np.s_[CUT:], np.s_[:CUT])):
        only_one = (weights[0], weights[1].at[one].set(1.0))
        _, gradients = pull(name, engine, sample(name), times, only_one, reverse)
        assert not gradients.xs[other].any()
        assert gradients.xs[one].any()


@pytest.mark.parametrize("name", ["lstm", "step_cell"])
@both_directions
def test_reset_on_a_hidden_step_still_resets(name, reverse):
    """A masked step keeps its reset."""
    hidden = T - 1 - CUT if reverse else CUT
    resets, mask = np.zeros((T, B), bool), np.ones((T, B), bool)
    resets[hidden], mask[hidden] = True, False
    params, _, xs = sample(name)
    got, ys = run(name, "loop", sample(name), Times(mask=mask, resets=resets), reverse)
    rest = xs[:hidden] if reverse else xs[hidden + 1 :]
    expected, ys_rest = rnnjax.unroll(CELLS[name], params, rest, reverse=reverse, engine="loop")
    assert_close(got, expected)
    assert_close(ys[:hidden] if reverse else ys[hidden + 1 :], ys_rest)


@pytest.mark.parametrize("name", ["lstm", "bidirectional"])
@both_directions
def test_reset_beyond_a_rows_end_does_nothing(name, reverse):
    """Random resets in the padding change no bit."""
    lengths = np.array([5, 3, 0])
    beyond = np.arange(T)[:, None] >= lengths
    got = run(name, "loop", sample(name), Times(lengths=lengths, resets=beyond), reverse)
    assert_identical(got, run(name, "loop", sample(name), Times(lengths=lengths), reverse))


def test_packed_documents_are_rows_of_their_own():
    """Three documents packed into one row, with a reset at each start, equal three padded rows."""
    cell, params = CELLS["bidirectional"], sample("bidirectional").params
    documents = [sample("gru").xs[:length, k] for k, length in enumerate((2, 3, 4))]
    starts = np.isin(np.arange(9), [0, 2, 5])
    _, packed = rnnjax.unroll(cell, params, jnp.concatenate(documents), resets=starts)
    padded = jnp.stack([jnp.pad(d, ((0, 4 - len(d)), (0, 0)), constant_values=np.nan) for d in documents], axis=1)
    _, rows = rnnjax.unroll(cell, params, padded, lengths=np.array([2, 3, 4]))
    assert_close(packed, jnp.concatenate([rows[: len(d), k] for k, d in enumerate(documents)]))


def test_learned_initial_carry_gets_a_gradient_from_every_reset():
    """The initial carry of `step_cell` is a parameter: each start of an episode adds to its gradient."""
    params, _, xs = sample("step_cell")
    weights = cotangents("step_cell")
    resets = np.zeros((T, B), bool)
    resets[[0, CUT]] = True
    _, whole = pull("step_cell", "loop", sample("step_cell"), Times(resets=resets), weights)

    def parts(params):
        h_0 = CELLS["step_cell"].initial_carry(params, (B,))
        _, first = rnnjax.unroll(CELLS["step_cell"], params, xs[:CUT], carry=h_0, engine="loop")
        last, second = rnnjax.unroll(CELLS["step_cell"], params, xs[CUT:], carry=h_0, engine="loop")
        return last, jnp.concatenate([first, second])

    _, pullback = jax.vjp(parts, params)
    assert np.abs(whole.params["h_0"]).min() > 0
    assert_close(whole.params, pullback(weights)[0])
