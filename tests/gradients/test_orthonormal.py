"""Gram-Schmidt without LAPACK against extended precision, for graded, rank-deficient, large and NaN matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax.gradients import orthonormal
from rnnjax.gradients.orthonormal import orthonormalise
from tests.gradients.measured import QUICKLY

SHAPES = {"block and a bit": (11, 20), "square": (24, 24), "few": (3, 5)}


@functools.cache
def program():
    return jax.jit(orthonormalise, compiler_options=QUICKLY)


def in_extended_precision(rows):
    q, logs = [], []
    for row in np.asarray(rows, np.longdouble):
        for _ in range(3):
            for before in q:
                row = row - before * (before @ row)
        q.append(row / np.sqrt(row @ row))
        logs.append(np.log(np.sqrt(row @ row)))
    return np.array(q, np.float64), np.array(logs, np.float64)


def graded(shape, spread, seed=0):
    """Rows like those of a product of Jacobians, with lengths from 1 to e^-spread."""
    rng = np.random.default_rng(seed)
    k, n = shape
    lengths = np.exp(-spread * rng.permutation(n) / (n - 1))
    return (rng.normal(size=(k, n)) * lengths) @ np.linalg.qr(rng.normal(size=(n, n)))[0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_against_extended_precision(shape):
    """A batch of easy and graded matrices; the error of a log is the rounding error times the shrinkage of the row."""
    batch = np.array([graded(shape, spread) for spread in (0, 10, 20)])
    q, logs = program()(batch)
    for rows, found, found_logs in zip(batch, q, logs, strict=True):
        expected, expected_logs = in_extended_precision(rows)
        np.testing.assert_allclose(found @ found.T, np.eye(len(rows)), atol=1e-13)
        shrinking = np.exp(np.max(np.log(np.linalg.norm(rows, axis=1)) - expected_logs))
        np.testing.assert_allclose(found_logs, expected_logs, rtol=0, atol=1e-14 * shrinking)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * shrinking)


def test_cliffs_within_a_block():
    """Rows that twice differ by 1e-6 from an earlier one, which one elimination of squares cannot resolve."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 24, 24))
    rows[:, 1] = rows[:, 0] + 1e-6 * rows[:, 1]
    rows[:, 2] = rows[:, 0] + 1e-6 * rows[:, 2]
    rows[:, 5] = rows[:, 4] + rows[:, 1] + 1e-9 * rows[:, 5]
    q, logs = program()(rows)
    for each, found, found_logs in zip(rows, q, logs, strict=True):
        _, expected_logs = in_extended_precision(each)
        np.testing.assert_allclose(found @ found.T, np.eye(24), atol=1e-12)
        np.testing.assert_allclose(found_logs, expected_logs, rtol=0, atol=1e-5)


def test_dependent_rows_are_gone_and_disturb_nobody():
    """24 rows of rank 9, with a zero row: nine directions from the independent rows, the others exactly zero."""
    rng = np.random.default_rng(2)
    basis = rng.normal(size=(9, 24))
    rows = np.concatenate(
        [basis[:4], np.zeros((1, 24)), basis[:4].sum(0)[None], basis[4:], rng.normal(size=(13, 9)) @ basis]
    )
    q, logs = (np.asarray(a)[0] for a in program()(np.stack([rows, rows, rows])))
    alive = [0, 1, 2, 3, 6, 7, 8, 9, 10]
    assert np.flatnonzero(logs > -np.inf).tolist() == alive
    assert (np.delete(q, alive, axis=0) == 0).all()
    expected, expected_logs = in_extended_precision(basis)
    np.testing.assert_allclose(q[alive], expected, atol=1e-12)
    np.testing.assert_allclose(logs[alive], expected_logs, rtol=1e-12)


def test_any_length():
    """Rows of size 1e-200 and 1e200 have the same directions and shifted logs."""
    rows = graded(SHAPES["square"], 2)
    q, logs = program()(np.stack([rows, 1e-200 * rows, 1e200 * rows]))
    np.testing.assert_allclose(
        logs - np.log([[1], [1e-200], [1e200]]), np.broadcast_to(logs[0], logs.shape), atol=1e-12
    )
    np.testing.assert_allclose(q[1:], np.broadcast_to(q[0], (2, 24, 24)), atol=1e-12)


