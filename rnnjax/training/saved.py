"""Saves a trained model in a self-describing folder (`manifest.py`), to load and run without the training code."""

import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnjax import processes
from rnnjax._unroll import unroll
from rnnjax.cell import PyTree, check_size, over_time
from rnnjax.pooling import pool_last
from rnnjax.training import architecture, manifest
from rnnjax.training.flat import CheckpointError, StrPath, check_fit, flatten, unflatten
from rnnjax.training.rows import pad


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model with its parameters; call it.

    Attributes:
      model, params: the architecture, such as a `rnnjax.Readout`, and its parameters.
      info, input_size: what was saved with it; D.
    """

    model: Any
    params: PyTree
    info: dict[str, Any]
    input_size: int

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
        return np.asarray(pool_last(self(xs, lengths=lengths)[1], lengths=lengths))


def save_model(
    folder: StrPath, model: Any, params: PyTree, info: Mapping[str, Any] | None = None, *, input_size: int
) -> Path:
    """Writes a model atomically, replacing an existing one. With several processes, process 0 writes it.

    Args:
      folder: created with its parents; also returned.
      model: a cell or a composite, of rnnjax or your own frozen dataclasses, with what goes before and after a network
        (`wrappers.Standardized`, `Embedding`, `Readout`).
      params: its parameters, all of one dtype.
      info: any JSON value, such as the options of the run and the score.
      input_size: D, for which the parameters were drawn.
    Raises:
      CheckpointError: `params` do not fit the model (with the leaf and both shapes), or writing failed.
      TypeError: the architecture contains a value without a JSON form.
      ValueError: `input_size` is not a positive integer, or two parameters have the same name.

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
    content = {"architecture": architecture.encode(model), "dtype": dtypes[0], "input_size": input_size}
    content |= {"info": dict(info or {}), "leaves": leaves}
    if not processes.is_coordinator():
        return folder
    aside, old = (folder.with_name(f".{folder.name}.{rest}") for rest in ("aside", "old"))
    checkpoint, _, disk = manifest.orbax()
    try:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        with disk:
            disk.save(aside / "arrays", args=checkpoint.args.StandardSave(manifest.stored(arrays)))
        manifest.write(aside, content)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the model could not be saved in {folder}: {error}.") from error
    return folder


def load_model(folder: StrPath, *, model: Any = None, classes: Iterable[type] = ()) -> SavedModel:
    """Loads a `SavedModel`, ready to run: `carry, outputs = load_model(folder)(xs)`.

    Args:
      folder: written by `save_model`.
      model: if given, the expected architecture.
      classes: your own dataclasses in the architecture, besides those of rnnjax.
    Raises:
      CheckpointError: there is no model, it is corrupt, or it is not `model` (with each leaf and both shapes).
      ValueError: a class is neither in rnnjax nor in `classes`, or has the name of another.
      TypeError: the fields of a class have changed.
    """
    folder = Path(folder).absolute()
    content, problems = manifest.check(folder)
    if problems and (folder / manifest.NAME).is_file():
        raise CheckpointError(f"the model in {folder} is damaged: {', '.join(problems)}. Train it or copy it again.")
    if "architecture" not in content:
        raise CheckpointError(f"there is no saved model in {folder}; `save_model` writes one.")
    dtype, input_size = content["dtype"], content["input_size"]
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise CheckpointError(f"the model in {folder} is {dtype}; turn on `jax_enable_x64` to load it.")
    saved = architecture.decode(content["architecture"], classes)
    shapes = _shapes(saved if model is None else model, input_size, dtype)
    like, leaves = flatten(shapes)
    check_fit(content["leaves"], leaves, f"{folder} has another architecture")
    if model is not None and model != saved:
        raise CheckpointError(f"the model in {folder} is {saved!r}, not {model!r}.")
    return SavedModel(saved, unflatten(shapes, manifest.load(folder, like)), content["info"], input_size)


def _shapes(model: Any, input_size: int, dtype: str) -> PyTree:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), input_size, dtype=dtype))
