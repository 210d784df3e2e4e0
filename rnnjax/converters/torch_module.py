"""Reads the hyperparameters of a PyTorch module from its attributes, without importing PyTorch."""

from typing import Any, NamedTuple

from rnnjax._names import nearest
from rnnjax.converters.state_dict import Kind, Recurrent

_MODES: dict[str, tuple[Kind, str | None]] = {
    "LSTM": ("LSTM", None),
    "GRU": ("GRU", None),
    "RNN_TANH": ("RNN", "tanh"),
    "RNN_RELU": ("RNN", "relu"),
}
_CELLS: dict[str, Kind] = {"LSTMCell": "LSTM", "GRUCell": "GRU", "RNNCell": "RNN"}


class ModuleConfig(NamedTuple):
    """Hyperparameters of a module.

    Attributes:
      activation: the `nonlinearity` of an RNN; `None` for an LSTM or a GRU.
      batch_first, dropout: settings that are not visible in the weights; rnnjax has no `batch_first`.
    """

    kind: Kind
    hidden_size: int
    projection: int | None
    bias: bool
    layers: int
    ways: int
    activation: str | None
    batch_first: bool
    dropout: float


def is_module(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None))


def config_of(module: Any, prefix: str) -> ModuleConfig:
    """The hyperparameters of the recurrent module at `prefix` of `module`.

    Raises:
      ValueError: there is no module of this name.
      TypeError: the module is not recurrent.
    """
    found: Any = module
    for name in prefix.rstrip(".").split(".") if prefix else ():
        found = getattr(found, name, None)
    kind, activation = _kind_of(found)
    if kind is None:
        names = [f"{name}." if name else "" for name, each in _parts(module) if _kind_of(each)[0] is not None]
        held = f"it holds recurrent ones at {', '.join(map(repr, names))}" if names else "it holds no recurrent one"
        fix = (
            f"prefix={prefix!r} of {type(module).__name__}" if prefix else f"`state_dict` is a {type(module).__name__}"
        )
        error = TypeError if found is not None else ValueError
        raise error(
            f"{fix}, which is no LSTM, GRU or RNN of PyTorch{nearest(prefix, names)}; {held}: pass its `prefix`."
        )
    return ModuleConfig(
        kind=kind,
        hidden_size=found.hidden_size,
        projection=getattr(found, "proj_size", 0) or None,
        bias=bool(found.bias),
        layers=getattr(found, "num_layers", 1),
        ways=2 if getattr(found, "bidirectional", False) else 1,
        activation=activation,
        batch_first=bool(getattr(found, "batch_first", False)),
        dropout=float(getattr(found, "dropout", 0.0)),
    )


def check_config(config: ModuleConfig, read: Recurrent) -> None:
    """Raises ValueError unless the weights match the module's hyperparameters."""
    seen = {
        "kind": read.kind,
        "hidden_size": read.hidden_size,
        "projection": read.projection,
        "bias": read.bias,
        "layers": len(read.layers),
        "ways": len(read.layers[0]),
    }
    for what, value in seen.items():
        if getattr(config, what) != value:
            names = {"layers": "num_layers", "ways": "number of directions", "projection": "proj_size"}
            raise ValueError(
                f"the module's {names.get(what, what)} is {getattr(config, what)!r}, but its state dict is that of "
                f"{value!r}: weights were added, removed or exchanged; pass the state dict to use only the weights."
            )


def _kind_of(module: Any) -> tuple[Kind | None, str | None]:
    mode = getattr(module, "mode", None)
    if isinstance(mode, str) and mode in _MODES:
        return _MODES[mode]
    for name in [owner.__name__ for owner in type(module).__mro__]:
        if name in _CELLS and hasattr(module, "hidden_size"):
            kind = _CELLS[name]
            return kind, module.nonlinearity if kind == "RNN" else None
    return None, None


def _parts(module: Any) -> list[tuple[str, Any]]:
    named: Any = getattr(module, "named_modules", None)
    return [] if named is None else list(named())
