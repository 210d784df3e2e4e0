"""The contestants of the observatory: the same exponents, organised in eight ways."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array
from jax.sharding import Mesh

import rnnjax
from benchmarks import harness
from benchmarks.observatory.networks import Networks
from benchmarks.observatory.processes import Workers
from rnnjax import gradients, sharding

TASKS = ("spectrum", "leading")
FLOOR = "the products alone"
ALONE = {"xla_cpu_multi_thread_eigen": False}
"""Small products and kernels are not cut over the threads that another device wants; on by default."""


@dataclasses.dataclass(frozen=True)
class Counted:
    """A contestant and how many networks one of its calls does."""

    contestant: harness.Contestant
    networks: int


def contestants(networks: Networks, devices: int, processes: int, at_once: int, compiles: int = 2) -> list[Counted]:
    """One program for all first: it is the reference."""
    whole, few, seldom = len(networks), len(networks.chosen()), networks.interval
    groups = f"{at_once} at once"
    ways: list[tuple[str, Callable[[str], harness.Program], int]] = [
        ("one program", lambda task: one_program(networks, task, compiles=compiles), whole),
        (
            f"one program, {groups}",
            lambda task: one_program(networks, task, at_once=at_once, compiles=compiles, options=ALONE),
            whole,
        ),
        ("NumPy", lambda task: one_by_one(networks, task, 1, numpy_qr), few),
        ("SciPy", lambda task: one_by_one(networks, task, 1, scipy_qr), few),
        ("NumPy, QR as seldom", lambda task: one_by_one(networks, task, seldom, numpy_qr), few),
        ("NumPy, networks stacked", lambda task: stacked(networks, task), whole),
    ]
    if processes > 1:
        name = f"one program, {groups}, {processes} processes"
        ways.insert(2, (name, in_processes(networks, processes, at_once, _exponents), whole))
    if devices > 1:
        name = f"one program, {groups}, {devices} devices"
        ways.insert(2, (name, lambda t: one_program(networks, t, devices, at_once, compiles, ALONE), whole))
    made = [Counted(harness.Contestant(name, _tasks(program)), count) for name, program, count in ways]
    if processes > 1:
        floor = _tasks(in_processes(networks, processes, at_once, _products))
        made.append(Counted(harness.Contestant(FLOOR, floor, unchecked="no exponents: the floor"), whole))
    return made


Way = Callable[[Networks, str, Array, Array], Array]
"""`(networks, task, w_h, xs)` of one network, to its exponents."""


def _exponents(networks: Networks, task: str, w_h: Array, xs: Array) -> Array:
    cell, size = rnnjax.Elman(networks.hidden), networks.hidden
    params = rnnjax.ElmanParams(jnp.eye(size), w_h, jnp.zeros(size))
    if task == "leading":
        return gradients.leading_exponent(cell, params, xs).exponent[None]
    found = gradients.lyapunov_spectrum(
        cell, params, xs, k=networks.exponents, transient=_uneven(networks), interval=networks.interval
    )
    return found.exponents


def _products(networks: Networks, task: str, w_h: Array, xs: Array) -> Array:
    """What no way can do without: a step's products with W, of the state and of the perturbations."""
    k = 1 if task == "leading" else networks.exponents

    def one_step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        h, rows = state
        return (h @ w_h, rows @ w_h), None

    start = xs[0], jnp.asarray(_first(networks, k))
    (h, rows), _ = jax.lax.scan(one_step, start, length=networks.steps)
    return rows.sum(-1) + h.sum()


def one_program(
    networks: Networks,
    task: str,
    devices: int = 1,
    at_once: int | None = None,
    compiles: int = 2,
    options: Mapping[str, Any] | None = None,
    share: list[int] | None = None,
    way: Way = _exponents,
) -> harness.Program:
    """`vmap` over networks, or so many at once, on each device its share; of all networks, or those in `share`."""
    given = [networks.network(index) for index in (range(len(networks)) if share is None else share)]
    w_h, xs = (jnp.asarray(np.stack(each)) for each in zip(*given, strict=True))
    mesh = None
    if devices > 1:
        mesh = _mesh(len(networks), devices)
        w_h, xs = sharding.place((w_h, xs), mesh, 0)
    return harness.compiled(
        sharding.spread(functools.partial(way, networks, task), mesh, at_once=at_once),
        w_h,
        xs,
        shared=lambda result: _all_and_few(networks, np.asarray(result), task),
        compiles=compiles,
        devices=devices,
        compiler_options=options,
    )


