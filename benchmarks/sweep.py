"""Hundreds of small networks, each over its own sequence, as one program or one after the other.

Question: what does the gradient of every setting of W2's scale, seed and length cost, when all of them are one vmapped
program, and when they are run as most people write it?
Command: python -m benchmarks.sweep --json benchmarks/results/sweep.json --figures benchmarks/results
Minutes: about 3 on two cores; with --quick 1.
Expected: compiling anew for every setting, or a Python loop over time, is thousands of times slower per setting than
one program. The target against one jitted call per setting is 20; the gain over calls that are compiled once is
smaller for wider networks, where a single call is already near the floor.

A setting is three numbers, from which everything else follows: a tanh Elman network is drawn, W2 Gaussian with variance
1/H times the scale, and an input sequence of that length. Computed is the gradient of its last output, summed over
units: the largest entries of dL/dW2 and dL/dx_1, which are compared before anything is timed. From the three numbers to
these two, per setting:
  one program                   vmap over seeds and scales, the scales of a seed sharing its W2 in one matmul; one
                                forward pass for all lengths, and back through a step for the longer ones only
  one program, 2 devices        the same with the seeds split over --devices
  a call a setting              compiled once; padded as in the program
  a call a setting, cut         compiled once for each length, no padding
  compiled for every setting    `jax.jit` around a closure over the setting: a new program each time
  Python loop                   the same without `jit`, engine "loop"
The last two are run on --few of the settings.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from pydantic import PositiveInt

import rnnjax
from rnnjax import sharding
from rnnjax._unroll import EngineName
from rnnjax.initializers import Normal

from . import contest, harness, lab, ours, style
from .harness import divided, number

Params = tuple[rnnjax.ElmanParams, Any]
REFERENCE = "one program"
_LEAST = 1e-30  # gradients below count as this: float32 ends soon after


@lab.options(quick={"hidden": (16,), "scales": 4, "seeds": 8, "lengths": (25, 50), "few": 2, "rounds": 3})
class Options(harness.Options):
    """Options of sweep."""

    hidden: lab.Distinct[PositiveInt] = (4, 16, 64)
    """Widths H, each a sweep of its own [units]."""
    scale_low: float = 0.5
    """Smallest scale of W2 [1]."""
    scale_high: float = 1.0
    """Largest scale of W2; far above 1 the networks are chaotic and no two programs agree [1]."""
    scales: PositiveInt = 16
    """How many scales [count]."""
    seeds: PositiveInt = 16
    """How many draws of weights and inputs for each [count]."""
    lengths: lab.Distinct[PositiveInt] = (25, 50, 100, 200)
    """Lengths of the sequences [steps]."""
    few: PositiveInt = 4
    """How many settings the slow contestants are run on [count]."""
    engine: EngineName = "auto"
    """The engine of rnnjax that runs the networks."""

    def check(self) -> None:
        super().check()
        if list(self.lengths) != sorted(self.lengths):
            raise lab.UsageError(f"--lengths is {self.lengths}; give the shortest first.")


class Sweep(NamedTuple):
    """All combinations of scales (what W2, of N(0, 1/H), is multiplied by), seeds and lengths, at one width."""

    options: Options
    hidden: int

    @property
    def scales(self) -> list[float]:
        return np.linspace(self.options.scale_low, self.options.scale_high, self.options.scales).tolist()

    @property
    def seeds(self) -> range:
        return range(self.options.seed, self.options.seed + self.options.seeds)

    @property
    def settings(self) -> list[Any]:
        """`(scale, seed, length)` of all, the length running fastest."""
        return list(itertools.product(self.scales, self.seeds, self.options.lengths))

    @property
    def chosen(self) -> list[int]:
        """Which settings the slow contestants are run on."""
        return ours.spread(len(self.settings), self.options.few)

    @property
    def longest(self) -> int:
        return max(self.options.lengths)

    @property
    def forward_flops(self) -> float:
        """Of the matmuls of all settings; padding is not counted, nor is drawing the weights."""
        return 2.0 * (1 + self.hidden) * self.hidden * sum(length for _, _, length in self.settings)


def measure(options: Options, run: harness.Run) -> None:
    for hidden in options.hidden:
        sweep = Sweep(options, hidden)
        where = {"H": hidden, "settings": len(sweep.settings), "longest": sweep.longest}
        run.add(run.contest(where, contestants(sweep), sweep.forward_flops))


def contestants(sweep: Sweep) -> list[contest.Contestant]:
    """One program for all first: it is the reference."""
    devices, engine, made = sweep.options.devices, sweep.options.engine, []
    cut = jax.jit(functools.partial(norms, sweep), static_argnums=(2, 3, 4))
    padded = jax.jit(lambda *setting: norms(sweep, *setting, steps=sweep.longest, engine=engine))

    def compiled_anew(scale: float, seed: int, steps: int) -> Array:
        return jax.jit(lambda: norms(sweep, scale, seed, steps, steps, engine))()

    def join(name: str, way: Callable[..., contest.Program], *given: Any, few: bool = False) -> None:
        record = {"settings": len(sweep.chosen if few else sweep.settings)}
        made.append(contest.Contestant(name, lambda: {"norms": way(sweep, *given)}, record=record))

    join(REFERENCE, one_program, 1)
    if devices > 1:
        join(f"{REFERENCE}, {devices} devices", one_program, devices)
    join("a call a setting", one_by_one, padded)
    join("a call a setting, cut", one_by_one, lambda scale, seed, T: cut(scale, seed, T, T, engine))
    join("compiled for every setting", one_by_one, compiled_anew, True, few=True)
    join("Python loop", one_by_one, lambda scale, seed, T: norms(sweep, scale, seed, T, T, "loop"), True, few=True)
    return made


def one_program(sweep: Sweep, devices: int) -> contest.Program:
    """`vmap` over scales within seeds: a seed's W2 serves all of its scales."""
    by_seed = jax.vmap(jax.vmap(functools.partial(norms_by_length, sweep), (0, None)), (None, 0))
    seeds = jnp.asarray(list(sweep.seeds), jnp.uint32)
    if devices > 1:
        seeds = sharding.place(seeds, ours.mesh(devices, seeds.size, "seeds"), 0)
    scales, compiles = jnp.asarray(sweep.scales, jnp.float32), 1 if sweep.options.quick else 2

    def shared(result: Array) -> dict[str, np.ndarray]:
        return _all_and_few(sweep, np.asarray(result).swapaxes(0, 1))  # to scale, seed, length

    return contest.compiled(by_seed, scales, seeds, shared=shared, compiles=compiles, devices=devices)


