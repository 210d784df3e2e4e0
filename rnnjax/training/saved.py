"""Saves a trained model in a self-describing folder (`checkpoints.py`), to load and run without the training code.

The architecture is saved as JSON of frozen dataclasses of hyperparameters, identified by class name:

    Elman(hidden_size=128, ...)  ⇄  {"class": "Elman", "hidden_size": 128, "activation": "tanh", ...}

Loading never imports code: a name refers to a class of rnnjax, or to one that the caller passes.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnjax import cells, compose, embedding, initializers, pooling, processes, readout, wrappers
from rnnjax._unroll import unroll
from rnnjax.cell import PyTree, check_size, over_time
from rnnjax.training import checkpoints
from rnnjax.training.checkpoints import StrPath, check_fit, flatten, unflatten
from rnnjax.training.data import pad
from rnnjax.training.faults import CheckpointError

_PARTS = (cells, compose, embedding, initializers, pooling, readout, wrappers)
_OURS = {k: v for part in _PARTS for k, v in vars(part).items() if isinstance(v, type) and dataclasses.is_dataclass(v)}


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model with its parameters; call it."""

    model: Any  # the architecture, such as a `rnnjax.Readout`
    params: PyTree
    info: dict[str, Any]  # what was saved with it
    input_size: int  # D

    @over_time
    def __call__(self, xs: Any, *, carry: PyTree | None = None, **time: Any) -> tuple[PyTree, Any]:
        """`rnnjax.unroll(model, params, xs, carry=carry, **time)`: `xs [T, *batch, D]` to `(carry, outputs)`."""
        return unroll(self.model, self.params, xs, carry=carry, **time)

    def predict(self, rows: Sequence[Any]) -> np.ndarray:
        """The outputs `[N, K]` at the last steps of N rows `[T_n, D]` of unequal length.

        Rows of integers stay integers if the model does not take floats, as with an `Embedding` of tokens.
        """
        xs, lengths = pad(rows, dtype=jax.tree.leaves(self.params)[0].dtype)
        if all([np.asarray(row).dtype.kind in "iu" for row in rows]):
            try:
                jax.eval_shape(lambda xs: self(xs), xs)
            except TypeError:
                xs, lengths = pad(rows, dtype=np.int32)
        return np.asarray(pooling.pool_last(self(xs, lengths=lengths)[1], lengths=lengths))


def save_model(
    folder: StrPath, model: Any, params: PyTree, info: Mapping[str, Any] | None = None, *, input_size: int
) -> Path:
    """Writes a model atomically, replacing an existing one. With several processes, process 0 writes it.

    Args:
      folder: created with its parents; also returned.
      model: a cell or a composite, of rnnjax or your own frozen dataclasses, with what goes before and after a network
        (`wrappers.Standardized`, `Embedding`, `Readout`).
      params, input_size: its parameters, all of one dtype, and D, for which they were drawn.
      info: any JSON value, such as the options of the run and the score.
    Raises:
      CheckpointError: `params` do not fit the model (with the leaf and both shapes), or writing failed.
      TypeError: the architecture contains a value without a JSON form.
      ValueError: `input_size` is not a positive integer, or two parameters or classes have the same name.

    Example:

      >>> import tempfile, jax.numpy as jnp, rnnjax
      >>> model = rnnjax.Readout(rnnjax.GRU(8), output_size=2)
      >>> params = model.init(jax.random.key(0), input_size=3)
      >>> folder = save_model(tempfile.mkdtemp() + "/model", model, params, {"task": "none"}, input_size=3)
      >>> carry, outputs = load_model(folder)(jnp.ones((5, 4, 3)))
      >>> outputs.shape, load_model(folder).model == model
      ((5, 4, 2), True)
    """
    check_size("input_size", input_size)
    folder = Path(folder).absolute()
    arrays, leaves = flatten(params)
    dtypes = sorted({array.dtype.name for array in arrays.values()})
    if len(dtypes) != 1:
        raise CheckpointError(f"the parameters are {', '.join(dtypes) or 'none'}; a saved model has one dtype.")
    check_fit(leaves, flatten(_shapes(model, input_size, dtypes[0]))[1], "`params` are of another architecture")
    content = {"architecture": encode(model), "dtype": dtypes[0], "input_size": input_size}
    content |= {"info": dict(info or {}), "leaves": leaves}
    if not processes.is_coordinator():
        return folder
    checkpoint, _, writer = checkpoints.orbax()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside, writer:
            new = Path(aside) / "new"
            writer.save(new / "arrays", args=checkpoint.args.StandardSave(checkpoints.stored(arrays)))
            checkpoints.seal(new, content)
            if folder.exists():
                folder.rename(Path(aside) / "old")
            new.rename(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the model could not be saved in {folder}: {error}.") from error
    return folder


def load_model(folder: StrPath, *, classes: Iterable[type] = ()) -> SavedModel:
    """Loads a `SavedModel`, ready to run: `carry, outputs = load_model(folder)(xs)`.

    Args:
      folder, classes: written by `save_model`; your own dataclasses in the architecture, besides those of rnnjax.
    Raises:
      CheckpointError: there is no model, it is corrupt, or its class now has other parameters.
      ValueError: a class is neither in rnnjax nor in `classes`, or has the name of another.
      TypeError: the fields of a class have changed.
    """
    folder = Path(folder).absolute()
    content, problems = checkpoints.check(folder)
    if problems and (folder / checkpoints.MANIFEST).is_file():
        raise CheckpointError(f"the model in {folder} is damaged: {', '.join(problems)}. Train it or copy it again.")
    if "architecture" not in content:
        raise CheckpointError(f"there is no saved model in {folder}; `save_model` writes one.")
    dtype, input_size = content["dtype"], content["input_size"]
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise CheckpointError(f"the model in {folder} is {dtype}; turn on `jax_enable_x64` to load it.")
    model = decode(content["architecture"], classes)
    shapes = _shapes(model, input_size, dtype)
    like, leaves = flatten(shapes)
    check_fit(content["leaves"], leaves, f"{folder} has another architecture")
    return SavedModel(model, unflatten(shapes, checkpoints.load(folder, like)), content["info"], input_size)


def _shapes(model: Any, input_size: int, dtype: str) -> PyTree:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), input_size, dtype=dtype))


def encode(value: Any, known: dict[str, type] | None = None) -> Any:
    """JSON of frozen dataclasses, numbers, strings, None and tuples; a TypeError for other values."""
    known, kind = dict(_OURS) if known is None else known, type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is tuple:
        return [encode(each, known) for each in value]
    if not dataclasses.is_dataclass(kind):
        raise TypeError(
            f"{value!r} cannot be saved; an architecture has frozen dataclasses, numbers, strings and tuples. (A "
            "`StepCell`, or an `Elman` with an activation of your own, holds functions: write a class with methods.)"
        )
    _add(kind, known)
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    return {"class": kind.__name__} | {name: encode(getattr(value, name), known) for name in fields}


def decode(content: Any, classes: Iterable[type] = ()) -> Any:
    """The architecture from its JSON, with `classes` besides those of rnnjax. Errors as in `load_model`."""
    known = dict(_OURS)
    for kind in classes:
        _add(kind, known)

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


def _add(kind: type, known: dict[str, type]) -> None:
    if (other := known.setdefault(kind.__name__, kind)) is not kind:
        raise ValueError(f"{kind} would be taken for {other}, since classes are saved by name: rename one of the two.")
