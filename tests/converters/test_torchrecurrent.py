"""Weights of torchrecurrent's cells, both ways; `tests/parity` compares values and gradients."""

import inspect

import jax
import numpy as np
import pytest

from benchmarks.libraries import TORCHRECURRENT
from rnnjax import cells
from rnnjax.converters import from_torchrecurrent, to_torchrecurrent, torchrecurrent
from tests.registry import assert_close, assert_identical, normal

theirs = pytest.importorskip("torchrecurrent")
torch = pytest.importorskip("torch")

H = 4
every_cell = pytest.mark.parametrize("kind", torchrecurrent._LAYOUTS, ids=lambda kind: kind.__name__)


def module_of(kind):
    size = H if kind is cells.IntersectionRNN else 3
    return getattr(theirs, TORCHRECURRENT[kind])(size, H, dtype=torch.float64), size


@every_cell
def test_there_and_back(kind):
    """The state dict fits the module, and converting it back gives the same parameters, however biases are split."""
    module, size = module_of(kind)
    cell = kind(H)
    params = normal(jax.eval_shape(lambda key: cell.init(key, size, "float64"), jax.random.key(0)), kind.__name__)
    state = to_torchrecurrent(cell, params)
    found = module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=False)
    assert not found.unexpected_keys and set(found.missing_keys) <= {"beta"}
    expected = jax.tree.map(np.asarray, params)
    assert_identical(from_torchrecurrent(cell, module.state_dict()), expected)
    layout = torchrecurrent._LAYOUTS[kind]
    for _, sums in layout.vectors:
        for first, *rest in sums:
            for place in rest:
                layout.block(state, *first)[...] -= 0.5
                layout.block(state, *place)[...] += 0.5
    assert_close(from_torchrecurrent(cell, state), expected)


def test_what_their_cells_have_and_papers_have_not():
    state = to_torchrecurrent(cells.ATR(H), cells.ATR(H).init(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="block 0 of `bias_hh` is not zero"):
        from_torchrecurrent(cells.ATR(H), state | {"bias_hh": np.ones(H)})
    with pytest.raises(ValueError, match="'weight_h' is unknown"):
        from_torchrecurrent(cells.ATR(H), state | {"weight_h": np.ones(H)})
    with pytest.raises(TypeError, match="does not have, or has differently; known: ATR"):
        from_torchrecurrent(cells.LEM(H), state)


def test_every_cell_of_theirs_is_here():
    """All that they export, besides what differs from its paper or is another cell."""
    exported = {name for name, value in vars(theirs).items() if inspect.isclass(value) and name.endswith("Cell")}
    assert exported - set(TORCHRECURRENT.values()) == {"LEMCell", "SCRNCell", "MCLSTMCell"}
