"""Lyapunov spectra of many networks: one program for all of them, or NumPy and SciPy step by step.

Question: what do the Lyapunov exponents of a driven tanh network cost, when a sweep over gains and seeds is one
program, and when it is the loop over steps with a QR decomposition in each that most people write?
Command: python -m benchmarks.observatory --json benchmarks/results/observatory.json --figures benchmarks/results
Minutes: about 7 on two cores; with --quick 1.
Expected: the target is ten times less per network than the plain loop on two cores. The narrower the networks and the
fewer the exponents, the more; for all exponents of wide networks both are near what matrix products cost.

Every network is tanh(x_t + h W), W Gaussian with the given gain, x_t Gaussian with variance 1 in every unit, below the
edge of chaos at gain 1.86: beyond it trajectories part at the last bit, and no two programs agree. All is float64, and
the exponents are compared before anything is timed. Two tasks: the exponents asked for (a share of all H), and the
leading one alone. Contestants:
  one program                      vmap over networks; orthonormal again every few steps
  ..., n at once                   groups that fit a core's cache, one after the other; nothing cut over threads
  ..., n at once, 2 devices        each device its share of the networks
  ..., n at once, 2 processes      each process its share, with a core and one thread of XLA's
  the products alone               the same of the products with W and nothing else: the floor
  NumPy                            a loop over networks and steps, `np.linalg.qr` at every step
  SciPy                            the same with `scipy.linalg.qr`, economic, in place, unchecked
  NumPy, QR as seldom              ... as in the program, which a plain loop leaves to its reader
  NumPy, networks stacked          all networks in one array, loop over steps only, QR as seldom
The three that loop over networks are run on --few of them.
"""

import functools
import math
import multiprocessing
import os
import weakref
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from annotated_types import Gt, Le
from jax import Array
from pydantic import NonNegativeInt, PositiveInt

import rnnjax
from rnnjax import gradients, sharding

from . import contest, harness, lab, ours, style

REFERENCE, FLOOR = "one program", "the products alone"
TASKS = ("spectrum", "leading")
ALONE = {"xla_cpu_multi_thread_eigen": False}
"""Small products and kernels are not cut over the threads that another device wants; on by default."""


@lab.options(quick={"hidden": (32,), "gains": 4, "seeds": 4, "steps": 60, "few": 2, "rounds": 3})
class Options(harness.Options):
    """Options of observatory."""

    hidden: lab.Distinct[PositiveInt] = (16, 32, 64, 128)
    """Widths H [units]."""
    shares: lab.Distinct[Annotated[float, Gt(0), Le(1)]] = (0.25, 1.0)
    """Shares of the H exponents that are asked for [1]."""
    intervals: tuple[PositiveInt, ...] = (10, 2)
    """For each share: steps from one orthonormalisation to the next [steps]."""
    gain_low: float = 0.8
    """Smallest gain of W [1]."""
    gain_high: float = 1.7
    """Largest gain of W; beyond 1.86 the networks are chaotic and no two programs agree [1]."""
    gains: PositiveInt = 8
    """How many gains [count]."""
    seeds: PositiveInt = 8
    """How many draws of weights and inputs for each [count]."""
    steps: PositiveInt = 200
    """Length T [steps]."""
    at_once: PositiveInt = 16
    """How many networks a device has in hand, where it does not do all at once [count]."""
    processes: NonNegativeInt = 2
    """Over how many processes the networks are spread, a core each; below 2 none of that kind takes part [count]."""
    few: PositiveInt = 4
    """How many networks the slow contestants are run on [count]."""

    def check(self) -> None:
        super().check()
        if len(self.shares) != len(self.intervals):
            raise lab.UsageError(f"--shares is {self.shares}; give one for each of --intervals, {self.intervals}.")
        if self.steps < 2 * max(self.intervals):
            raise lab.UsageError(f"--steps is {self.steps}; give two intervals or more, {2 * max(self.intervals)}.")


