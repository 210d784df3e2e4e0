"""Batches from an iterator or a loader, its position, and errors that lose nothing.

A generator, a PyTorch `DataLoader`, grain and tf.data are used by the iterator protocol alone. Something that can be
iterated again, such as a list or a `DataLoader`, starts its next epoch when one ends.
"""

import base64
import collections
import contextlib
import json
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import PyTree

_METHODS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))  # grain's, PyTorch's


class DataError(RuntimeError):
    """The data ended, raised, or gave a batch of another shape. Training stopped before that batch.

    Attributes:
      state: the `TrainState` before the batch, from which training can continue. It is also in the checkpoint.
      history: the metrics so far.
    """

    state: Any = None
    history: Any = ()


class Loader:
    """Draws batches of at most `shapes` shapes, numbered from `first`, and notes its position before each if `keeps`.

    `data` is an iterator, or something that can be iterated again.
    """

    def __init__(self, data: Iterable[PyTree], shapes: int, first: int, keeps: bool) -> None:
        self._data, self._shapes, self._drawn, self._keeps = data, shapes, first, keeps
        self._source: Any = None
        self._known: list[dict[str, Any]] = []
        # up to three batches may have been drawn when a fault is noticed
        self._positions: collections.deque[tuple[int, str | None]] = collections.deque(maxlen=4)

    def take(self) -> PyTree:
        """The next batch, on its way to the device; `fit` calls this while the device computes.

        Raises:
          DataError: there is none, or it has another shape.
        """
        if self._keeps:
            self._positions.append((self._drawn, self._state()))
        try:
            batch = self._checked(self._next())
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"the data raised {error!r} instead of batch {self._drawn}: repair it, and") from error
        self._drawn += 1
        return batch if jax.default_backend() == "cpu" else jax.device_put(batch)

    def position(self, batch: int) -> str | None:
        """The position before a batch, as text; None if the loader has no state."""
        known = dict(self._positions)
        return known[batch] if batch in known or self._drawn != batch else self._state()

    def go_to(self, position: str | None, batch: int) -> None:
        """Continues with this batch: at the loader's own position if there is one, or after drawing those before it."""
        owner = self._owner()
        if position is None or owner is None:
            while self._drawn < batch:
                self._next()
                self._drawn += 1
        else:
            of, _, restore = owner
            restore(_decoded(position))
            if of is self._data and self._data is not self._source:
                self._source = None  # the restored state applies to the next iterator
        self._drawn = batch

    def _next(self) -> PyTree:
        for _ in range(2):  # the rest of this epoch, or a new one
            self._source = iter(self._data) if self._source is None else self._source
            for batch in self._source:
                return batch
            if self._source is self._data:
                break
            self._source = None
        raise DataError(
            f"the data ended before batch {self._drawn}, and every step needs one: pass something that can be "
            "iterated again (a list, a DataLoader), repeat the iterator, or lower `steps`; then"
        )

    def _checked(self, batch: PyTree) -> PyTree:
        batch = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), batch)
        shape = {jax.tree_util.keystr(path): (a.shape, a.dtype) for path, a in jax.tree.leaves_with_path(batch)}
        if wrong := [name for name, (_, dtype) in shape.items() if dtype.hasobject]:
            told = "is no array of numbers; pad rows of unequal length with `rnnjax.training.pad`, and"
            raise DataError(f"batch {self._drawn}{wrong[0]} {told}")
        if shape not in self._known:
            if len(self._known) == self._shapes:
                before = self._known[0]
                name = next(name for name in before | shape if before.get(name) != shape.get(name))
                had, has = (f"{list(at[name][0])} {at[name][1]}" if name in at else "absent" for at in (before, shape))
                raise DataError(
                    f"batch {self._drawn}{name} is {has}, but was {had} before, and each shape compiles a program of "
                    "its own: pad the batches, leave out a short last one (drop_last=True in PyTorch), or allow more "
                    f"with FitOptions(shapes={self._shapes + 1}); then"
                )
            self._known.append(shape)
        return batch

    def _owner(self) -> tuple[Any, Callable[[], Any], Callable[[Any], None]] | None:
        """What has a state, and how it is read and restored."""
        for of in (self._source, self._data):
            for get, restore in _METHODS:
                if hasattr(of, get) and hasattr(of, restore):
                    return of, getattr(of, get), getattr(of, restore)
        return None

    def _state(self) -> str | None:
        """The position as text: JSON if that is exact, or else pickled (resume only from folders that you wrote)."""
        self._source = iter(self._data) if self._source is None else self._source
        owner = self._owner()
        if owner is None:
            return None
        state = owner[1]()
        with contextlib.suppress(TypeError, ValueError):
            text = json.dumps(state)
            if json.loads(text) == state:
                return text
        return "pickle:" + base64.b64encode(pickle.dumps(state)).decode()


def _decoded(text: str) -> Any:
    return pickle.loads(base64.b64decode(text[7:])) if text.startswith("pickle:") else json.loads(text)


def check_pure(data: Callable[..., PyTree], *args: Any) -> None:
    """Calls a data function twice with equal arguments, and raises if the two batches differ.

    In the compiled loop an impure function would be called only once, and every step would get that one batch.

    Raises:
      ValueError: the batches differ, or the second call finds the data exhausted.

    Example:

      >>> batches = iter(range(10))
      >>> check_pure(lambda key, step: next(batches), None, 0)
      Traceback (most recent call last):
      ValueError: `data` gave two different batches for one key and step...
    """

    def bits(leaf: Any) -> tuple[Any, ...]:
        key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        return array.shape, array.dtype.name, array.tobytes()

    with contextlib.suppress(StopIteration):
        (one, of_one), (other, of_other) = [jax.tree.flatten(jax.tree.map(bits, data(*args))) for _ in range(2)]
        if one == other and of_one == of_other:
            return
    raise ValueError(
        "`data` gave two different batches for one key and step, but it must be a pure function of them: it is "
        "traced once, so every step would get the same batch. Draw from `key`, or, if it reads from an iterator, "
        "pass the iterator itself: fit(..., data=iterator)."
    )
