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

from rnnjax._arguments import over_time
from rnnjax.cell import PyTree
from rnnjax.training import architecture, manifest
from rnnjax.training.arrays import load_arrays, save_arrays
from rnnjax.training.faults import path_name
from rnnjax.training.flat import CheckpointError, check_fit, describe, flatten, unflatten

_ARRAYS, _ASIDE, _OLD = "arrays", ".{}.aside", ".{}.old"


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model with its parameters; call it.

    Attributes:
      model: the architecture, such as a `rnnjax.Readout`.
      params: its parameters.
      info: what was said of it when it was saved.
    """

    model: Any
    params: PyTree
    info: dict[str, Any]

    @over_time
    def __call__(self, xs: Any, *, carry: PyTree | None = None, **time: Any) -> tuple[PyTree, Any]:
        """`model.apply(params, xs, carry=carry, **time)`: `xs [T, *batch, D]` to `(carry, outputs)`."""
        return self.model.apply(self.params, xs, carry=carry, **time)


def save_model(
    folder: str | os.PathLike[str], model: Any, params: PyTree, info: Mapping[str, Any] | None = None
) -> Path:
    """Writes a model, whole or not at all; one that is there is replaced.

    Args:
      folder: made with its parents.
      model: `rnnjax.Readout`, or a frozen dataclass of your own with `init(key, dtype=None)` and
        `apply(params, xs, *, carry=None)`.
      params: its parameters, of one dtype.
      info: anything JSON can hold: the options of the run, the score.
    Returns:
      The folder.
    Raises:
      CheckpointError: `params` are not this model's (names the leaf and both shapes), or nothing can be written.
      TypeError: the architecture holds what has no JSON form.

    Example: saved, loaded and run.

      >>> import tempfile, jax.numpy as jnp, rnnjax
      >>> model = rnnjax.Readout(rnnjax.GRU(8), input_size=3, output_size=2)
      >>> folder = save_model(tempfile.mkdtemp() + "/model", model, model.init(jax.random.key(0)), {"task": "none"})
      >>> carry, outputs = load_model(folder)(jnp.ones((5, 4, 3)))
      >>> outputs.shape, load_model(folder).model == model
      ((5, 4, 2), True)
    """
    folder = Path(folder).absolute()
    arrays, keys = flatten(params)
    dtypes = sorted({array.dtype.name for array in arrays.values()})
    if len(dtypes) != 1:
        raise CheckpointError(f"the parameters are {', '.join(dtypes) or 'none'}; a saved model has one dtype.")
    content = {
        "architecture": architecture.encode(model),
        "dtype": dtypes[0],
        "info": dict(info or {}),
        "leaves": describe(arrays, keys),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
    }
    check_fit(content["leaves"], _leaves(_template(model, dtypes[0])), "this set of parameters")
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
    saved = architecture.decode(content["architecture"], classes)
    template = _template(saved if model is None else model, dtype)
    check_fit(content["leaves"], _leaves(template), str(folder))
    if model is not None and model != saved:
        raise CheckpointError(f"the model in {folder} is {saved!r}, not {model!r}.")
    found = load_arrays(folder / _ARRAYS, {name: np.empty(*entry) for name, entry in _shapes(template).items()})
    return SavedModel(saved, unflatten(template, found), content["info"])


def _template(model: Any, dtype: str) -> PyTree:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), dtype=dtype))


def _shapes(template: PyTree) -> dict[str, tuple[tuple[int, ...], Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(template)
    return {path_name(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}


def _leaves(template: PyTree) -> dict[str, list[Any]]:
    return {name: [list(shape), dtype.name, ""] for name, (shape, dtype) in _shapes(template).items()}