def test_not_a_number_stays_where_it_is():
    """NaN in one matrix of a batch gives NaN only there, and the loop ends."""
    rows = np.stack([graded(SHAPES["square"], 2)] * 3)
    clean = program()(rows)
    rows[1, 5, 5] = np.nan
    q, logs = program()(rows)
    assert np.isnan(logs[1]).any() and not (logs[1] == -np.inf).any()
    for found, expected in zip((q, logs), clean, strict=True):
        np.testing.assert_allclose(found[::2], expected[::2], rtol=1e-12, atol=1e-14)


def test_float32():
    rows = graded(SHAPES["few"], 4).astype(np.float32)
    q, logs = program()(rows)
    assert q.dtype == logs.dtype == jnp.float32
    np.testing.assert_allclose(logs, in_extended_precision(rows)[1], atol=1e-4)
    np.testing.assert_allclose(q @ q.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("semi", [False, True], ids=["to rounding", "semi"])
def test_parts_panels_and_blocks(monkeypatch, semi):
    """The structure for hundreds of rows at a small size: two parts of three panels of two blocks, the last cut."""
    for name, size in (("_BLOCK", 4), ("_PANEL", 8), ("_MOST_PARTS", 2)):
        monkeypatch.setattr(orthonormal, name, size)
    spreads = (0, 20, 30)
    batch = np.array([graded((45, 50), spread) for spread in spreads])
    batch[1, 20] = batch[1, :20].sum(0)  # the second matrix has a row in the span of its first panels
    run = jax.jit(lambda rows: orthonormalise(rows, semi=semi), compiler_options=QUICKLY)
    q, logs = (np.asarray(found) for found in run(batch))
    assert np.flatnonzero(logs[1] == -np.inf).tolist() == [20] and (q[1, 20] == 0).all()
    for i, (rows, found, found_logs) in enumerate(zip(batch, q, logs, strict=True)):
        kept = [j for j in range(45) if (i, j) != (1, 20)]
        _, expected_logs = in_extended_precision(rows[kept])
        off = np.abs(found[kept] @ found[kept].T - np.eye(len(kept)))
        assert off.max() < (1e-5 if semi else 1e-13)
        shrinking = np.exp(np.max(np.log(np.linalg.norm(rows[kept], axis=1)) - expected_logs))
        np.testing.assert_allclose(found_logs[kept], expected_logs, rtol=0, atol=1e-10 + 1e-14 * shrinking)


def test_semi_measures_what_it_needs():
    """The test with random signs finds what one pass cannot resolve, and another pass gives correct lengths."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 24, 24))
    rows[:, 1] = rows[:, 0] + 1e-6 * rows[:, 1]
    rows[:, 5] = rows[:, 4] + rows[:, 1] + 1e-9 * rows[:, 5]
    q, logs = jax.jit(lambda rows: orthonormalise(rows, semi=True), compiler_options=QUICKLY)(rows)
    for each, found, found_logs in zip(rows, q, logs, strict=True):
        assert np.abs(found @ found.T - np.eye(24)).max() < 1e-5
        np.testing.assert_allclose(found_logs, in_extended_precision(each)[1], rtol=0, atol=1e-6)


def test_one_that_needs_another_pass_gets_it_under_vmap():
    """Under vmap, all matrices share the passes of the loop, also if only one of three needs them."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 16, 16))
    rows[1, 1] = rows[1, 0] + 1e-6 * rows[1, 1]
    rows[1, 5] = rows[1, 4] + rows[1, 1] + 1e-9 * rows[1, 5]
    run = jax.jit(jax.vmap(lambda each: orthonormalise(each, semi=True)), compiler_options=QUICKLY)
    for each, found, found_logs in zip(rows, *run(rows), strict=True):
        assert np.abs(found @ found.T - np.eye(16)).max() < 1e-5
        np.testing.assert_allclose(found_logs, in_extended_precision(each)[1], rtol=0, atol=1e-6)
