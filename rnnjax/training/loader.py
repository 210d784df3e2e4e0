"""Batches from an iterator or a loader, one drawn ahead; its position; and errors that lose nothing.

A generator, a PyTorch `DataLoader`, grain and tf.data are used by the iterator protocol alone. Something that can be
iterated again, such as a list or a `DataLoader`, starts its next epoch when one ends.
"""

import base64
import collections
import json
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cell import PyTree

_METHODS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))  # grain's, PyTorch's
_AHEAD = 3  # batches that may have been drawn when a fault is noticed


class DataError(RuntimeError):
    """The data ended, raised, or gave a batch of another shape. Training stopped before that batch.

    Attributes:
      state: the `TrainState` before the batch, from which training can continue. It is also in the checkpoint.
      history: the metrics so far.
    """

    state: Any = None
    history: Any = ()


class Loader:
    """Draws batches, numbered from `first`.

    Args:
      data: an iterator, or something that can be iterated again.
      shapes: how many different shapes its batches may have.
      first: the number of the first batch.
      keeps: whether `position` is used; the loader is asked for its state before every batch.
    """

    def __init__(self, data: Iterable[PyTree], shapes: int, first: int, keeps: bool) -> None:
        self._data, self._shapes, self._keeps = data, shapes, keeps
        self._source: Any = None
        self._known: list[Any] = []
        self._drawn = first
        self._ahead: PyTree | DataError | None = None
        self._positions: collections.deque[tuple[int, str | None]] = collections.deque(maxlen=_AHEAD + 1)

    def take(self) -> PyTree:
        """The next batch, on the device.

        Raises:
          DataError: there is none, or it has another shape.
        """
        self.draw_ahead()
        batch, self._ahead = self._ahead, None
        if isinstance(batch, DataError):
            raise batch
        return batch

    def draw_ahead(self) -> None:
        """Draws the next batch and starts its transfer, while the device computes."""
        if self._ahead is None:
            if self._keeps:
                self._positions.append((self._drawn, self._state()))
            try:
                self._ahead = jax.device_put(self._checked(self._next()))
                self._drawn += 1
            except DataError as error:
                self._ahead = error
            except Exception as error:
                self._ahead = DataError(f"the data raised {error!r} instead of batch {self._drawn}: repair it, and")
                self._ahead.__cause__ = error

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
            self._source = None if of is self._data and self._data is not self._source else self._source
        self._drawn, self._ahead = batch, None
        self._positions.clear()

    def _next(self) -> PyTree:
        for _ in range(2):  # the rest of this epoch, or a new one
            if self._source is None:
                self._source = iter(self._data)
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
        wrong = [name for name, (_, dtype) in shape.items() if dtype.hasobject]
        if wrong:
            raise DataError(
                f"batch {self._drawn}{wrong[0]} is no array of numbers; pad rows of unequal length with "
                "`rnnjax.training.pad`, and"
            )
        if shape not in self._known:
            if len(self._known) == self._shapes:
                pairs = {**self._known[0], **shape}
                name = next(name for name in pairs if self._known[0].get(name) != shape.get(name))
                had, has = (_told(each.get(name)) for each in (self._known[0], shape))
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
        if self._source is None:
            self._source = iter(self._data)
        owner = self._owner()
        return None if owner is None else _encoded(owner[1]())


def _encoded(state: Any) -> str:
    """Text, as JSON if that is exact. Other states are pickled: resume only from folders that you wrote."""
    try:
        text = json.dumps(state)
        if json.loads(text) == state:
            return text
    except (TypeError, ValueError):
        pass
    return "pickle:" + base64.b64encode(pickle.dumps(state)).decode()


def _decoded(text: str) -> Any:
    return pickle.loads(base64.b64decode(text[7:])) if text.startswith("pickle:") else json.loads(text)


def _told(entry: Any) -> str:
    return "absent" if entry is None else f"{list(entry[0])} {entry[1]}"


def check_pure(data: Callable[..., PyTree], *args: Any, **named: Any) -> None:
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
    try:
        one, other = [jax.tree.map(_bits, data(*args, **named)) for _ in range(2)]
        same = jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.leaves(one) == jax.tree.leaves(other)
    except StopIteration:
        same = False
    if not same:
        raise ValueError(
            "`data` gave two different batches for one key and step, but it must be a pure function of them: it is "
            "traced once, so every step would get the same batch. Draw from `key`, or, if it reads from an iterator, "
            "pass the iterator itself: fit(..., data=iterator)."
        )


def _bits(leaf: Any) -> tuple[Any, ...]:
    key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if key else leaf)
    return array.shape, array.dtype.name, array.tobytes()
