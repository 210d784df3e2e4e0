"""Several cores or accelerators: the rows of a batch are independent, so each device runs its own rows.

    mesh = make_mesh()                                   one axis, "batch", over all devices
    carry, ys = unroll(cell, params, xs, mesh=mesh)      like `rnnjax.unroll`, without communication
    step = value_and_grad(loss, mesh)                    one all-reduce of loss and gradient
    results = spread(run, mesh)(settings)                a sharded vmap: a sweep of whole runs, some on each device
    state = fully_sharded(state, mesh)                   a network that is too wide for one device

On a CPU, a time loop uses one core because its matmuls are too small to split. Two JAX devices on two cores need no
synchronisation within a step, which is faster than threads that synchronise at every step. The same code runs on GPU
and TPU meshes.

JAX treats a CPU as one device unless it is configured before its first use, so call this once at the top of a script:

    rnnjax.sharding.setup_process(device_count=2)

Importing rnnjax never does this, and has no other effect on the process.

Wait for a call with an all-reduce (`jax.block_until_ready`) before you start another that does not depend on it. On a
CPU with jaxlib 0.10.2, two such programs can each hold a thread and wait for the other's, and the process deadlocks.
With two devices on two threads, 160 calls in flight never returned, with `jax_cpu_enable_async_dispatch` on or off.
Waiting after every fourth call prevented it, as did four threads or jaxlib 0.12. `rnnjax.training` waits after every
dispatch.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import ctypes
import functools
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from rnnjax._unroll import unroll as _unroll
from rnnjax._unroll.arguments import as_array
from rnnjax.cell import PyTree, over_time

AXIS = "batch"
"""The name of the mesh's one axis."""


class ProcessSetup(NamedTuple):
    """The settings that `setup_process` applied."""

    device_count: int | None  # requested CPU devices; None: unchanged
    allocator: bool  # whether the allocator was configured to keep freed memory


def setup_process(device_count: int | None = None, allocator: bool = True) -> ProcessSetup:
    """Configures this process for speed on a CPU; call it before anything else uses JAX.

    Args:
      device_count: the number of JAX devices on the CPU; its number of cores is a good choice. None: unchanged.
      allocator: keep freed memory instead of returning it to the kernel. glibc returns every large buffer at the end of
        a call and page-faults it in again at the next; a training step of large layers can spend half its time on this.
        The setting applies to the whole process, costs the memory that is kept, and works only with glibc.
    Returns:
      The settings that were applied.
    Raises:
      ValueError: `device_count` is not positive.
      RuntimeError: JAX is already in use, so its number of devices is fixed.
    """
    if device_count is not None:
        if device_count < 1:
            raise ValueError(f"device_count is {device_count}; it must be positive, such as {os.cpu_count()}.")
        jax.config.update("jax_num_cpu_devices", device_count)
    return ProcessSetup(device_count, allocator and _keep_memory())


def _keep_memory() -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    # From glibc's malloc.h. A single arena, because worker threads' own arenas cannot hold large buffers.
    m_trim_threshold, m_top_pad, m_mmap_threshold, m_arena_max = -1, -2, -3, -8
    largest = 2**31 - 1
    settings = ((m_arena_max, 1), (m_mmap_threshold, largest), (m_trim_threshold, largest), (m_top_pad, 2**28))
    libc = ctypes.CDLL(None)
    accepted = [libc.mallopt(option, value) == 1 for option, value in settings]
    return all(accepted)


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, "batch", over the given devices, or all devices."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def place(tree: PyTree, mesh: Mesh, batch_axis: int | None = None) -> PyTree:
    """Puts arrays on the mesh: sharded along `batch_axis`, or replicated if None (parameters).

    Data on the wrong device is moved at every call, so place what is used often once.
    """
    where = NamedSharding(mesh, _cut(batch_axis))

    def put(leaf: Any) -> Array:  # in a jitted function `jax.device_put` does nothing
        return (lax.with_sharding_constraint if isinstance(leaf, Tracer) else jax.device_put)(leaf, where)

    return jax.tree.map(put, tree)


