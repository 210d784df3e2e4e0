"""torchrecurrent's layout of the weights of its cells (0.2.5): between `rnnjax.cells` and state dicts of its `...Cell`.

Its matrices multiply from the left, so ours are their transposes, block by block; its two or three biases are added in
one. Where its biases have no counterpart in the paper, and so none here, they must be zero. Hyperparameters, such as
`beta` of a JANET, are fields of our cell: give it the values of the module. Its RHN is commented out; its SCRN and LEM
differ from their papers, and its MCLSTM is another cell.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rnnjax import cells
from rnnjax._names import discrepancies
from rnnjax.cell import PyTree
from rnnjax.compose import Stack


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the fields of our parameters are made of its arrays.

    Attributes:
      matrices: our field, its name, and which of its blocks are ours, in our order; () for the whole.
      vectors: our field, and for each of our blocks the blocks of its vectors that are added up, as (name, index).
      blocks: how many blocks each of its arrays has, if more than one.
    """

    matrices: tuple[tuple[str, str, tuple[int, ...]], ...]
    vectors: tuple[tuple[str, tuple[tuple[tuple[str, int], ...], ...]], ...]
    blocks: tuple[tuple[str, int], ...]

    def block(self, state: Mapping[str, Any], name: str, index: int) -> np.ndarray:
        count = dict(self.blocks).get(name, 1)
        return np.split(np.atleast_1d(np.asarray(state[name])), count)[index]

    def places(self) -> Iterator[tuple[str, int]]:
        """All blocks of its vectors that have a counterpart."""
        for _, sums in self.vectors:
            for places in sums:
                yield from places


