"""Exact gradients of another library, where it is installed, and backpropagation's."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import contest, online
from benchmarks.problems import Point, make_problem


@pytest.mark.parametrize("build", [online.braintrace, online.backpropagation])
def test_rtrl_of_one_layer(build):
    problem = make_problem("elman", Point(B=1, T=30, D=3, H=8))
    wide = {name: value.astype("float64") for name, value in problem.weights.items()}
    problem = dataclasses.replace(problem, weights=wide, xs=problem.xs.astype("float64"))
    directions = np.random.default_rng(1).normal(size=(30, 8))
    try:
        with jax.numpy_dtype_promotion("standard"):
            (other, ours) = (each(problem, directions)[online.TASK] for each in (build, online.ours))
            got, expected = (each.shared(each.call()) for each in (other, ours))
    except contest.LeftOut as reason:
        pytest.skip(str(reason))
    contest.largest_error("the other", got, expected, tolerance=1e-12)