def fully_sharded(tree: PyTree, mesh: Mesh) -> PyTree:
    """Cuts every array over the mesh, so that each of n devices holds 1 / n of a wide network and its optimizer.

    An array is cut along its largest axis that n divides. PRNG keys, arrays of fewer than 1024 entries and those that
    cannot be cut are replicated. Train such a state with `training.data_parallel(loss, mesh, sharded=True)`.

    Example: `jax.jit(lambda: fully_sharded(...))()` never holds the whole on one device.

      >>> state = fully_sharded({"w": jnp.ones((512, 2048)), "step": 0}, make_mesh(jax.devices()[:1]))
      >>> state["w"].sharding.spec, state["step"].sharding.spec
      (P(None, 'batch'), P())
    """

    def put(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf), mesh), impl=jax.random.key_impl(leaf))
        sizes = [(size, -axis) for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        return place(leaf, mesh, -max(sizes)[1] if sizes and leaf.size >= 1024 else None)

    return jax.tree.map(put, tree)


@over_time
def unroll(
    cell: Any,
    params: PyTree,
    xs: ArrayLike,
    *,
    carry: PyTree | None = None,
    mesh: Mesh,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    **options: Any,
) -> tuple[PyTree, PyTree]:
    """`rnnjax.unroll` with the first batch axis sharded over the mesh; differentiable in the same way.

    Args:
      xs: `[T, B, ..., D]`, B a multiple of the number of devices.
      mesh: from `make_mesh`.
      lengths, mask, resets, options: as for `rnnjax.unroll`.
    Raises:
      ValueError: no batch axis, or B is not a multiple of the number of devices.

    Example:

      >>> import rnnjax
      >>> cell = rnnjax.GRU(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> carry, ys = unroll(cell, params, jnp.ones((5, 2, 3)), mesh=make_mesh(jax.devices()[:1]))
      >>> ys.shape
      (5, 2, 4)
    """
    xs = as_array("xs", xs)
    if xs.ndim < 3:
        raise ValueError(f"`xs` is {list(xs.shape)}; a mesh needs a batch axis to shard: [T, B, ..., D].")
    check_rows("`xs`", xs.shape[1], mesh)
    # pass on only what is given, so that None keeps its meaning
    flags = {"lengths": (lengths, 0), "mask": (mask, 1), "resets": (resets, 1)}
    given = {name: jnp.asarray(value) for name, (value, _) in flags.items() if value is not None}
    specs = {name: _cut(flags[name][1]) for name in given}

    def rows(params: PyTree, carry: PyTree, xs: Array, given: dict[str, Array]) -> tuple[PyTree, PyTree]:
        return _unroll(cell, params, xs, carry=carry, **given, **options)

    in_specs = (P(), _cut(0), _cut(1), specs)
    mapped = jax.shard_map(rows, mesh=mesh, in_specs=in_specs, out_specs=(_cut(0), _cut(1)), check_vma=False)
    return mapped(params, carry, xs, given)


def value_and_grad(
    loss: Callable[..., Array], mesh: Mesh, *, batch_axes: int | tuple[int, ...] = 1
) -> Callable[..., tuple[Array, PyTree]]:
    """`jax.value_and_grad(loss)` with the batch sharded over the mesh.

    Args:
      loss: `(params, *batch) -> scalar`, a *mean* over rows, so that the mean over devices is the overall mean.
      batch_axes: the axis of the rows in the batch arguments, one for all or one for each: 1 in `[T, B, ...]`.
    Returns:
      `(params, *batch) -> (loss, gradient)`, both replicated on every device by a single all-reduce.

    Example:

      >>> import rnnjax
      >>> cell = rnnjax.Elman(4)
      >>> params = cell.init(jax.random.key(0), input_size=3)
      >>> def loss(params, xs):
      ...     return jnp.mean(rnnjax.unroll(cell, params, xs)[1] ** 2)
      >>> step = jax.jit(value_and_grad(loss, make_mesh(jax.devices()[:1])))
      >>> value, gradient = step(params, jnp.ones((5, 2, 3)))
      >>> gradient.w_h.shape
      (4, 4)
    """

    def mapped(params: PyTree, *batch: PyTree) -> tuple[Array, PyTree]:
        axes = batch_axes if isinstance(batch_axes, tuple) else (batch_axes,) * len(batch)
        if len(axes) != len(batch):
            raise ValueError(f"batch_axes has {len(axes)} entries for {len(batch)} batch arguments.")
        for axis, tree in zip(axes, batch, strict=True):
            for leaf in jax.tree.leaves(tree):
                check_rows(f"a batch argument, {list(jnp.shape(leaf))},", jnp.shape(leaf)[axis], mesh)

        @functools.partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(P(), *map(_cut, axes)),
            out_specs=P(),
            check_vma=False,  # a loop's first carry is replicated, but its later ones differ between devices
        )
        def rows(params: PyTree, *batch: PyTree) -> tuple[Array, PyTree]:
            return lax.pmean(jax.value_and_grad(loss)(params, *batch), AXIS)

        return rows(params, *batch)

    return mapped


