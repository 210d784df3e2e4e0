"""Whole models of Flax linen and nnx: cells that `rnnjax.flax` converts, in layers, with a linear head."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.cells import GRU, LSTM, Elman, ElmanParams, GRUParams
from rnnjax.converters.models import Layer, Layers, Linear, Parts, assembled
from rnnjax.converters.names import held, leaves_of, nested
from rnnjax.textbook import ACTIVATIONS, Activation


def from_flax(
    variables: Any, *, layers: Layers | None = None, head: str | None = None, activation: Activation | None = None
) -> tuple[Any, PyTree]:
    """Converts the variables of a linen model, or an nnx module or its state, to a cell and its parameters.

    The arguments are those of `from_any`. Only an nnx module contains the activations of its cells; other arrays are
    taken to be those of cells with Flax's default activations.

    Raises:
      ValueError: as `from_any`.
    """
    from rnnjax.flax import from_linen, from_nnx  # imports Flax, where its arrays are given
    from rnnjax.flax.linen_params import LAYOUTS as LINEN
    from rnnjax.flax.nnx_params import LAYOUTS as NNX

    known = [(layout, convert) for layouts, convert in ((LINEN, from_linen), (NNX, from_nnx)) for layout in layouts]
    cells = [({leaf.split(".")[0] for leaf in layout.shapes}, convert) for layout, convert in known]
    modules = {} if isinstance(variables, Mapping) else held(variables)
    parts: Parts = {}
    left: dict[str, str] = {}

    def walk(node: Mapping[str, Any], name: str) -> None:
        """Collects the cells and linear maps below a node."""
        keys = {key for key, part in node.items() if isinstance(part, Mapping)}
        top, convert = max(cells, key=lambda cell: (cell[0] <= keys, len(cell[0] & keys)))
        if len(top & keys) > 1:
            params: Any = jax.tree.map(np.asarray, convert(node))  # raises unless it has all of the cell, and no more
            cell = _cell(params, name, modules.get(name), activation)
            parts[name.removesuffix("cell").rstrip(".")] = Layer(cell, params)
        elif set(node) <= {"kernel", "bias"} and np.ndim(node.get("kernel", 0)) == 2:
            parts[name] = Linear(node["kernel"], node.get("bias"))
        else:
            for key, part in node.items():
                below = "" if key == "params" and not name else f"{name}.{key}".lstrip(".")
                if isinstance(part, Mapping):
                    walk(part, below)
                else:
                    left[below] = ""

    leaves = leaves_of(variables)
    walk(nested({name: leaf for name, leaf in leaves.items() if "rngs" not in name.split(".")}), "")
    return assembled("`weights`", parts, left, layers, head)


def _cell(params: Any, name: str, module: Any, activation: Activation | None) -> Any:
    """Our cell; of a module, with its activation."""
    size = params.w_h.shape[0]
    functions = {each: getattr(getattr(module, each, None), "__name__", None) for each in ("gate_fn", "activation_fn")}
    if not isinstance(params, ElmanParams):
        if functions["gate_fn"] not in (None, "sigmoid") or functions["activation_fn"] not in (None, "tanh"):
            raise ValueError(f"the cell {name!r} has {functions}; here it has sigmoid and tanh, as by default in Flax.")
        return GRU(size) if isinstance(params, GRUParams) else LSTM(size)
    known: Any = functions["activation_fn"] or activation
    if known is None:
        raise ValueError(
            f'{name!r} is a SimpleCell of Flax, whose parameters do not say its activation; pass activation="tanh" '
            '(Flax\'s default) or "relu".'
        )
    if isinstance(known, str) and known not in ACTIVATIONS:
        raise ValueError(f"the SimpleCell {name!r} has the activation {known!r}; known: {', '.join(ACTIVATIONS)}.")
    return Elman(size, known)  # type: ignore[arg-type]
