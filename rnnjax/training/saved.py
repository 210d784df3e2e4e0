"""Saves a trained model in a self-describing folder, to load and run without the training code.

It holds the parameters, the architecture and the user's information, laid out as in `manifest.py`.
"""

import dataclasses
import os
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
from rnnjax.training.flat import CheckpointError, check_fit, flatten, unflatten
from rnnjax.training.rows import pad


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model with its parameters; call it.

    Attributes:
      model: the architecture: a cell, such as a `rnnjax.Readout`.
      params: its parameters.
      info: the information that was saved with it.
      input_size: D.
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
        """The outputs `[N, K]` at the last steps of N rows `[T_n, D]` of unequal length."""
        xs, lengths = pad(rows, dtype=jax.tree.leaves(self.params)[0].dtype)
        return np.asarray(pool_last(self(xs, lengths=lengths)[1], lengths=lengths))


def save_model(
    folder: str | os.PathLike[str],
    model: Any,
    params: PyTree,
    info: Mapping[str, Any] | None = None,
    *,
    input_size: int,
) -> Path:
    """Writes a model atomically, replacing an existing one. With several processes, process 0 writes it.

    Args:
      folder: created with its parents.
      model: a cell, such as a `rnnjax.Readout`, or a composite; cells of rnnjax or your own frozen dataclasses.
      params: its parameters, all of one dtype.
      info: any JSON value, such as the options of the run and the score.
      input_size: D, for which the parameters were drawn.
    Returns:
      The folder.
    Raises:
      CheckpointError: `params` do not fit the model (with the leaf and both shapes), or writing failed.
      TypeError: the architecture contains a value without a JSON form.
      ValueError: `input_size` is not a positive integer, or two parameters have the same name.

    Example: save, load and run a model.

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
    content = {
        "architecture": architecture.encode(model),
        "dtype": dtypes[0],
        "info": dict(info or {}),
        "input_size": input_size,
        "leaves": leaves,
        "stored_as": manifest.stored_as(arrays),
    }
    check_fit(leaves, flatten(_template(model, input_size, dtypes[0]))[1], "this set of parameters")
    if not processes.is_coordinator():
        return folder
    aside, old = (folder.parent / f".{folder.name}.{rest}" for rest in ("aside", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for rest in (aside, old):
            shutil.rmtree(rest, ignore_errors=True)
        aside.mkdir()
        with manifest.disk() as disk:
            disk.save(aside / "arrays", args=manifest.to_save(arrays))
        manifest.write(aside, content)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"the model could not be saved in {folder}: {error.strerror or error}.") from error
    return folder


def load_model(folder: str | os.PathLike[str], *, model: Any = None, classes: Iterable[type] = ()) -> SavedModel:
    """Loads a model, ready to run: `carry, outputs = load_model(folder)(xs)`.

    Args:
      folder: written by `save_model`.
      model: if given, the expected architecture.
      classes: your own dataclasses in the architecture, besides those of rnnjax.
    Returns:
      A `SavedModel`.
    Raises:
      CheckpointError: there is no model, it is corrupt, or its architecture is not `model` (with each leaf and both
        shapes).
      ValueError: the architecture has a class that is neither in rnnjax nor in `classes`.
    """
    folder = Path(folder).absolute()
    if not (folder / manifest.NAME).is_file():
        raise CheckpointError(f"there is no saved model in {folder}; `save_model` writes one.")
    content, problems = manifest.check(folder)
    if problems:
        raise CheckpointError(f"the model in {folder} is damaged: {', '.join(problems)}. Train it or copy it again.")
    if "architecture" not in content:
        raise CheckpointError(f"{folder} holds a step of training, not a model; `load_checkpoint` reads those.")
    dtype = content["dtype"]
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise CheckpointError(f"the model in {folder} is {dtype}; turn on `jax_enable_x64` to load it.")
    if "input_size" not in content:  # in rnnjax 0.1, it was a field of `Readout`
        was = content["architecture"]
        if was["class"] != "Readout":
            told = f"the model in {folder} was saved by an earlier rnnjax and has no input size, since it is not a "
            raise CheckpointError(f"{told}`Readout`: save it again with `save_model(..., input_size=D)`.")
        content["input_size"] = was["fields"].pop("input_size")
    saved, input_size = architecture.decode(content["architecture"], classes), content["input_size"]
    template = _template(saved if model is None else model, input_size, dtype)
    like, leaves = flatten(template)
    check_fit(content["leaves"], leaves, str(folder))
    if model is not None and model != saved:
        raise CheckpointError(f"the model in {folder} is {saved!r}, not {model!r}.")
    found = manifest.load(folder / "arrays", like, content.get("stored_as", {}))
    return SavedModel(saved, unflatten(template, found), content["info"], input_size)


def _template(model: Any, input_size: int, dtype: str) -> PyTree:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), input_size, dtype=dtype))