def one_by_one(sweep: Sweep, run: Callable[..., Array], few: bool = False) -> contest.Program:
    settings = [sweep.settings[i] for i in sweep.chosen] if few else sweep.settings

    def shared(result: list[Array]) -> dict[str, np.ndarray]:
        return {"few": np.stack(result)} if few else _all_and_few(sweep, np.stack(result))

    return contest.Program(lambda: jax.block_until_ready([run(*setting) for setting in settings]), shared)


def _all_and_few(sweep: Sweep, result: np.ndarray) -> dict[str, np.ndarray]:
    """The norms of all settings, and those of the settings that every contestant runs."""
    rows = result.reshape(-1, 2)
    return {"all": rows, "few": rows[sweep.chosen]}


@functools.cache
def scaled(hidden: int) -> tuple[rnnjax.Elman, rnnjax.StepCell]:
    """An Elman cell, and the same with its carry scaled before its product, (s h) W for h (s W), params `(cell's, s)`.

    Networks that differ in s share W: under `vmap` over s one matmul serves them all; a matrix for each would need as
    many products of a vector.
    """
    cell = rnnjax.Elman(hidden, w_h=Normal(hidden**-0.5))

    return cell, rnnjax.StepCell(
        step_function=lambda params, carry, x: cell.step(params[0], params[1] * carry, x),
        initial_carry_function=lambda params, batch_shape=(): cell.initial_carry(params[0], batch_shape),
    )


def network(sweep: Sweep, scale: Any, seed: Any) -> tuple[rnnjax.StepCell, Params, Array]:
    """The cell, its parameters and its input sequence `[longest, 1]`, drawn from a seed."""
    key, (cell, scaled_cell) = jax.random.key(seed), scaled(sweep.hidden)
    xs = jax.random.normal(jax.random.fold_in(key, 1), (sweep.longest, 1))
    return scaled_cell, (cell.init(key, 1), scale), xs


