"""Converts an architecture to JSON and back: frozen dataclasses of hyperparameters, identified by class name.

    Elman(hidden_size=128, ...)  ⇄  {"class": "Elman", "hidden_size": 128, "activation": "tanh", ...}

Loading a file never imports code: a name refers to a class of rnnjax, or to one that the caller passes.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from rnnjax import cells, compose, embedding, initializers, pooling, readout, wrappers

_PARTS = (cells, compose, embedding, initializers, pooling, readout, wrappers)
_OURS = {k: v for part in _PARTS for k, v in vars(part).items() if isinstance(v, type) and dataclasses.is_dataclass(v)}


def encode(value: Any, known: dict[str, type] | None = None) -> Any:
    """JSON of frozen dataclasses, numbers, strings, None and tuples; a TypeError for other values and for equal names.

    Example:

      >>> encode(initializers.Orthogonal(0.9))
      {'class': 'Orthogonal', 'scale': 0.9}
    """
    known, kind = dict(_OURS) if known is None else known, type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is tuple:
        return [encode(each, known) for each in value]
    if not dataclasses.is_dataclass(kind):
        raise TypeError(
            f"{value!r} is {kind.__name__}, which cannot be saved; an architecture consists of frozen dataclasses, "
            "numbers, strings and tuples. (A `StepCell`, or an `Elman` with an activation of your own, holds "
            "functions: write it as a dataclass with methods.)"
        )
    if (other := known.setdefault(kind.__name__, kind)) is not kind:
        told = f"{value!r} is a {kind}, and would be taken for {other} when it is loaded"
        raise TypeError(f"{told}: give one of the two classes another name.")
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    return {"class": kind.__name__} | {name: encode(getattr(value, name), known) for name in fields}


def decode(content: Any, classes: Iterable[type] = ()) -> Any:
    """The architecture from its JSON, with `classes` besides those of rnnjax. Errors as in `load_model`."""
    known = dict(_OURS)
    for kind in classes:
        if (other := known.setdefault(kind.__name__, kind)) is not kind:
            raise ValueError(f"`classes` has {kind}, and there is {other} of the same name: rename one.")

    def restored(content: Any) -> Any:
        if not isinstance(content, dict):
            return tuple(map(restored, content)) if isinstance(content, list) else content
        name, fields = content["class"], {key: restored(each) for key, each in content.items() if key != "class"}
        if name not in known:
            raise ValueError(f"the saved model has a {name}, which is not an rnnjax class: pass classes=({name},).")
        try:
            return known[name](**fields)
        except TypeError as error:
            raise TypeError(f"the saved {name} has fields {', '.join(fields)}, not those of this version.") from error

    return restored(content)