def _layout(
    x: int | tuple[int, ...] = 1,
    h: int | tuple[int, ...] = 1,
    b: str = "",
    *,
    more: Mapping[str, tuple[str, int]] | None = None,
    vectors: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> _Layout:
    """A layout.

    Args:
      x, h: the number of blocks of `weight_ih` and `weight_hh`, or the order of its blocks; 0 for none.
      b: the blocks of our bias, each a sum of places such as `ih0+hh0`; the sums of all blocks if left out.
      more: our field for other matrices of its, with the number of blocks.
      vectors: our fields of other vectors of its, written like `b` with whole names.
      sizes: the number of blocks of its biases where it is not that of `weight_ih` or `weight_hh`.
    """
    order_x, order_h = (tuple(range(n)) if isinstance(n, int) else n for n in (x, h))
    counts = {"weight_ih": len(order_x), "bias_ih": len(order_x)}
    if order_h:
        counts |= {"weight_hh": len(order_h), "bias_hh": len(order_h)}
    matrices = [("w_x", "weight_ih", order_x)] + [("w_h", "weight_hh", order_h)] * bool(order_h)
    for field, (name, count) in (more or {}).items():
        matrices.append((field, name, tuple(range(count))))
        counts[name] = count
    counts |= dict(sizes or {})
    texts = {"b": b or " ".join(f"bias_ih.{k}+bias_hh.{k}" for k in range(len(order_x)))} | dict(vectors or {})
    parsed = []
    for field, text in texts.items():
        sums = [tuple(_place(place) for place in block.split("+")) for block in text.split()]
        parsed.append((field, tuple(sums)))
    return _Layout(tuple(matrices), tuple(parsed), tuple(counts.items()))


def _place(text: str) -> tuple[str, int]:
    """`ih0` is block 0 of `bias_ih`; other names are written in full, as `weight_ph.1`."""
    if text[:2] in ("ih", "hh") and text[2:].isdigit():
        return f"bias_{text[:2]}", int(text[2:])
    name, _, index = text.partition(".")
    return name, int(index or 0)


_PEEPHOLES = {"w_c": "weight_ph.0 weight_ph.1 weight_ph.2"}

_LAYOUTS: dict[type, _Layout] = {
    cells.OriginalLSTM: _layout(3, 3),
    cells.PeepholeLSTM: _layout(4, 4, vectors=_PEEPHOLES, sizes={"weight_ph": 3}),
    cells.ResidualLSTM: _layout(
        4, 4, more={"w_p": ("weight_proj", 1), "w_r": ("weight_res", 1)}, vectors=_PEEPHOLES, sizes={"weight_ph": 3}
    ),
    cells.JANET: _layout(2, 2),
    cells.MultiplicativeLSTM: _layout(
        5,
        1,
        "ih1+bias_mh.0 ih2+bias_mh.1 ih3+bias_mh.2 ih4+bias_mh.3",
        more={"w_m": ("weight_mh", 4)},
        sizes={"bias_mh": 4},
    ),
    cells.NASCell: _layout(8, 8),
    cells.WorkingMemoryLSTM: _layout(
        4, 4, more={"w_c": ("weight_mh", 3)}, vectors={"b_c": "bias_mh.0 bias_mh.1 bias_mh.2"}, sizes={"bias_mh": 3}
    ),
    cells.MGU: _layout(2, 2),
    cells.LiGRU: _layout(2, 2),
    cells.LightRU: _layout((1, 0), 1, "ih1+hh0 ih0"),
    cells.MinimalRNN: _layout(1, 1, "ih0 hh0", more={"w_z": ("weight_mm", 1)}),
    cells.MUT1: _layout(3, 2, "ih0 ih1+hh0 hh1"),
    cells.MUT2: _layout(3, 3),
    cells.MUT3: _layout(3, 3),
    cells.UGRNN: _layout(2, 2),
    cells.IntersectionRNN: _layout(4, 4),
    cells.SGRN: _layout(1, 1, "ih0"),
    cells.SGU: _layout(2, 2, "ih0 ih1+hh1"),
    cells.DSGU: _layout(2, 2, "ih0 ih1+hh1", more={"w_o": ("weight_ho", 1)}),
    cells.STAR: _layout(2, 1, "ih0 ih1+hh0"),
    cells.ATR: _layout(1, 1, "ih0"),
    cells.BRC: _layout(
        3, 0, "ih0+hh0 ih1+hh1 ih2", vectors={"w_h": "weight_hh.0 weight_hh.1"}, sizes={"weight_hh": 2, "bias_hh": 2}
    ),
    cells.NBRC: _layout(3, 2, "ih0+hh0 ih1+hh1 ih2"),
    cells.RAN: _layout(3, 2, "ih0+hh0 ih1+hh1", sizes={"bias_ih": 2}),
    cells.CFN: _layout(3, 2, "ih0+hh0 ih1+hh1"),
    cells.TauGRU: _layout(4, 4),
    cells.MiRU1: _layout(2, 2),
    cells.MiRU2: _layout(1, 1),
    cells.IndRNN: _layout(1, 0, "ih0+hh0", vectors={"w_h": "vector_u"}, sizes={"bias_hh": 1}),
    cells.FastRNN: _layout(1, 1, vectors={"scalars": "alpha beta"}),
    cells.FastGRNN: _layout(
        1, 1, "ih0+hh0 ih1+hh1", vectors={"scalars": "zeta nu"}, sizes={"bias_ih": 2, "bias_hh": 2}
    ),
    cells.Antisymmetric: _layout(1, 1),
    cells.GatedAntisymmetric: _layout(2, 1, "ih0 ih1+hh0"),
    cells.CoRNN: _layout(1, 1, "ih0+hh0+bias_ch", more={"w_h2": ("weight_ch", 1)}),
    cells.UnICORNN: _layout(
        1, 0, "ih0+hh0", vectors={"w_h": "weight_hh", "c": "weight_ch"}, sizes={"weight_hh": 1, "bias_hh": 1}
    ),
    cells.TRNN: _layout(2, 0, "ih0 ih1"),
    cells.TGRU: _layout(3, 0, "ih0+hh0 ih1+hh1 ih2+hh2", more={"w_v": ("weight_hh", 3)}, sizes={"bias_hh": 3}),
    cells.TLSTM: _layout(3, 0, "ih0+hh0 ih1+hh1 ih2+hh2", more={"w_v": ("weight_hh", 3)}, sizes={"bias_hh": 3}),
}


def from_torchrecurrent(cell: Any, state_dict: Mapping[str, Any]) -> PyTree:
    """Converts the state dict of a cell of torchrecurrent to parameters of the same cell here.

    Args:
      cell: our cell, such as `rnnjax.cells.JANET(20)`, or a `Stack` of several.
      state_dict: of the corresponding `torchrecurrent.JANETCell`, with tensors or arrays; for a `Stack`, of a
        `torchrecurrent.JANET`.
    Returns:
      Parameters of `cell` as NumPy arrays of unchanged dtype.
    Raises:
      TypeError: torchrecurrent has no such cell.
      ValueError: a name is unknown or missing, or a bias that our cell does not have is not zero.

    Example:

      >>> rng = np.random.default_rng(0)
      >>> state = {"weight_ih": rng.normal(size=(4, 3)), "weight_hh": rng.normal(size=(4, 2)),
      ...          "bias_ih": rng.normal(size=4), "bias_hh": rng.normal(size=4), "beta": 1.0}
      >>> from_torchrecurrent(cells.JANET(2), state).w_x.shape
      (3, 4)
    """
    if isinstance(cell, Stack):
        if wrong := [name for name in state_dict if not re.fullmatch(r"cells\.\d+\..+", name)]:
            raise ValueError(f"`state_dict` holds {wrong}; a layer of torchrecurrent has cells.0.weight_ih and so on.")
        parts: list[dict[str, Any]] = [{} for _ in cell.cells]
        for name, array in state_dict.items():
            _, index, inner = name.split(".", 2)
            if int(index) >= len(parts):
                raise ValueError(f"`state_dict` holds {name!r}, but {cell!r} has {len(parts)} layers.")
            parts[int(index)][inner] = array
        return tuple([from_torchrecurrent(*layer) for layer in zip(cell.cells, parts, strict=True)])
    layout = _layout_of(cell)
    names = _names(layout)
    state = {name: np.asarray(array) for name, array in state_dict.items() if name in names or name != "beta"}
    if wrong := discrepancies(state, names):
        raise ValueError(f"`state_dict` is not that of {type(cell).__name__}Cell: {wrong}.")
    used = set(layout.places())
    for name, array in state.items():
        if name.startswith("bias"):
            for index, block in enumerate(np.split(array, dict(layout.blocks).get(name, 1))):
                if (name, index) not in used and np.any(block):
                    raise ValueError(
                        f"block {index} of `{name}` is not zero, but the paper's {type(cell).__name__} has no such "
                        "bias; set it to zero in the module, or train without it."
                    )
    fields: dict[str, Any] = {}
    for field, name, order in layout.matrices:
        fields[field] = np.concatenate([layout.block(state, name, k).T for k in order], axis=-1)
    for field, sums in layout.vectors:
        found = [sum([layout.block(state, *place) for place in places]) for places in sums]
        fields[field] = np.concatenate(found)
    if "w_h2" in fields:
        fields["w_h"] = np.concatenate([fields["w_h"], fields.pop("w_h2")])
    return type(cell.weights(1))(**fields)


def to_torchrecurrent(cell: Any, params: PyTree) -> dict[str, np.ndarray]:
    """Converts parameters to a state dict of NumPy arrays for the same cell of torchrecurrent.

    Load it with `module.load_state_dict({k: torch.from_numpy(v) for k, v in ...}, strict=False)`; hyperparameters that
    the module keeps among its parameters (`beta` of a JANET) are not part of it. Of several biases that are added up,
    the first gets the whole.

    Raises:
      TypeError: torchrecurrent has no such cell.

    Example:

      >>> import jax
      >>> cell = cells.JANET(2)
      >>> state = to_torchrecurrent(cell, cell.init(jax.random.key(0), input_size=3))
      >>> sorted(state), state["weight_ih"].shape
      (['bias_hh', 'bias_ih', 'weight_hh', 'weight_ih'], (4, 3))
    """
    if isinstance(cell, Stack):
        layers = [to_torchrecurrent(*layer) for layer in zip(cell.cells, params, strict=True)]
        return {f"cells.{k}.{name}": array for k, layer in enumerate(layers) for name, array in layer.items()}
    layout = _layout_of(cell)
    fields = {name: np.asarray(array) for name, array in params._asdict().items()}
    if any(field == "w_h2" for field, *_ in layout.matrices):
        fields["w_h"], fields["w_h2"] = np.split(fields["w_h"], 2)
    counts, state = dict(layout.blocks), {}
    for field, name, order in layout.matrices:
        found = np.split(fields[field], len(order), axis=-1)
        state[name] = np.concatenate([found[order.index(k)].T for k in range(len(order))])
    parts: dict[tuple[str, int], np.ndarray] = {}
    for field, sums in layout.vectors:
        for places, block in zip(sums, np.split(fields[field], len(sums)), strict=True):
            for number, place in enumerate(places):
                parts[place] = block if number == 0 else np.zeros_like(block)
    size = cell.hidden_size
    for name in dict.fromkeys(name for name, _ in layout.places()):
        nothing = np.zeros(size, fields["w_x"].dtype)
        found = [parts.get((name, k), nothing) for k in range(counts.get(name, 1))]
        state[name] = np.concatenate(found)
    for name in _names(layout):
        state.setdefault(name, np.zeros(size * counts.get(name, 1), fields["w_x"].dtype))
    return state


def _names(layout: _Layout) -> list[str]:
    """The names of all of its arrays."""
    biases = [name for name, _ in layout.blocks if name.startswith("bias")]
    return list(dict.fromkeys([*(name for _, name, _ in layout.matrices), *(n for n, _ in layout.places()), *biases]))


def _layout_of(cell: Any) -> _Layout:
    if type(cell) not in _LAYOUTS:
        known = ", ".join(sorted(kind.__name__ for kind in _LAYOUTS))
        raise TypeError(f"`cell` is {cell!r}, which torchrecurrent does not have, or has differently; known: {known}.")
    return _LAYOUTS[type(cell)]


KINDS = tuple(_LAYOUTS)
"""Our cells that torchrecurrent has."""


def with_names(names: set[str], blocks: int) -> list[str]:
    """The cells of torchrecurrent whose arrays have these names, and that many blocks of `weight_hh`."""
    return [
        f"{kind.__name__}Cell"
        for kind, layout in _LAYOUTS.items()
        if set(_names(layout)) == names and dict(layout.blocks).get("weight_hh") == blocks
    ]
