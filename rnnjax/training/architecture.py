"""Converts an architecture to JSON and back: frozen dataclasses of hyperparameters, identified by class name.

    Elman(hidden_size=128, ...)  ⇄  {"class": "Elman", "fields": {"hidden_size": 128, "activation": "tanh", ...}}

Loading a file never imports code: a name refers to one of rnnjax's cells and initialisers, or to a class that the
caller passes.
"""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from rnnjax import cells, compose, initializers, readout, wrappers

_OURS: dict[str, type] = {
    name: value
    for module in (cells, compose, initializers, readout, wrappers)
    for name, value in vars(module).items()
    if inspect.isclass(value) and dataclasses.is_dataclass(value)
}


def encode(value: Any) -> Any:
    """Converts an architecture to JSON.

    Raises:
      TypeError: a value is not a frozen dataclass, number, string, None or tuple of these; two classes have the same
        name; or a user's class has the name of an rnnjax class.

    Example:

      >>> encode(initializers.Orthogonal(0.9))
      {'class': 'Orthogonal', 'fields': {'scale': 0.9}}
    """
    return _encode(value, dict(_OURS))


def _encode(value: Any, classes: dict[str, type]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if classes.setdefault(name, type(value)) is not type(value):
            raise TypeError(
                f"{value!r} is a {_full_name(type(value))}, and would be taken for a {_full_name(classes[name])} when "
                "it is loaded: give one of the two classes another name."
            )
        fields = {f.name: _encode(getattr(value, f.name), classes) for f in dataclasses.fields(value) if f.init}
        return {"class": name, "fields": fields}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [_encode(each, classes) for each in value]}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{value!r} is {type(value).__name__}, which cannot be saved; an architecture consists of frozen "
        "dataclasses, numbers, strings and tuples. (A `StepCell`, or an `Elman` with an activation of your own, holds "
        "functions: write it as a dataclass with methods.)"
    )


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def decode(content: Any, classes: Iterable[type] = ()) -> Any:
    """Restores an architecture from JSON.

    Args:
      content: from `encode`.
      classes: additional dataclasses, identified by their names.
    Raises:
      ValueError: a class is unknown, or two classes have the same name.
      TypeError: the fields of a class have changed.
    """
    known = dict(_OURS)
    for each in classes:
        if known.setdefault(each.__name__, each) is not each:
            other = _full_name(known[each.__name__])
            raise ValueError(f"`classes` has {_full_name(each)}, and there is {other} of the same name: rename one.")
    return _decode(content, known)


def _decode(content: Any, known: Mapping[str, type]) -> Any:
    if not isinstance(content, Mapping):
        return content
    if "tuple" in content:
        return tuple(_decode(each, known) for each in content["tuple"])
    name = content["class"]
    if name not in known:
        raise ValueError(f"the saved model has a {name}, which is not an rnnjax class: pass classes=({name},).")
    fields = {field: _decode(each, known) for field, each in content["fields"].items()}
    try:
        return known[name](**fields)
    except TypeError as error:
        raise TypeError(f"the saved {name} has fields {', '.join(fields)}, which do not fit this version's.") from error
