"""Cells of torchrecurrent, live: the same weights give the same values and gradients, in float64 and float32."""

import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import cells
from rnnjax.converters import from_torchrecurrent, to_torchrecurrent, torchrecurrent
from tests.paper_steps import STEPS
from tests.registry import CATALOGUE, assert_identical, sample

theirs = pytest.importorskip("torchrecurrent")
torch = pytest.importorskip("torch")

T, B, H = 6, 2, 4
NAMES = {
    cells.CoRNN: "coRNNCell",
    cells.TauGRU: "tauGRUCell",
    cells.BRC: "BRCell",
    cells.NBRC: "NBRCell",
    cells.NASCell: "NASCell",
    cells.ResidualLSTM: "ResLSTMCell",
    cells.WorkingMemoryLSTM: "WMCLSTMCell",
    cells.Antisymmetric: "AntisymmetricRNNCell",
    cells.GatedAntisymmetric: "GatedAntisymmetricRNNCell",
}
OPTIONS = {
    cells.IndRNN: {"nonlinearity": "relu"},
    cells.FastGRNN: {"nonlinearity": "sigmoid"},  # of the gate; theirs is tanh unless said
    cells.CoRNN: {"dt": 0.05, "gamma": 1.0, "epsilon": 1.0},
    cells.UnICORNN: {"dt": 0.1, "alpha": 1.0},
    cells.Antisymmetric: {"epsilon": 0.1, "gamma": 0.01},
    cells.GatedAntisymmetric: {"epsilon": 0.1, "gamma": 0.01},
}
every_cell = pytest.mark.parametrize("kind", torchrecurrent._LAYOUTS, ids=lambda kind: kind.__name__)