def norms(sweep: Sweep, scale: Any, seed: Any, length: Any, steps: int, engine: Any) -> Array:
    """One setting: log10 of the largest entries of dL/dW2 and dL/dx_1, `[2]`, L the sum over units of the last output.

    `steps` is T, at least the length; steps beyond the length have no part in the loss.
    """
    cell, params, xs = network(sweep, scale, seed)

    def last(params: Params, xs: Array) -> Array:
        _, ys = rnnjax.unroll(cell, params, xs, engine=engine)
        return lax.dynamic_index_in_dim(ys, length - 1, keepdims=False).sum()

    dparams, dxs = jax.grad(last, argnums=(0, 1))(params, xs[:steps])
    return _log_sizes(dparams[0].w_h, dxs[0], scale)


def norms_by_length(sweep: Sweep, scale: Any, seed: Any) -> Array:
    """The settings of one scale and seed, every length of them, `[lengths, 2]`: nothing is computed twice.

    The forward pass goes once through the stretches between one length and the next. The backward pass takes them from
    the last to the first, and takes up the adjoint of each length where that length ends, so that a stretch is gone
    through by the adjoints of the longer sequences alone.
    """
    cell, params, xs = network(sweep, scale, seed)

    def last_carry(params: Params, xs: Array, carry: Array) -> Array:
        return rnnjax.unroll(cell, params, xs, carry=carry, engine=sweep.options.engine)[0]

    carry, pulls = cell.initial_carry(params), []
    for start, stop in itertools.pairwise((0, *sweep.options.lengths)):
        carry, pull = jax.vjp(last_carry, params, xs[start:stop], carry)
        pulls.append(pull)
    adjoints, dw, dxs = jnp.zeros((0, sweep.hidden)), jnp.zeros((0, sweep.hidden, sweep.hidden)), jnp.zeros(())
    for pull in reversed(pulls):
        adjoints = jnp.concatenate([jnp.ones((1, sweep.hidden)), adjoints])  # of the sum of its last carry
        dw = jnp.concatenate([jnp.zeros((1, *dw.shape[1:])), dw])
        dparams, dxs, adjoints = jax.vmap(pull)(adjoints)
        dw = dw + dparams[0].w_h
    return jax.vmap(_log_sizes, (0, 0, None))(dw, dxs[:, 0], scale)


def _log_sizes(dw: Array, dx: Array, scale: Any) -> Array:
    sizes = jnp.stack([jnp.abs(dw).max() / scale, jnp.abs(dx).max()])  # W2 is scale times w_h
    return jnp.log10(jnp.maximum(sizes, _LEAST))


def draw(result: Mapping[str, Any], page: Any) -> None:
    """Milliseconds per setting on a logarithmic axis; beside each mark, how many times one program."""
    points = result["points"]
    every = harness.names(points)
    fig, axes = style.figures(1, len(points), 3.4 * len(points) + 1.8, 0.36 * len(every) + 1.9, sharey=True)
    for ax, point in zip(axes[0], points, strict=True):
        for position, name in enumerate(every):
            ms = number(point, name, "norms", "unit_ms")
            factor = divided(ms, number(point, REFERENCE, "norms", "unit_ms"))
            if ms is not None and factor is not None:
                ax.plot(ms, position, "o", color=style.BLUE, markersize=8.0)
                text = f"{factor:,.0f}×" if factor >= 10 else f"{factor:.2g}×"
                ax.annotate(text, (ms, position), (8, 0), textcoords="offset points", va="center")
        if (floor := harness.floor_ms(point, "norms")) is not None:
            ax.axvline(floor, label="matmul floor", **harness.FLOOR)
        ax.set(xscale="log", xlabel="time of a setting [ms]", title=f"H = {point['H']}")
        ax.margins(x=0.1, y=0.1)
        low, high = ax.get_xlim()
        ax.set_xlim(low, high * (high / low) ** 0.3)  # room for the numbers
    axes[0, 0].set_yticks(range(len(every)), every)
    axes[0, 0].invert_yaxis()
    settings, longest = points[0]["settings"], points[0]["longest"]
    title = f"Gradient norms of {settings} networks, up to {longest} steps; numbers: times one program"
    alt = "Time of a setting by contestant, a panel per width; one program is fastest at every width"
    harness.save(page, "sweep", fig, axes, title, alt)


benchmark = harness.Benchmark(Options, measure, draw)

if __name__ == "__main__":
    benchmark.main()
