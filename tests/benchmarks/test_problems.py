"""What is computed: the problems, the floor, and the ratios made of it."""

import numpy as np
import pytest

from benchmarks.floor import floor_row
from benchmarks.harness import Times
from benchmarks.peers import summary
from benchmarks.problems import GRID, Point, make_problem


def test_points() -> None:
    assert Point.parse("8,200,32,64") == Point(B=8, T=200, D=32, H=64) == Point.parse(str(GRID[1]))
    for wrong in ("8,200,32", "a,b,c,d", "8,0,32,64", ""):
        with pytest.raises(ValueError, match="point"):
            Point.parse(wrong)


def test_a_problem_is_the_same_for_the_same_seed_and_float32() -> None:
    one, two = make_problem("gru", Point(3, 5, 2, 4)), make_problem("gru", Point(3, 5, 2, 4))
    assert one.xs.dtype == np.float32 and one.xs.shape == (5, 3, 2)
    assert one.weights["w_h"].shape == (4, 12) and not one.weights["b_hn"].any()
    assert all((one.weights[name] == two.weights[name]).all() for name in one.weights)
    assert (make_problem("gru", Point(3, 5, 2, 4), seed=1).xs != one.xs).any()


def test_a_padded_batch_has_short_rows_and_counts_only_its_steps() -> None:
    problem = make_problem("lstm", Point(16, 20, 2, 3), padded=True)
    assert problem.lengths is not None and problem.lengths[0] == 20
    assert 5 <= problem.lengths.min() < 20 and (problem.counts.sum(0) == problem.lengths).all()
    whole = make_problem("lstm", Point(16, 20, 2, 3)).forward_flops
    assert whole == 2 * 20 * 16 * (2 + 3) * 4 * 3
    assert problem.forward_flops == whole * problem.lengths.sum() / (16 * 20)


def test_the_floor_is_the_flops_at_the_rate_of_the_large_product() -> None:
    one_second = Times((1.0,), 1)
    row = floor_row(one_second, forward_flops=2.0 * 2048 * 512 * 1024)
    assert row == pytest.approx({"gflops_per_s": 2.147483648, "forward_ms": 1000.0, "train_ms": 3000.0})
    assert floor_row(None, 1.0) is None


def point(cell: str, padded: bool, **ms: float) -> dict:
    rows = [{"name": name, "tasks": {task: {"median_ms": t} for task in summary.TASKS}} for name, t in ms.items()]
    rows.append({"name": "Equinox", "left_out": "not installed", "tasks": {}})
    made = {"cell": cell, "point": "16,9,9,128", "padded": padded, "contestants": rows}
    made["floor"] = {"forward_ms": 1.0, "train_ms": 2.0}
    return {**made, "ratios": summary.ratios(made)}


def test_ratios_are_against_the_fastest_peer_and_means_are_geometric() -> None:
    times = {"rnnjax": 4.0, "rnnjax, split": 2.0, "Haiku": 8.0, "Keras": 12.0, "PyTorch": 3.0}
    dense = point("lstm", False, **times, **{"Flax nnx": 9.0, "rnnjax in nnx": 6.0})
    train = dense["ratios"]["train"]
    assert train["fastest_peer"] == "Haiku" and train["one_vs_peer"] == 2.0 and train["best_vs_peer"] == 4.0
    assert train["one_vs_torch"] == 0.75 and train["best_vs_torch"] == 1.5
    assert train["one_over_floor"] == 2.0 and train["best_over_floor"] == 1.0 and train["generic_over_one"] is None
    assert train["rnnjax in nnx_vs_flax"] == 1.5 and train["rnnjax in linen_vs_flax"] is None
    other = point("gru", False, rnnjax=1.0, Keras=8.0)
    groups = {(row["group"], row["task"]): row for row in summary.overall([dense, other])}
    mean = groups["dense, all cells", "train"]["one_vs_peer"]
    assert mean == {"geomean": pytest.approx(4.0), "worst": 2.0, "of": 2}
    assert groups["dense, gru", "train"]["one_vs_torch"] is None
    assert groups["all but dense lstm", "train"]["points"] == 1


def test_who_is_missing_is_none_in_the_ratios_and_named_in_a_table() -> None:
    alone = point("elman", True, rnnjax=1.0)
    assert alone["ratios"]["train"]["fastest_peer"] is None and alone["ratios"]["train"]["one_vs_peer"] is None
    tables = {title: rows for title, _, rows in summary.tables({"points": [alone], "summary": []})}
    assert tables["Did not take part"] == [["Equinox: not installed", 1]]
