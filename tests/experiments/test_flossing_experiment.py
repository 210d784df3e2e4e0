"""Delayed XOR with and without flossing: what is said of the networks of one delay."""

import numpy as np

from experiments import flossing, lab


def test_a_line_is_the_mean_over_networks_at_each_stage():
    scales = np.array([1.0, 0.0, 2.0, 0.5])  # before, flossed, plain trained, flossed trained
    exponents = scales[:, None] * np.array([-0.1, -0.2, -0.3])
    rows = []
    for factor, (plain, flossed) in enumerate([(0.5, 0.9), (0.7, None)], 1):
        accuracies = {"plain_accuracy": plain, "flossed_accuracy": flossed}
        rows.append(lab.Row({"delay": 4}, accuracies, {"exponents": factor * exponents}))
    line = flossing.summarised(rows)
    np.testing.assert_allclose([line["plain_accuracy"], line["plain_accuracy_std"]], [0.6, 0.1])
    assert np.isnan(line["flossed_accuracy"])  # a network that met NaN is not left out
    np.testing.assert_allclose(line["mean_square_before"], (0.14 / 3 + 4 * 0.14 / 3) / 2)
    np.testing.assert_allclose(line["mean_square_flossed_trained"], line["mean_square_before"] / 4)
    np.testing.assert_allclose(line["leading_exponent_plain_trained"], -0.3)
    assert line["mean_square_flossed"] == line["leading_exponent_flossed"] == 0
