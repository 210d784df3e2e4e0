"""Rows of unequal length: padded, weighted, in epochs and in buckets, each against its definition."""

import jax
import numpy as np
import pytest

from rnnjax import tasks, training
from tests.training import toy

RNG = np.random.default_rng(0)
ROWS = [RNG.normal(size=(n, 3)) for n in RNG.integers(1, 30, 50)]
LENGTHS = np.array([len(row) for row in ROWS])


def test_pad_and_score_at_the_last_step():
    """The loss of a padded batch is the weighted mean over the rows by hand."""
    xs, lengths = training.pad(ROWS, 31, np.float64)
    assert xs.shape == (31, 50, 3) and lengths.dtype == np.int32
    for n, row in enumerate(ROWS):
        np.testing.assert_array_equal(xs[: len(row), n], row)
        assert not xs[len(row) :, n].any()
    labels = np.arange(50) % 3 % 2
    weights = training.class_weights(labels)
    batch = training.labelled(xs, lengths, labels, weights[labels])
    each = [jax.nn.logsumexp(row[-1]) - row[-1][label] for row, label in zip(ROWS, labels, strict=True)]
    np.testing.assert_allclose(tasks.cross_entropy(batch.xs, batch), np.average(each, weights=weights[labels]), 1e-6)
    np.testing.assert_allclose([weights[labels][labels == k].sum() for k in (0, 1)], [25.0, 25.0], rtol=1e-6)
    steps = RNG.uniform(size=(31, 50))
    every = training.labelled(xs, lengths, labels, steps)
    np.testing.assert_array_equal(every.weights, np.where(np.arange(31)[:, None] < lengths, steps, 0))


@pytest.mark.parametrize(
    ("rows", "steps", "says"),
    [
        ([], None, "at least one row"),
        ([ROWS[0], np.zeros((0, 3))], None, r"row 1 is \[0, 3\].*leave out empty rows"),
        ([ROWS[0], np.zeros((2, 4))], None, r"row 1 is \[2, 4\]; each is \[1\.\.\d+, 3\] here"),
        ([np.zeros((5, 1))], 4, r"row 0 is \[5, 1\].*larger `steps`"),
        ([ROWS[0], np.array([[0.0, 0, 0], [0, np.nan, 0]])], None, "row 1 has NaN or inf in step 1"),
    ],
)
def test_rows_that_cannot_be_padded(rows, steps, says):
    with pytest.raises(ValueError, match=says):
        training.pad(rows, steps)


def test_epochs_are_without_replacement_and_differ():
    whole = training.labelled(*training.pad(ROWS), np.arange(50))
    data, key = jax.jit(training.epochs(whole, 8, seed=3)), jax.random.key(0)
    batch = data(key, 7)
    for n, label in enumerate(np.asarray(batch.targets[0])):
        np.testing.assert_allclose(batch.xs[: LENGTHS[label], n], ROWS[label], rtol=1e-6)
        assert int(batch.lengths[n]) == LENGTHS[label]
    first, second = (np.concatenate([data(key, 6 * epoch + i).targets[0] for i in range(6)]) for epoch in range(2))
    assert len(set(first.tolist())) == len(set(second.tolist())) == 48 and first.tolist() != second.tolist()
    with pytest.raises(ValueError, match="batch is 51, but there are only 50 rows"):
        training.epochs(whole, 51)


def test_buckets_are_of_like_lengths_without_replacement():
    data = training.Buckets(LENGTHS, 4, lambda rows, steps: (rows, steps), shapes=5)
    drawn = [next(data) for _ in range(20)]
    for batches in (drawn[:10], drawn[10:]):
        rows = np.concatenate([rows for rows, _ in batches])
        assert len(set(rows.tolist())) == 40
    assert len({steps for _, steps in drawn}) == 5
    assert max(np.ptp(LENGTHS[rows]) for rows, _ in drawn) < np.ptp(LENGTHS) / 2
    assert all(steps >= LENGTHS[rows].max() for rows, steps in drawn)
    assert [rows.tolist() for rows, _ in drawn[:10]] != [rows.tolist() for rows, _ in drawn[10:]]
    with pytest.raises(ValueError, match="50 rows in 5 groups do not fill batches of 11"):
        training.Buckets(LENGTHS, 11, lambda rows, steps: None, shapes=5)


def test_buckets_train_and_resume(tmp_path):
    """Several shapes; the run in two parts has the bits of the whole."""

    def data():
        def make(rows, steps):
            return training.pad([ROWS[i] for i in rows], steps)[0]

        return training.Buckets(LENGTHS, 4, make, shapes=2)

    def loss(params, xs):
        return toy.loss(params, (xs.sum(0), xs.sum(0) @ toy.TRUE))

    options = training.FitOptions(steps=30, chunk=10, shapes=2)
    whole = training.fit(loss, toy.start(), toy.RULE, data(), options)
    for steps in (10, 30):
        part = training.fit(
            loss, toy.start(), toy.RULE, data(), training.FitOptions(steps=steps, chunk=10, shapes=2),
            checkpoints=training.Checkpoints(folder=tmp_path, every=10),
        )  # fmt: skip
    toy.same_bits(part.state, whole.state)
