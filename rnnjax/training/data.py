"""Batches: from rows of unequal length, by padding, like lengths, epochs and weights; and from any iterator or loader.

A generator, a PyTorch `DataLoader`, grain and tf.data are used by the iterator protocol alone. Something that can be
iterated again, such as a list or a `DataLoader`, starts its next epoch when one ends.
"""

import base64
import collections
import contextlib
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from rnnjax.cell import PyTree, check_size
from rnnjax.tasks import Batch
from rnnjax.training.checkpoints import flatten
from rnnjax.training.faults import DataError


def pad(rows: Sequence[Any], steps: int | None = None, dtype: DTypeLike = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Puts N rows `[T_n, ...]` of unequal length into `(xs [T, N, ...], lengths [N] int32)`, zeros after their ends.

    T is `steps`, or the longest row's; pass `dtype=np.int32` for tokens.

    Raises:
      ValueError: there are no rows; or a row is empty, longer than T, of another width, or has NaN or inf.

    Example:

      >>> xs, lengths = pad([[[1.0], [2.0]], [[3.0]]])
      >>> xs[:, :, 0].tolist(), lengths.tolist()
      ([[1.0, 3.0], [2.0, 0.0]], [2, 1])
    """
    arrays = [np.asarray(row, dtype) for row in rows]
    if not arrays:
        raise ValueError("`rows` is empty; pass at least one row.")
    lengths = np.array([len(row) for row in arrays], np.int32)
    xs = np.zeros((lengths.max() if steps is None else steps, len(arrays), *arrays[0].shape[1:]), dtype)
    for n, row in enumerate(arrays):
        if row.shape[1:] != xs.shape[2:] or not 0 < len(row) <= len(xs):
            told = (
                f"each is [1..{len(xs)}, {', '.join(map(str, xs.shape[2:]))}] here: leave out empty rows, cut long ones"
            )
            raise ValueError(f"row {n} is {list(row.shape)}; {told} or pass a larger `steps`.")
        if not np.isfinite(row).all():
            step = np.argwhere(~np.isfinite(row))[0][0]
            raise ValueError(f"row {n} has NaN or inf in step {step}: fill or remove it.")
        xs[: len(row), n] = row
    return xs, lengths


def labelled(xs: ArrayLike, lengths: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> Batch:
    """A batch of rows `[T, N, D]` with a class or a target each, scored at their last steps.

    Args:
      labels: `[N]` classes, or `[N, K]` targets.
      weights: of rows `[N]`, such as `class_weights(labels)[labels]`; or `[T, N]`, of all steps, which are then scored.
    """
    xs, labels, lengths = jnp.asarray(xs), jnp.asarray(labels), jnp.asarray(lengths)
    dtype = xs.dtype if jnp.issubdtype(xs.dtype, jnp.inexact) else jnp.result_type(float)  # tokens have float weights
    weights = jnp.asarray(1 if weights is None else weights, dtype)
    at = jnp.arange(xs.shape[0], dtype=lengths.dtype)[:, None]
    scored = at < lengths if weights.ndim == 2 else at == lengths - 1
    return Batch(xs, jnp.broadcast_to(labels, (xs.shape[0], *labels.shape)), jnp.where(scored, weights, 0), lengths)


def class_weights(labels: ArrayLike, classes: int | None = None) -> np.ndarray:
    """w_k = N / (K N_k), with which all classes weigh the same; 0 for a class without rows.

    Example:

      >>> class_weights([0, 0, 0, 1], 2)[1:].tolist()
      [2.0]
    """
    counts = np.bincount(np.asarray(labels), minlength=classes or 0)
    return (counts.sum() / (len(counts) * np.maximum(counts, 1)) * (counts > 0)).astype(np.float32)


def take(batch: Batch, rows: Any) -> Batch:
    """The rows with these indices, or of this slice."""
    return Batch(batch.xs[:, rows], batch.targets[:, rows], batch.weights[:, rows], batch.lengths[rows])


def epochs(whole: Batch, batch: int, seed: int = 0) -> Callable[[Array, ArrayLike], Batch]:
    """A data function for `fit` that draws `batch` rows without replacement, in a new order in every epoch.

    The last rows % batch of each order are left out. The orders depend on `seed`, not on the key of the run.

    Example:

      >>> data = epochs(labelled(*pad([[[float(i)]] for i in range(6)]), [0] * 6), batch=2)
      >>> sorted(float(x) for step in range(3) for x in data(None, step).xs[0, :, 0])
      [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    check_size("batch", batch)
    rows = whole.lengths.shape[0]
    if batch > rows:
        raise ValueError(f"batch is {batch}, but there are only {rows} rows; make the batch smaller.")

    def data(key: Any, step: ArrayLike) -> Batch:
        epoch, at = jnp.divmod(jnp.asarray(step, jnp.int32), rows // batch)
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), epoch), rows)
        return take(whole, jax.lax.dynamic_slice_in_dim(order, at * batch, batch))

    return data