class Networks(NamedTuple):
    """All combinations of gains and seeds, drawn in NumPy in float64; the drawing is in nobody's time."""

    options: Options
    hidden: int
    exponents: int  # how many
    interval: int  # steps from one orthonormalisation to the next, where it is not 1

    @property
    def total(self) -> int:
        return self.options.gains * self.options.seeds

    @property
    def uneven(self) -> int:
        """Steps at the start that make no whole interval; they do not count in any spectrum."""
        return self.options.steps % self.interval

    @property
    def chosen(self) -> list[int]:
        """Which networks the slow contestants are run on, the seed running fastest."""
        return ours.spread(self.total, self.options.few)

    def drawn(self, indices: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`(W [H, H], xs [steps, H])` of some networks."""
        drawn, size, o = [], self.hidden, self.options
        for gain, seed in (divmod(index, o.seeds) for index in indices):
            rng = np.random.default_rng(o.seed + seed)
            w_h = rng.normal(size=(size, size)) / np.sqrt(size)
            drawn.append((np.linspace(o.gain_low, o.gain_high, o.gains)[gain] * w_h, rng.normal(size=(o.steps, size))))
        return drawn

    def first(self, task: str) -> np.ndarray:
        """The first perturbations as orthonormal rows `[k, H]`, as `lyapunov_spectrum` has them."""
        k = 1 if task == "leading" else self.exponents
        return np.linalg.qr(np.random.default_rng(0).normal(size=(self.hidden, k)))[0].T

    def all_and_few(self, result: np.ndarray, task: str) -> dict[str, np.ndarray]:
        """The exponents of all networks, and those of the networks that every contestant runs."""
        return {f"all {task}": result, f"few {task}": result[self.chosen]}


def measure(options: Options, run: harness.Run) -> None:
    with jax.enable_x64(True):
        for H in options.hidden:
            for share, interval in zip(options.shares, options.intervals, strict=True):
                networks = Networks(options, H, k := math.ceil(share * H), interval)
                where = {"H": H, "k": k, "interval": interval, "networks": networks.total, "T": options.steps}
                run.add(run.contest(where, contestants(networks)))


def contestants(networks: Networks) -> list[contest.Contestant]:
    """One program for all first: it is the reference."""
    o, made = networks.options, []

    def join(name: str, way: Callable[..., contest.Program], *given: Any, unchecked: str = "", **more: Any) -> None:
        record = {"networks": len(networks.chosen) if way is one_by_one else networks.total}

        def build() -> dict[str, contest.Program]:
            return {task: way(networks, task, *given, **more) for task in TASKS}

        made.append(contest.Contestant(name, build, unchecked, record))

    join(REFERENCE, one_program)
    groups = f"{REFERENCE}, {o.at_once} at once"
    join(groups, one_program, at_once=o.at_once)
    if o.devices > 1:
        join(f"{groups}, {o.devices} devices", one_program, at_once=o.at_once, devices=o.devices)
    if o.processes > 1:
        join(f"{groups}, {o.processes} processes", in_processes, exponents)
    scipy_qr = functools.partial(scipy.linalg.qr, overwrite_a=True, mode="economic", check_finite=False)
    join("NumPy", one_by_one, 1, np.linalg.qr)
    join("SciPy", one_by_one, 1, scipy_qr)
    join("NumPy, QR as seldom", one_by_one, networks.interval, np.linalg.qr)
    join("NumPy, networks stacked", stacked)
    if o.processes > 1:
        join(FLOOR, in_processes, products, unchecked="no exponents: the floor")
    return made


def exponents(networks: Networks, task: str, w_h: Array, xs: Array) -> Array:
    cell, size = rnnjax.Elman(networks.hidden), networks.hidden
    params = rnnjax.ElmanParams(jnp.eye(size), w_h, jnp.zeros(size))
    if task == "leading":
        return gradients.leading_exponent(cell, params, xs).exponent[None]
    asked: dict[str, Any] = {"transient": networks.uneven, "interval": networks.interval}
    return gradients.lyapunov_spectrum(cell, params, xs, k=networks.exponents, **asked).exponents


def products(networks: Networks, task: str, w_h: Array, xs: Array) -> Array:
    """What no way can do without: a step's products with W, of the state and of the perturbations."""

    def one_step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        h, rows = state
        return (h @ w_h, rows @ w_h), None

    start = xs[0], jnp.asarray(networks.first(task))
    (h, rows), _ = jax.lax.scan(one_step, start, length=networks.options.steps)
    return rows.sum(-1) + h.sum()


def one_program(
    networks: Networks, task: str, way: Any = exponents, devices: int = 1, at_once: int | None = None, share: Any = None
) -> contest.Program:
    """`vmap` over networks, or so many at once, on each device its share; of all networks, or those in `share`."""
    given = networks.drawn(list(range(networks.total)) if share is None else share)
    w_h, xs = (jnp.asarray(np.stack(each)) for each in zip(*given, strict=True))
    mesh = None
    if devices > 1:
        mesh = ours.mesh(devices, networks.total, "networks")
        w_h, xs = sharding.place((w_h, xs), mesh, 0)
    program = sharding.spread(functools.partial(way, networks, task), mesh, at_once=at_once)
    compiling: dict[str, Any] = {"devices": devices, "compiler_options": None if at_once is None else ALONE}
    compiling["shared"] = lambda result: networks.all_and_few(np.asarray(result), task)
    return contest.compiled(program, w_h, xs, **compiling)


def in_processes(networks: Networks, task: str, way: Callable) -> contest.Program:
    """A share of the networks in each of several processes, with a core and one thread of XLA's for each.

    In one process XLA's devices share its threads, which costs programs of small kernels up to half of their speed. The
    processes end when the program is forgotten.
    """
    cores, count = sorted(getattr(os, "sched_getaffinity", lambda _: ())(0)), networks.options.processes
    if len(cores) < count:
        raise contest.LeftOut(f"{count} cores are asked for, this process may use {len(cores)}")
    context = multiprocessing.get_context("spawn")
    pipes, build = [], functools.partial(one_program, networks, task, way, at_once=networks.options.at_once)
    for core, share in zip(cores, np.array_split(np.arange(networks.total), count), strict=False):
        here, there = context.Pipe()
        mine = functools.partial(build, share=share.tolist())
        context.Process(target=_serve, args=(there, core, mine), daemon=True).start()
        there.close()
        pipes.append(here)

    def received(pipe: Any) -> Any:
        found = pipe.recv()
        if isinstance(found, Exception):
            raise found
        return found

    def call() -> np.ndarray:
        for pipe in pipes:
            pipe.send("run")
        return np.concatenate([received(pipe) for pipe in pipes])

    weakref.finalize(call, lambda: [pipe.close() for pipe in pipes])
    costs = [received(pipe) for pipe in pipes]
    return contest.Program(call, lambda result: networks.all_and_few(result, task), costs[0])


def _serve(pipe: Any, core: int, build: Callable[[], contest.Program]) -> None:
    os.sched_setaffinity(0, {core})
    os.environ["PJRT_NPROC"] = "1"  # read where XLA starts its threads
    sharding.setup_process(1)
    with jax.enable_x64(True):
        try:
            program = build()
            pipe.send(program.cost)
            while pipe.recv():
                pipe.send(np.asarray(program.call()))
        except EOFError:  # nobody needs us any more
            pass
        except Exception as fault:
            pipe.send(fault)


def one_by_one(networks: Networks, task: str, interval: int, factor: Callable) -> contest.Program:
    """A Python loop over networks and over steps, as in the textbooks; `factor` gives Q and R of columns."""
    given = networks.drawn(networks.chosen)

    def call() -> np.ndarray:
        return np.stack([_over_steps(networks, task, w_h.T.copy(), xs, interval, factor) for w_h, xs in given])

    return contest.Program(call, lambda found: {f"few {task}": found})


def stacked(networks: Networks, task: str) -> contest.Program:
    """All networks in one array: a Python loop over steps only."""
    given = networks.drawn(list(range(networks.total)))
    transposed, xs = np.stack([w_h.T for w_h, _ in given]), np.stack([xs for _, xs in given], axis=1)
    interval = networks.interval if task == "spectrum" else 1
    call = functools.partial(_over_steps, networks, task, transposed, xs, interval, np.linalg.qr)
    return contest.Program(call, lambda result: networks.all_and_few(result, task))


def _over_steps(
    networks: Networks, task: str, transposed: np.ndarray, xs: np.ndarray, interval: int, factor: Callable
) -> np.ndarray:
    """Exponents of one network, or of many: arrays begin with their axes, but `xs` with time."""
    first, columns = networks.uneven if task == "spectrum" else 0, networks.first(task).T
    h, total = np.zeros(xs.shape[1:]), np.zeros((*xs.shape[1:-1], columns.shape[1]))
    for t, x in enumerate(xs, 1):
        h = np.tanh(x + (transposed @ h if h.ndim == 1 else (transposed @ h[..., None])[..., 0]))
        columns = (1 - h * h)[..., None] * (transposed @ columns)
        if t == first or (t > first and (t - first) % interval == 0):
            columns, r = factor(columns)
            if t > first:
                total += np.log(np.abs(np.diagonal(r, axis1=-2, axis2=-1)))
    return total / (len(xs) - first)


def draw(result: Mapping[str, Any], page: Any) -> None:
    """Milliseconds per network on logarithmic axes, one line per contestant; a panel per share, and the leading one."""
    points, by_share = result["points"], {}
    for point in points:
        by_share.setdefault(round(point["k"] / point["H"], 2), []).append(point)
    panels = [("spectrum", by_share[share], f"{share:.0%} of the exponents") for share in sorted(by_share)]
    panels.append(("leading", panels[0][1], "the leading one alone"))
    fig, axes = style.figures(1, len(panels), 3.1 * len(panels) + 0.6, 4.6, sharey=True)
    for ax, (task, chosen, title) in zip(axes[0], panels, strict=True):
        harness.plot_lines(ax, chosen, "H", task, "unit_ms", harness.names(points))
        ax.set(xlabel="width H [units]", title=title)
    axes[0, 0].set_ylabel("time per network [ms]")
    title = f"Lyapunov exponents of {points[0]['networks']} tanh networks over {points[0]['T']} steps, float64"
    alt = "Time per network against width, by contestant; one program in groups is faster than NumPy at every width"
    harness.save(page, "observatory", fig, axes, title, alt)


benchmark = harness.Benchmark(Options, measure, draw)

if __name__ == "__main__":
    benchmark.main()
