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
      TypeError: something in it is neither a frozen dataclass, a number, text, None nor a tuple of these.

    Example:

      >>> encode(initializers.Orthogonal(0.9))
      {'class': 'Orthogonal', 'fields': {'scale': 0.9}}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [encode(each) for each in value]}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{value!r} is {type(value).__name__}, which a saved architecture cannot hold; it is made of frozen "
        "dataclasses, numbers, text and tuples. (A `StepCell`, or an `Elman` with an activation of your own, holds "
        "functions: write it as a dataclass with methods.)"
    )


def decode(content: Any, classes: Iterable[type] = ()) -> Any:
    """The architecture again.

    Args:
      content: from `encode`.
      classes: dataclasses of your own, known by their name.
    Raises:
      ValueError: a class that is not known.
      TypeError: a class whose fields are others by now.
    """
    known = _OURS | {each.__name__: each for each in classes}
    if not isinstance(content, Mapping):
        return content
    if "tuple" in content:
        return tuple(decode(each, classes) for each in content["tuple"])
    name = content["class"]
    if name not in known:
        raise ValueError(f"the saved model has a {name}, which is none of rnnjax's: pass classes=({name},).")
    fields = {field: decode(each, classes) for field, each in content["fields"].items()}
    try:
        return known[name](**fields)
    except TypeError as error:
        raise TypeError(f"the saved {name} has fields {', '.join(fields)}, which do not fit this version's.") from error