class Buckets:
    """A loader of batches of rows of like lengths, without replacement, whose position is saved with checkpoints.

    Rows are sorted by length into groups; each batch has rows of one group and the length of its longest. So there are
    `shapes` programs: pass `FitOptions(shapes=...)` too. Each epoch leaves out other rows that do not fill a batch.

    Args:
      lengths, batch, shapes, seed: `[N]` of all rows; rows in a batch, the number of groups, the seed of the orders.
      make: `(indices [batch], T) -> batch`, such as a function that calls `pad([rows[i] for i in indices], T)`.

    Example:

      >>> data = Buckets([5, 1, 4, 2], 2, lambda indices, steps: (sorted(indices.tolist()), steps), shapes=2)
      >>> sorted([next(data), next(data)])
      [([0, 2], 5), ([1, 3], 2)]
    """

    def __init__(
        self, lengths: ArrayLike, batch: int, make: Callable[[np.ndarray, int], PyTree], shapes: int = 4, seed: int = 0
    ) -> None:
        self._lengths, self._batch, self._make, self._seed, self._at = np.asarray(lengths), batch, make, seed, 0
        self._groups = np.array_split(np.argsort(self._lengths, kind="stable"), shapes)
        self._epoch, self._order = -1, []
        if min(map(len, self._groups)) < batch:
            told = f"{len(self._lengths)} rows in {shapes} groups do not fill batches of {batch}"
            raise ValueError(f"{told}: use fewer or smaller.")

    def __iter__(self) -> "Buckets":
        return self

    def __next__(self) -> PyTree:
        epoch, at = divmod(self._at, sum(len(group) // self._batch for group in self._groups))
        if epoch != self._epoch:
            draw, batches = np.random.default_rng((self._seed, epoch)), []
            for group in self._groups:
                rows = draw.permutation(group)[: len(group) // self._batch * self._batch]
                batches += [(each, int(self._lengths[group].max())) for each in rows.reshape(-1, self._batch)]
            self._epoch, self._order = epoch, [batches[i] for i in draw.permutation(len(batches))]
        self._at += 1
        return self._make(*self._order[at])

    def get_state(self) -> dict[str, int]:
        return {"batch": self._at}

    def set_state(self, state: dict[str, int]) -> None:
        self._at = state["batch"]


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
        if position is not None and owner is not None:
            of, _, restore = owner
            restore(pickle.loads(base64.b64decode(position)))
            self._source = self._source if of is self._source else None  # else it applies to the next iterator
            self._drawn = batch
        while self._drawn < batch:
            self._next()
            self._drawn += 1

    def _next(self) -> PyTree:
        for _ in range(2):  # the rest of this epoch, or a new one
            self._source = iter(self._data) if self._source is None else self._source
            for batch in self._source:
                return batch
            if self._source is self._data:
                break
            self._source = None
        told = "pass what can be iterated again (a list, a DataLoader), repeat the iterator, or lower `steps`; then"
        raise DataError(f"the data ended before batch {self._drawn}, and every step needs one: {told}")

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
                f"batch {self._drawn}{name} is {has[name]}, but was {had[name]} before, and each shape compiles a "
                "program of its own: pad the batches, leave out a short last one (drop_last=True in PyTorch), or allow "
                f"more with FitOptions(shapes={self._shapes + 1}); then"
            )
        return batch

    def _owner(self) -> tuple[Any, Callable[[], Any], Callable[[Any], None]] | None:
        """What has a state, and how it is read and restored."""
        self._source = iter(self._data) if self._source is None else self._source
        for of in (self._source, self._data):
            for get, restore in (("get_state", "set_state"), ("state_dict", "load_state_dict")):  # grain's, PyTorch's
                if hasattr(of, get) and hasattr(of, restore):
                    return of, getattr(of, get), getattr(of, restore)
        return None

    def _state(self) -> str | None:
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
        "`data` gave two different batches for one key and step, but must be a pure function of them: it is traced "
        "once for all steps. Draw from `key`, or pass the iterator itself: fit(..., data=iterator)."
    )