def in_processes(networks: Networks, count: int, at_once: int, way: Way) -> Callable[[str], harness.Program]:
    """The same in processes of their own."""

    def program(task: str) -> harness.Program:
        workers = Workers(functools.partial(_of_share, at_once=at_once, way=way), networks, task, count)
        return harness.Program(workers.call, lambda result: _all_and_few(networks, result, task), workers.costs[0])

    return program


def _of_share(networks: Networks, task: str, share: list[int], at_once: int, way: Way) -> harness.Program:
    return one_program(networks, task, at_once=at_once, compiles=1, options=ALONE, share=share, way=way)


Factor = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def numpy_qr(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.linalg.qr(columns)


def scipy_qr(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    factors: Any = scipy.linalg.qr(columns, overwrite_a=True, mode="economic", check_finite=False)
    return factors


def one_by_one(networks: Networks, task: str, interval: int, factor: Factor) -> harness.Program:
    """A Python loop over networks and over steps, as in the textbooks."""
    k = 1 if task == "leading" else networks.exponents
    given = [networks.network(index) for index in networks.chosen()]

    def exponents(w_h: np.ndarray, xs: np.ndarray) -> np.ndarray:
        h, columns, total = np.zeros(len(w_h)), _first(networks, k).T, np.zeros(k)
        first = _uneven(networks) if task == "spectrum" else 0
        transposed = np.ascontiguousarray(w_h.T)
        for t, x in enumerate(xs, 1):
            h = np.tanh(x + h @ w_h)
            columns = (1 - h * h)[:, None] * (transposed @ columns)
            if t == first or (t > first and (t - first) % interval == 0):
                columns, r = factor(columns)
                if t > first:
                    total += np.log(np.abs(np.diagonal(r)))
        return total / (len(xs) - first)

    return harness.Program(
        lambda: np.stack([exponents(*each) for each in given]), lambda result: {f"few {task}": result}
    )


def stacked(networks: Networks, task: str) -> harness.Program:
    """All networks in one array: a Python loop over steps only."""
    k = 1 if task == "leading" else networks.exponents
    interval = networks.interval if task == "spectrum" else 1
    given = [networks.network(index) for index in range(len(networks))]
    transposed = np.stack([w_h.T for w_h, _ in given])
    xs = np.stack([xs for _, xs in given], axis=1)
    first = _uneven(networks) if task == "spectrum" else 0

    def call() -> np.ndarray:
        h, columns = np.zeros(xs.shape[1:]), np.broadcast_to(_first(networks, k).T, (len(given), networks.hidden, k))
        total = np.zeros((len(given), k))
        for t, x in enumerate(xs, 1):
            h = np.tanh(x + (transposed @ h[..., None])[..., 0])
            columns = (1 - h * h)[..., None] * (transposed @ columns)
            if t == first or (t > first and (t - first) % interval == 0):
                columns, r = np.linalg.qr(columns)
                if t > first:
                    total += np.log(np.abs(np.diagonal(r, axis1=-2, axis2=-1)))
        return total / (len(xs) - first)

    return harness.Program(call, lambda result: _all_and_few(networks, result, task))


def _uneven(networks: Networks) -> int:
    """Steps at the start that make no whole interval; nobody counts them in the spectrum."""
    return networks.steps % networks.interval


def _first(networks: Networks, k: int) -> np.ndarray:
    if k == networks.exponents:
        return networks.drawn.first
    columns = np.random.default_rng(0).normal(size=(networks.hidden, k))
    return np.linalg.qr(columns)[0].T


def _mesh(networks: int, devices: int) -> Mesh:
    if len(jax.devices()) < devices:
        raise harness.LeftOut(f"{devices} devices are asked for, JAX has {len(jax.devices())}")
    if networks % devices:
        raise harness.LeftOut(f"{networks} networks cannot be split evenly over {devices} devices")
    return sharding.make_mesh(jax.devices()[:devices])


def _all_and_few(networks: Networks, result: np.ndarray, task: str) -> dict[str, np.ndarray]:
    """The exponents of all networks, and those of the networks that everybody runs."""
    return {f"all {task}": result, f"few {task}": result[networks.chosen()]}


def _tasks(program: Callable[[str], harness.Program]) -> Callable[[], dict[str, harness.Program]]:
    return lambda: {task: program(task) for task in TASKS}
