"""Puts the recurrent layers and the linear head of a model together, from parts that have names."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnjax._names import nearest
from rnnjax.cell import PyTree
from rnnjax.compose import Bidirectional, BothWays, Stack
from rnnjax.converters.layouts import Layout, from_layout
from rnnjax.readout import Readout, ReadoutParams

Layers = Sequence[str | tuple[str, str]]
"""Names of recurrent layers, bottom to top; a pair is the forward and backward direction of one."""


class Layer(NamedTuple):
    """A recurrent layer."""

    cell: Any
    params: PyTree

    @property
    def inputs(self) -> int:
        params = self.params[0] if isinstance(self.params, BothWays) else self.params
        return params.w_x.shape[0]

    @property
    def outputs(self) -> int:
        ways = self.params if isinstance(self.params, BothWays) else (self.params,)
        joined = getattr(self.cell, "merge", "concatenate") == "concatenate"
        return sum([params.w_h.shape[0] for params in ways[: 2 if joined else 1]])


class Linear(NamedTuple):
    """A linear map: weights `[H, K]`, and a bias `[K]` or `None`."""

    w: Any
    b: Any


Parts = dict[str, Layer | Linear]


def parts_of(
    leaves: Mapping[str, Any], layouts: Collection[Layout], linear: tuple[str, str], separator: str
) -> tuple[Parts, dict[str, str]]:
    """Finds the parts of a model among its arrays by name.

    Args:
      leaves: NumPy arrays by name, such as "encoder/lstm/linear/w".
      layouts: of the library; of two that fit, the one with more arrays is taken.
      linear: the names of a linear map's weights and bias.
    Returns:
      The parts by name; and arrays that belong to none, with the reason if the names fit but not the shapes.
    """
    parts: Parts = {}
    wrong: dict[str, str] = {}
    left = dict(leaves)
    tails = {tail for layout in layouts for tail in layout.leaves}
    heads = {_head(name, tail, separator) for name in left for tail in tails}
    transposed = next(iter(layouts)).transposed
    for head in sorted({head for head in heads if head is not None}, key=len, reverse=True):
        inside = {name.removeprefix(head): leaf for name, leaf in leaves.items() if name.startswith(head)}
        fitting = [layout for layout in layouts if layout.fits(set(inside))]
        misfits = [layout.misfit(inside) for layout in fitting]
        named = head.removesuffix(separator)
        for layout, misfit in zip(fitting, misfits, strict=True):
            if not misfit and (head or layout.library != "Haiku"):  # a core of Haiku has a name
                parts[named] = Layer(*from_layout(layout, inside))
                left = {name: leaf for name, leaf in left.items() if not name.startswith(head)}
                break
        else:
            if fitting:
                wrong |= dict.fromkeys((head + name for name in inside), f"as {fitting[0].name}: {misfits[0]}")
    for name in list(left):
        head = _head(name, linear[0], separator)
        if head is None or np.ndim(left[name]) != 2:
            continue
        w, b = left[name].T if transposed else left[name], left.get(head + linear[1])
        if b is None or np.shape(b) == w.shape[1:]:
            parts[head.removesuffix(separator)] = Linear(w, b)
            for used in (name, head + linear[1]):
                left.pop(used, None)
    return parts, {name: wrong.get(name, "") for name in left}


def _head(name: str, tail: str, separator: str) -> str | None:
    """What is before the tail of a name; the separator is part of it."""
    if name == tail:
        return ""
    return name.removesuffix(tail) if name.endswith(separator + tail) else None


def ordered(
    what: str, parts: Parts, left: Mapping[str, str], layers: Layers | None, head: str | None
) -> tuple[list[str | tuple[str, str]], str | None]:
    """The names of the layers, bottom to top, and of the linear head.

    Args:
      what: the model, for messages.
      left: arrays of no part, with reasons, which are refused.
      layers: the order; by default that of one series of names, such as lstm, lstm_1.
      head: the name of the linear head; by default the only linear map.
    Raises:
      ValueError: a part is unknown or not used, or the order is not known.
    """
    recurrent = {name: part for name, part in parts.items() if isinstance(part, Layer)}
    linear = {name: part for name, part in parts.items() if isinstance(part, Linear)}
    if left:
        shown = [f"{name!r}{f' ({why})' if why else ''}" for name, why in list(left.items())[:8]]
        more = f" and {len(left) - 8} more" if len(left) > 8 else ""
        raise ValueError(
            f"{what} holds {', '.join(shown)}{more}, which {'is' if len(left) == 1 else 'are'} no part of a recurrent "
            f"layer or linear head that is known here{_found(parts)}. Pass only the part of the model that is."
        )
    if not recurrent:
        raise ValueError(f"{what} holds no recurrent layer that is known here{_found(parts)}.")
    only = next(iter(linear)) if head is None and len(linear) == 1 else None
    head = only if head is None else head
    if head is not None and head not in linear:
        raise ValueError(f"{what} has no linear map {head!r}{nearest(head, linear)}{_found(parts)}.")
    order = _order(what, recurrent) if layers is None else list(layers)
    names = [name for each in order for name in ((each,) if isinstance(each, str) else each)]
    for name in names:
        if name not in recurrent:
            raise ValueError(f"{what} has no recurrent layer {name!r}{nearest(name, recurrent)}{_found(parts)}.")
    if len(set(names)) < len(names):
        raise ValueError(f"layers is {order!r}, which names one layer twice.")
    if unused := [name for name in parts if name not in (*names, head)]:
        raise ValueError(
            f"{what} also holds {', '.join(map(repr, unused))}, not used{_found(parts)}. Say with `layers` and `head` "
            "what is, and pass only that part of the model."
        )
    if only is not None:
        check_is_head(what, only, linear[only], recurrent[names[0]].inputs)
    return order, head


def check_is_head(what: str, name: str, linear: Linear, inputs: int) -> None:
    """Raises ValueError if the only linear map may as well make the inputs of the layers."""
    if linear.w.shape[1] == inputs:
        raise ValueError(
            f"{what} holds the linear map {name!r} with {inputs} outputs, as many as the recurrent layers have "
            f"inputs: it may come before or after them. Pass head={name!r} if it reads their outputs, else the layers."
        )


def assembled(
    what: str, parts: Parts, left: Mapping[str, str], layers: Layers | None, head: str | None
) -> tuple[Any, PyTree]:
    """The whole model: a cell, a `Bidirectional` or a `Stack` of them, in a `Readout` if there is a linear head.

    The arguments are those of `ordered`.

    Raises:
      ValueError: as `ordered`; or widths do not fit.
    """
    order, head = ordered(what, parts, left, layers, head)
    made = [_layer(what, parts, names) for names in order]
    for below, layer, name in zip(made, made[1:], order[1:], strict=False):
        if layer.inputs != below.outputs:
            raise ValueError(
                f"{what}: layer {name!r} takes {layer.inputs} inputs, but the layer below it has {below.outputs} "
                "outputs; name the layers from bottom to top with `layers`. (Skip connections are not converted.)"
            )
    return whole(what, made, None if head is None else parts[head])  # type: ignore[arg-type]


def whole(
    what: str, layers: Sequence[tuple[Any, PyTree]], read: Linear | None, dropout: float = 0.0
) -> tuple[Any, PyTree]:
    """A cell, or a `Stack`, in a `Readout` if there is a head."""
    if len(layers) == 1:
        cell, params = layers[0]
    else:
        cells, params = (tuple(each) for each in zip(*layers, strict=True))
        cell = Stack(cells, dropout)
    if read is None:
        return cell, params
    width = Layer(*layers[-1]).outputs
    if read.w.shape[0] != width:
        raise ValueError(
            f"{what}: the linear head takes {read.w.shape[0]} inputs, but the top layer has {width} outputs."
        )
    if read.b is None:
        raise ValueError(
            f"{what}: the linear head has no bias, but that of a Readout does and would be trained; give it zeros in "
            "the library, or convert the recurrent part alone."
        )
    if read.b.shape != read.w.shape[1:]:
        raise ValueError(
            f"{what}: the bias of the linear head is {list(read.b.shape)}, but its weights are {list(read.w.shape)}."
        )
    w: Any = np.ascontiguousarray(read.w) if isinstance(read.w, np.ndarray) else read.w
    return Readout(cell, w.shape[1]), ReadoutParams(params, w, read.b)


def split_whole(cell: Any, params: PyTree) -> tuple[list[tuple[Any, PyTree]], Linear | None]:
    """The layers and the head of a model: the inverse of `whole`.

    Raises:
      TypeError: `params` are not those of `cell`, as far as their types say.
    """
    read = None
    if isinstance(cell, Readout):
        if not isinstance(params, ReadoutParams):
            raise TypeError(f"`params` is a {type(params).__name__}; expected the ReadoutParams of {cell!r}.")
        cell, params, read = cell.cell, params.rnn, Linear(params.w_out, params.b_out)
    if not isinstance(cell, Stack):
        return [(cell, params)], read
    if cell.skip != "none":
        raise TypeError(f"`cell` is {cell!r}; skip connections are not part of a library's layers: skip={cell.skip!r}.")
    if len(params) != len(cell.cells):
        raise TypeError(f"`params` has {len(params)} parts, but {cell!r} has {len(cell.cells)} layers.")
    return list(zip(cell.cells, params, strict=True)), read


def directions(cell: Any, params: PyTree) -> list[tuple[Any, PyTree]]:
    """One or two cells of a layer."""
    if isinstance(cell, Bidirectional):
        return [(cell.forward, params[0]), (cell.backward, params[1])]
    return [(cell, params)]


def layout_for(cell: Any, params: Any, layouts: Collection[Layout]) -> Layout:
    """The layout in which a library stores a cell of ours.

    Raises:
      TypeError: it has no such cell, not with this activation, or not without biases.
    """
    bare = params.b is None if hasattr(params, "b") else False
    inner = cell.cell if type(cell).__name__ == "WithoutBias" else cell
    library, found = next(iter(layouts)).library, list[str]()
    for layout in layouts:
        if type(inner) is not layout.cell or type(params) is not layout.record:
            continue
        found.append(f"its {layout.name}")
        if layout.activation and getattr(inner, "activation", None) != layout.activation:
            found[-1] += f" has {layout.activation} and not {getattr(inner, 'activation', None)!r}"
        elif bare and layout.bias == "always":
            found[-1] += " always has a bias: put zeros there"
        else:
            return layout
    known = ", ".join(sorted({layout.cell.__name__ for layout in layouts}))
    raise TypeError(
        f"{library} has no {inner!r} with {type(params).__name__}: {'; '.join(found) or f'it has {known}'}."
    )


def _layer(what: str, parts: Parts, names: str | tuple[str, str]) -> Layer:
    found: Any = parts
    if isinstance(names, str):
        return found[names]
    forward, backward = (found[name] for name in names)
    if forward.inputs != backward.inputs:
        raise ValueError(
            f"{what}: {names[0]!r} takes {forward.inputs} inputs and {names[1]!r} {backward.inputs}; the two "
            "directions of a layer see the same."
        )
    return Layer(Bidirectional(forward.cell, backward.cell), BothWays(forward.params, backward.params))


def _order(what: str, recurrent: Mapping[str, Layer]) -> list[str | tuple[str, str]]:
    """The layers of one series of names in its order; "forward" and "backward" of one name are its directions.

    Raises:
      ValueError: there are other names, or the layers may as well be the two directions of one.
    """
    pairs: dict[str, str | tuple[str, str]] = {}
    for name in recurrent:
        match = re.fullmatch(r"((?:.*[./])?)(forward|backward)(_.*)?", name)
        other = f"{match[1]}backward{match[3] or ''}" if match else ""
        if match is None or other not in recurrent:
            pairs[name] = name
        elif match[2] == "forward":
            pairs[match[1].rstrip("./")] = (name, other)
    if len(pairs) == 1:
        return list(pairs.values())
    numbers = {name: re.fullmatch(r"(.*?)[_./]?(\d*)", name) for name in pairs}
    shown = ", ".join(map(repr, recurrent))
    if len({match[1] for match in numbers.values() if match}) > 1:
        raise ValueError(
            f"{what} holds the recurrent layers {shown}, whose order or direction is not known from their names; pass "
            f"layers={list(pairs.values())}, bottom to top, with a pair, "
            f"({', '.join(map(repr, list(recurrent)[:2]))}), for the two directions of a layer."
        )
    order = [pairs[name] for name in sorted(pairs, key=lambda name: int((numbers[name] or "  0")[2] or 0))]
    bottom, above = (_layer(what, dict(recurrent), names) for names in order[:2])
    in_a_list = all(re.search(r"(^|[./])\d+$", name) for name in pairs)
    if bottom.inputs == above.inputs == bottom.outputs and not in_a_list:
        raise ValueError(
            f"{what} holds the recurrent layers {shown}, which may be a stack or the two directions of one layer: all "
            f"take {bottom.inputs} inputs. Pass layers={order}, bottom to top, or layers=[{tuple(order[:2])}], "
            "forward and backward."
        )
    return order


def _found(parts: Mapping[str, Any]) -> str:
    shown = [f"{name!r} ({_shown(part)})" for name, part in parts.items()]
    return f"; it holds {', '.join(shown)}" if shown else ""


def _shown(part: Layer | Linear) -> str:
    return repr(part.cell) if isinstance(part, Layer) else f"a linear map {list(part.w.shape)}"
