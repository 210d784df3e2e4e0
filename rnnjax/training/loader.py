"""Batches from an iterator or a loader, its position, and errors that lose nothing.

A generator, a PyTorch `DataLoader`, grain and tf.data are used by the iterator protocol alone. Something that can be
iterated again, such as a list or a `DataLoader`, starts its next epoch when one ends.
"""

import base64
import collections
import contextlib
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from rnnjax.cell import PyTree
from rnnjax.training.disk import flatten
from rnnjax.training.faults import DataError

_METHODS = (("get_state", "set_state"), ("state_dict", "load_state_dict"))  # grain's, PyTorch's


class Loader:
    """Draws batches of at most `shapes` shapes, numbered from `first`, and notes the position before each if asked."""

    def __init__(self, data: Iterable[PyTree], shapes: int, first: int, keeps: bool) -> None:
        self._data, self._shapes, self._drawn, self._keeps = data, shapes, first, keeps
        self._source: Any = None
        self._known: list[dict[str, str]] = []
        # up to three batches may have been drawn when a fault is noticed
        self._positions: collections.deque[tuple[int, str | None]] = collections.deque(maxlen=4)

    def take(self) -> PyTree:
        """The next batch, on its way to the device; `fit` calls this while the device computes."""
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
        """The position before a batch, as text (so resume only from folders that you wrote); None without a state."""
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
            restore(pickle.loads(base64.b64decode(position)))
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
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(batch)}
        if wrong := [name for name, leaf in leaves.items() if leaf.dtype == object]:
            told = "is no array of numbers; pad rows of unequal length with `rnnjax.training.pad`, and"
            raise DataError(f"batch {self._drawn}{wrong[0]} {told}")
        kinds = {name: f"{list(leaf.shape)} {leaf.dtype}" for name, leaf in leaves.items()}
        if kinds in self._known:
            return batch
        self._known.append(kinds)
        if len(self._known) > self._shapes:
            had, has = (collections.defaultdict(lambda: "absent", each) for each in (self._known[0], kinds))
            name = next(name for name in had | has if had[name] != has[name])
            raise DataError(
                f"batch {self._drawn}{name} is {has[name]}, but was {had[name]} before, and each shape compiles a program "
                "of its own: pad the batches, leave out a short last one (drop_last=True in PyTorch), or allow more with "
                f"FitOptions(shapes={self._shapes + 1}); then"
            )
        return batch

    def _owner(self) -> tuple[Any, Callable[[], Any], Callable[[Any], None]] | None:
        """What has a state, and how it is read and restored."""
        for of in (self._source, self._data):
            for get, restore in _METHODS:
                if hasattr(of, get) and hasattr(of, restore):
                    return of, getattr(of, get), getattr(of, restore)
        return None

    def _state(self) -> str | None:
        self._source = iter(self._data) if self._source is None else self._source
        owner = self._owner()
        return base64.b64encode(pickle.dumps(owner[1]())).decode() if owner else None


def check_pure(data: Callable[..., PyTree], *args: Any) -> None:
    """Calls a data function twice, and raises if the batches differ, or the second call finds the data exhausted."""

    def bits() -> Any:
        arrays, kinds = flatten(data(*args))
        return kinds, [array.tobytes() for array in arrays.values()]

    with contextlib.suppress(StopIteration):
        if bits() == bits():
            return
    raise ValueError(
        "`data` gave two different batches for one key and step, but it must be a pure function of them: it is "
        "traced once, so every step would get the same batch. Draw from `key`, or, if it reads from an iterator, "
        "pass the iterator itself: fit(..., data=iterator)."
    )