def spread(
    run: Callable[..., PyTree], mesh: Mesh | None = None, *, at_once: int | None = None
) -> Callable[..., PyTree]:
    """A sharded vmap: `jax.jit(jax.vmap(run))` with the leading axis, the runs of a sweep, sharded over the mesh.

    Args:
      run: a function of one run, whose arrays lack the leading axis.
      mesh: from `make_mesh`; None: one device.
      at_once: runs that a device vmaps together, one group after another; None: all of its runs. On a CPU, a group that
        fits a core's cache (about 1 MiB) is faster than a larger one; a group of very few runs is slower.
    Returns:
      `(*arguments) -> results`, with a leading axis `[R]` on every leaf, for any R; results are replicated.
    Raises:
      ValueError: `at_once` below 1.

    Example:

      >>> rates = jnp.array([0.1, 0.2, 0.3])
      >>> spread(lambda rate: 10 * rate, make_mesh(jax.devices()[:1]))(rates).round(1).tolist()
      [1.0, 2.0, 3.0]
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is {at_once}; give the number of runs in a group, 1 or more, or None for all.")

    def on_a_device(*arguments: PyTree) -> PyTree:
        if at_once is None:
            return jax.vmap(run)(*arguments)
        return lax.map(lambda one: run(*one), arguments, batch_size=at_once)

    if mesh is None:
        return jax.jit(on_a_device)

    def program(*arguments: PyTree) -> PyTree:
        cut, whole = _cut(0), NamedSharding(mesh, _cut(None))
        mapped = jax.shard_map(on_a_device, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
        return lax.with_sharding_constraint(mapped(*arguments), whole)

    compiled = jax.jit(program)

    def all_runs(*arguments: PyTree) -> PyTree:
        count = jax.tree.leaves(arguments)[0].shape[0]
        results = compiled(*(padded(each, mesh) for each in arguments))
        return jax.tree.map(lambda leaf: leaf[:count], results)

    return all_runs


def padded(runs: PyTree, mesh: Mesh) -> PyTree:
    """Repeats the last run until the number of runs is a multiple of the devices; leaves `[R, ...]`."""
    count = jax.tree.leaves(runs)[0].shape[0]
    if count % mesh.size == 0:
        return runs
    which = [min(i, count - 1) for i in range(count + -count % mesh.size)]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[jnp.array(which, jnp.int32)], runs)


def _cut(axis: int | None) -> P:
    return P() if axis is None else P(*[None] * axis, AXIS)


def check_rows(name: str, rows: int, mesh: Mesh) -> None:
    """Raises unless the rows can be cut over the mesh."""
    if rows % mesh.size:
        raise ValueError(
            f"{name} has {rows} rows for {mesh.size} devices; pad the batch to a multiple of {mesh.size} (a row with "
            "length 0 changes no sum), or use a mesh of fewer devices: make_mesh(jax.devices()[:n])."
        )
