"""An architecture as JSON, and back: frozen dataclasses of hyperparameters by the name of their class.

    Elman(hidden_size=128, ...)  ⇄  {"class": "Elman", "fields": {"hidden_size": 128, "activation": "tanh", ...}}

No code is looked up by what a file says: a name stands for one of rnnjax's own cells and initializers, or for a class
that the reader passes.
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
    """The JSON of an architecture.

    Raises:
      TypeError: something in it is neither a frozen dataclass, a number, text, None nor a tuple of these; two classes
        have the same name, or one of your own has the name of one of rnnjax's.

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
                f"{value!r} is of {_full_name(type(value))}, and would be taken for a {_full_name(classes[name])} when "
                "it is loaded: give one of the two classes another name."
            )
        fields = {f.name: _encode(getattr(value, f.name), classes) for f in dataclasses.fields(value) if f.init}
        return {"class": name, "fields": fields}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [_encode(each, classes) for each in value]}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{value!r} is {type(value).__name__}, which a saved architecture cannot hold; it is made of frozen "
        "dataclasses, numbers, text and tuples. (A `StepCell`, or an `Elman` with an activation of your own, holds "
        "functions: write it as a dataclass with methods.)"
    )


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def decode(content: Any, classes: Iterable[type] = ()) -> Any:
    """The architecture again.

    Args:
      content: from `encode`.
      classes: dataclasses of your own, known by their name.
    Raises:
      ValueError: a class that is not known; two classes of the same name.
      TypeError: a class whose fields are others by now.
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
        raise ValueError(f"the saved model has a {name}, which is none of rnnjax's: pass classes=({name},).")
    fields = {field: _decode(each, known) for field, each in content["fields"].items()}
    try:
        return known[name](**fields)
    except TypeError as error:
        raise TypeError(f"the saved {name} has fields {', '.join(fields)}, which do not fit this version's.") from error
