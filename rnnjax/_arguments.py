"""The order of arguments of a function over time: `f(cell, params, xs, ..., *, carry=None)`.

One step takes `(cell, params, carry, x)`, as `jax.lax.scan` has it. Over time the carry is a keyword with a default, as
most calls start from the cell's initial carry.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def over_time(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a call in the former order, `f(cell, params, carry, xs, ...)`, raise a TypeError that names the new one.

    Args:
      function: takes `xs`, or what holds it, by position, and `carry` as a keyword.
    Returns:
      The same function, with its signature and docstring.
    Raises:
      TypeError: at a call: more positional arguments than the function has, or what is not `xs` in its place.

    Example:

      >>> @over_time
      ... def steps(cell, params, xs, *, carry=None):
      ...     return len(xs)
      >>> steps("cell", "params", [1.0, 2.0])
      2
      >>> steps("cell", "params", None, [1.0, 2.0])
      Traceback (most recent call last):
      TypeError: steps takes (cell, params, xs, *, carry=None, ...); the carry is a keyword now: \
steps(cell, params, xs, carry=carry)
    """
    parameters = inspect.signature(function).parameters
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    place = positional.index("xs") if "xs" in positional else len(positional)
    default = "" if parameters["carry"].default is inspect.Parameter.empty else "=None"
    order, name = ", ".join(name for name in positional if name != "self"), getattr(function, "__name__", "this")

    def former(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if len(args) > len(positional) or any(name in kwargs for name in positional[: len(args)]):
            return True
        if len(args) <= place:
            return False
        # a carry is None or a tree; where it is one array, `xs` stands in the place of a function such as `loss`
        found, *rest = args[place:]
        return found is None or isinstance(found, tuple | dict) or not all(map(callable, rest))

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if former(args, kwargs):
            raise TypeError(
                f"{name} takes ({order}, *, carry{default}, ...); the carry is a keyword now: "
                f"{name}({order}, carry=carry)"
            )
        return function(*args, **kwargs)

    return checked
