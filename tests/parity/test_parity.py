"""Values at 1e-12 in float64 and 1e-6 in float32, and gradients of all parameters and of the input.

`python -m tests.parity` writes the differences to `docs/parity.md`.
"""

import pytest

from benchmarks import contest
from rnnjax import cells
from tests.parity import models
from tests.parity.pairs import DEPARTURES, NAMES, Pair, differences, pairs

LIBRARIES = [pair for pair in pairs() if pair.theirs]
ALONE = [pair for pair in pairs() if not pair.theirs and not any(pair.cell in names for names in NAMES.values())]
"""The papers of cells that no library has."""

EXPONENTIALS = ("orthogonal", "unitary")
"""The exponential of a matrix, which is less exact in float32."""


@pytest.mark.one_in(4)
@pytest.mark.parametrize("pair", [*LIBRARIES, *ALONE], ids=str)
def test_the_same_weights_give_the_same_values_and_gradients(pair: Pair) -> None:
    try:
        doubles = differences(pair, "float64")
    except contest.LeftOut as reason:
        pytest.skip(f"{pair.library}: {reason}")
    slope_in_float32 = pair.cell in ("sgu", "dsgu") and pair.library == "torchrecurrent"
    assert doubles[0] < 1e-12 and doubles[1] < (1e-7 if slope_in_float32 else 1e-12)
    assert max(differences(pair, "float32")) < (1e-5 if pair.cell in EXPONENTIALS else 1e-6)


@pytest.mark.one_in(5)
@pytest.mark.parametrize("model", list(models.models()), ids=", ".join)
def test_whole_models_there_and_back(model: tuple[str, str, str]) -> None:
    try:
        assert max(models.differences(*model, "float64")) < 1e-12
    except contest.LeftOut as reason:
        pytest.skip(f"{model[0]}: {reason}")
    assert max(models.differences(*model, "float32")) < 1e-6


def test_every_cell_is_compared_with_someone() -> None:
    known = {pair.cell for pair in [*LIBRARIES, *ALONE]}
    assert known >= {*cells.catalogue(), *cells.convolutional()} >= set(DEPARTURES)
