"""A trained model as a folder that says what it is: load it and run it, without the code that trained it.

folder/arrays/            the parameters, by Orbax
folder/manifest.json      the architecture, what was said of the model, and the SHA-256 of every file
"""

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnjax._unroll import unroll
from rnnjax.cell import PyTree, check_size, over_time
from rnnjax.training import architecture, manifest
from rnnjax.training.arrays import load_arrays, save_arrays, stored_as
from rnnjax.training.faults import leaf_names
from rnnjax.training.flat import CheckpointError, check_fit, describe, flatten, unflatten

_ARRAYS, _ASIDE, _OLD = "arrays", ".{}.aside", ".{}.old"


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model with its parameters; call it.

    Attributes:
      model: the architecture: a cell, such as a `rnnjax.Readout`.
      params: its parameters.
      info: what was said of it when it was saved.
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


def save_model(
    folder: str | os.PathLike[str],
    model: Any,
    params: PyTree,
    info: Mapping[str, Any] | None = None,
    *,
    input_size: int,
) -> Path:
    """Writes a model, whole or not at all; one that is there is replaced.

    Args:
      folder: made with its parents.
      model: a cell, such as a `rnnjax.Readout`, or cells put together; of rnnjax, or frozen dataclasses of your own.
      params: its parameters, of one dtype.
      info: anything JSON can hold: the options of the run, the score.
      input_size: D, which the parameters were drawn for.
    Returns:
      The folder.
    Raises:
      CheckpointError: `params` are not this model's (names the leaf and both shapes), or nothing can be written.
      TypeError: the architecture holds what has no JSON form.
      ValueError: `input_size` is not a positive integer; two parameters have the same name.

    Example: saved, loaded and run.

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
    arrays, keys = flatten(params)
    dtypes = sorted({array.dtype.name for array in arrays.values()})
    if len(dtypes) != 1:
        raise CheckpointError(f"the parameters are {', '.join(dtypes) or 'none'}; a saved model has one dtype.")
    content = {
        "architecture": architecture.encode(model),
        "dtype": dtypes[0],
        "info": dict(info or {}),
        "input_size": input_size,
        "leaves": describe(arrays, keys),
        "stored_as": stored_as(arrays),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
    }
    check_fit(content["leaves"], _leaves(_template(model, input_size, dtypes[0])), "this set of parameters")
    aside, old = (folder.parent / name.format(folder.name) for name in (_ASIDE, _OLD))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for rest in (aside, old):
            shutil.rmtree(rest, ignore_errors=True)
        aside.mkdir()
        save_arrays(aside / _ARRAYS, arrays)
        manifest.write(aside, content)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"the model could not be saved in {folder}: {error.strerror or error}.") from error
    return folder


def load_model(folder: str | os.PathLike[str], *, model: Any = None, classes: Iterable[type] = ()) -> SavedModel:
    """The model that a folder holds, ready to run: `carry, outputs = load_model(folder)(xs)`.

    Args:
      folder: as `save_model` wrote it.
      model: where given, the architecture that it must be.
      classes: dataclasses of your own that the architecture is made of, beside rnnjax's.
    Returns:
      A `SavedModel`.
    Raises:
      CheckpointError: there is no model, a byte of it has changed, or it is of another architecture than `model`
        (names each leaf and both shapes).
      ValueError: the architecture has a class that is neither rnnjax's nor in `classes`.
    """
    folder = Path(folder).absolute()
    if not (folder / manifest.NAME).is_file():
        raise CheckpointError(f"there is no saved model in {folder}; `save_model` writes one.")
    content, problems = manifest.check(folder)
    if problems:
        raise CheckpointError(f"the model in {folder} is damaged: {', '.join(problems)}. Train or copy it anew.")
    if "architecture" not in content:
        raise CheckpointError(f"{folder} holds a step of training, not a model; `load_checkpoint` reads those.")
    dtype = content["dtype"]
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise CheckpointError(f"the model in {folder} is {dtype}; turn on `jax_enable_x64` to load it.")
    content = _with_input_size(content, folder)
    saved, input_size = architecture.decode(content["architecture"], classes), content["input_size"]
    template = _template(saved if model is None else model, input_size, dtype)
    check_fit(content["leaves"], _leaves(template), str(folder))
    if model is not None and model != saved:
        raise CheckpointError(f"the model in {folder} is {saved!r}, not {model!r}.")
    like = {name: np.empty(*entry) for name, entry in _shapes(template).items()}
    found = load_arrays(folder / _ARRAYS, like, content.get("stored_as", {}))
    return SavedModel(saved, unflatten(template, found), content["info"], input_size)


def _with_input_size(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content as it is written now; rnnjax 0.1 had the input size among the fields of `Readout`."""
    if "input_size" in content:
        return content
    saved = content["architecture"]
    fields = dict(saved.get("fields", {}))
    if saved.get("class") != "Readout" or "input_size" not in fields:
        raise CheckpointError(
            f"the model in {folder} was saved by an earlier rnnjax that kept no input size, and it is no `Readout`: "
            "save it anew with `save_model(..., input_size=D)`."
        )
    input_size = fields.pop("input_size")
    return {**content, "architecture": {**saved, "fields": fields}, "input_size": input_size}


def _template(model: Any, input_size: int, dtype: str) -> PyTree:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), input_size, dtype=dtype))


def _shapes(template: PyTree) -> dict[str, tuple[tuple[int, ...], Any]]:
    both = zip(leaf_names(template), jax.tree.leaves(template), strict=True)
    return {name: (leaf.shape, leaf.dtype) for name, leaf in both}


def _leaves(template: PyTree) -> dict[str, list[Any]]:
    return {name: [list(shape), dtype.name, ""] for name, (shape, dtype) in _shapes(template).items()}