def module_of(kind, dtype):
    """A module with random weights; biases that the paper does not have are zero."""
    made = getattr(theirs, NAMES.get(kind, f"{kind.__name__}Cell"))
    size = H if kind is cells.IntersectionRNN else 3
    module = made(size, H, dtype=getattr(torch, dtype), **OPTIONS.get(kind, {}))
    layout, generator = torchrecurrent._LAYOUTS[kind], torch.Generator().manual_seed(0)
    used, counts = set(layout.places()), dict(layout.blocks)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if kind is cells.JANET and name == "beta":
                continue
            weight.copy_(0.6 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            if name.startswith("bias"):
                for index, block in enumerate(weight.chunk(counts.get(name, 1))):
                    if (name, index) not in used:
                        block.zero_()
    return module, size


def run_theirs(kind, module, xs):
    """Outputs over time, from zero states."""
    state, ys, hs = None, [], [torch.zeros(B, H, dtype=xs.dtype)] * 4
    for x in xs:
        if kind is cells.TauGRU:
            state = module(x, hs[-1], hs[-3])
            hs.append(state)
            ys.append(state)
            continue
        found = module(x) if state is None else module(x, state)
        if kind is cells.TLSTM or kind is cells.IntersectionRNN:
            y, state = found
        else:
            y, state = (found[0] if isinstance(found, tuple) else found), found
        ys.append(y)
    return torch.stack(ys)


SLOPE_IN_FLOAT32 = (cells.SGU, cells.DSGU)
"""PyTorch's hard sigmoid has its slope, 1/6, in float32, even for float64."""


def differences(kind, dtype):
    """The largest relative difference of outputs, and of the gradients of input and matrices."""
    module, size = module_of(kind, dtype)
    cell = kind(H)
    rng = np.random.default_rng(1)
    xs, weight = rng.normal(size=(T, B, size)).astype(dtype), rng.normal(size=(T, B, H)).astype(dtype)
    params = from_torchrecurrent(cell, {k: v.detach().numpy() for k, v in module.state_dict().items()})

    def loss(params, xs):
        ys = rnnjax.unroll(cell, params, xs)[1]
        return (ys * weight).sum(), ys

    of = jax.tree.map(jnp.asarray, params), jnp.asarray(xs)
    (_, ys), (to_params, to_xs) = jax.value_and_grad(loss, (0, 1), has_aux=True)(*of)
    inputs = torch.tensor(xs, requires_grad=True)
    found = run_theirs(kind, module, inputs)
    (found * torch.tensor(weight)).sum().backward()
    gradients = {k: v.grad.numpy() for k, v in module.named_parameters()}
    pairs = [(to_xs, inputs.grad.numpy())]
    for field, name, order in torchrecurrent._LAYOUTS[kind].matrices:
        if kind is cells.CoRNN and field != "w_x":
            ours = np.split(np.asarray(to_params.w_h), 2)[field == "w_h2"]
        else:
            ours = getattr(to_params, field)
        blocks = np.split(gradients[name], len(order))
        pairs.append((ours, np.concatenate([blocks[k].T for k in order], axis=-1)))
    return relative(ys, found.detach().numpy()), max(relative(*pair) for pair in pairs)


def relative(a, b):
    """The largest difference over the largest value."""
    return float(np.abs(np.asarray(a) - b).max() / max(1.0, np.abs(b).max()))


@every_cell
def test_values_and_gradients_are_theirs(kind):
    values, gradients = differences(kind, "float64")
    assert values < 1e-12 and gradients < (1e-7 if kind in SLOPE_IN_FLOAT32 else 1e-12)
    values, gradients = differences(kind, "float32")
    assert values < 1e-6 and gradients < 2e-6


@every_cell
def test_there_and_back(kind):
    """The state dict fits the module, and converting it back gives the same parameters."""
    module, size = module_of(kind, "float64")
    cell = kind(H)
    params = cell.init(jax.random.key(0), size, "float64")
    state = {name: torch.from_numpy(np.array(array)) for name, array in to_torchrecurrent(cell, params).items()}
    assert not module.load_state_dict(state, strict=False).unexpected_keys
    assert set(module.state_dict()) - set(state) <= {"beta"}
    assert_identical(from_torchrecurrent(cell, state), jax.tree.map(np.asarray, params))


def test_what_their_cells_have_and_papers_have_not():
    module, _ = module_of(cells.ATR, "float64")
    state = {name: array.detach().numpy() for name, array in module.state_dict().items()}
    with pytest.raises(ValueError, match="block 0 of `bias_hh` is not zero"):
        from_torchrecurrent(cells.ATR(H), state | {"bias_hh": np.ones(H)})
    with pytest.raises(ValueError, match="'weight_h' is unknown"):
        from_torchrecurrent(cells.ATR(H), state | {"weight_h": np.ones(H)})
    with pytest.raises(TypeError, match="does not have, or has differently; known: ATR"):
        from_torchrecurrent(cells.LEM(H), state)


def test_every_cell_of_theirs_is_here():
    """All that they export, besides what differs from its paper or is another cell."""
    exported = {name for name, value in vars(theirs).items() if inspect.isclass(value) and name.endswith("Cell")}
    known = {NAMES.get(kind, f"{kind.__name__}Cell") for kind in torchrecurrent._LAYOUTS}
    assert exported - known == {"LEMCell", "SCRNCell", "MCLSTMCell"}


def table():
    """The page `docs/parity.md`: every cell against torchrecurrent, or against the papers in NumPy."""
    lines = [
        "# Cells against others",
        "",
        "Written by `python -m tests.converters.test_torchrecurrent`: the largest relative differences, over 6 steps",
        "and 2 rows, of outputs and of the gradients of input and matrices. The last column is one step in float64",
        "against `tests/paper_steps.py`, which has every paper's equations in NumPy.",
        "",
        "| cell | torchrecurrent 0.2.5 | float64, outputs | float64, gradients | float32, outputs | paper in NumPy |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    names = {kind: NAMES.get(kind, f"{kind.__name__}Cell") for kind in torchrecurrent._LAYOUTS}
    for name in CATALOGUE:
        kind = type(CATALOGUE[name])
        row = [names.get(kind, DEPARTURES.get(kind, "none"))] + ["" if kind not in names else "x"] * 3
        if kind in names:
            (values, gradients), (single, _) = differences(kind, "float64"), differences(kind, "float32")
            row[1:] = [f"{values:.0e}", f"{gradients:.0e}", f"{single:.0e}"]
        lines.append(f"| `{name}` {kind.__name__} | {' | '.join(row)} | {from_paper(name):.0e} |")
    remark = "SGU and DSGU: PyTorch's hard sigmoid has its slope, 1/6, in float32."
    return "\n".join([*lines, "", remark, ""])


DEPARTURES = {
    cells.LEM: "LEMCell, which uses z of the step before, unlike the paper",
    cells.SCRN: "SCRNCell, which feeds back the output, unlike the paper",
    cells.RecurrentHighway: "RHNCell is commented out",
}


def from_paper(name):
    """The largest difference of one step from the paper's equations."""
    params, carry, xs = sample(name)
    got = CATALOGUE[name].step(params, carry, xs[0])
    worst = 0.0
    for b in range(xs.shape[1]):
        row = jax.tree.map(lambda leaf, b=b: np.asarray(leaf[b]), carry)
        expected = STEPS[name](jax.tree.map(np.asarray, params), row, np.asarray(xs[0, b]))
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            worst = max(worst, relative(ours[b], theirs))
    return worst


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    (pathlib.Path(__file__).parents[2] / "docs" / "parity.md").write_text(table())
