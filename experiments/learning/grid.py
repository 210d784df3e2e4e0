"""The grid: the runs of one cell, clipped and not, times seeds, trained in one program and kept as a row each."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import rnnjax
from experiments import harness
from experiments.learning import network
from experiments.learning.options import Options
from experiments.learning.problem import Problem
from rnnjax.tasks import Batch
from rnnjax.training import FitOptions, FittedMany, clip_by_global_norm, fit_many

Asked = dict[str, Any]
"""What a row is: "cell", "clipped", "index" of the seed, and the options that it depends on."""


def rows_of(run: harness.Run[Any], problem: Problem) -> list[harness.Row]:
    """Every row of the grid; those that the folder lacks are trained first, a cell at a time."""
    options: Options = run.options
    plan = {name: _plan(options, name) for name in options.cells}
    with run.progress("cells", len(plan)) as advance:
        for name, asked in plan.items():
            missing = [dict(each) for each in run.rows.missing(asked)]
            if missing:
                run.rows.put_many(train(problem, missing))
            advance(note=name)
    found = [run.rows.get(each) for asked in plan.values() for each in asked]
    return [row for row in found if row is not None]


def _plan(options: Options, cell: str) -> list[Asked]:
    return [
        {"cell": cell, "clipped": clipped, "index": index, **options.of_a_row}
        for clipped in options.clipping
        for index in range(options.seeds)
    ]


def train(problem: Problem, asked: Sequence[Asked]) -> list[tuple[Asked, dict[str, Any], dict[str, np.ndarray]]]:
    """Rows of one cell: what was asked, values, arrays.

    A seed starts from the same weights and reads the same sequences whether it is clipped or not.

    Returns:
      Values of each row: test and last held-out measures, updates done, and where and on what it stopped if something
      was not finite (then the measures are those of the last finite step). Arrays, one entry a look: "updates", "loss",
      "gradient_norm", "gradient_norm_max", "clipped" (share of updates), and "held_out_<measure>".
    """
    first = asked[0]
    cell = network.CELLS[first["cell"]](first["hidden_size"])
    key = jax.random.key(first["seed"])
    settings = {
        "max_norm": jnp.array([each["max_norm"] if each["clipped"] else jnp.inf for each in asked]),
        "key": jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array([each["index"] for each in asked], jnp.uint32)),
    }

    def loss(params: network.Network, batch: Batch) -> Array:
        return problem.loss(network.apply(cell, params, batch, ragged=problem.ragged), batch)

    fitted = fit_many(
        loss,
        lambda key, setting: network.init(cell, problem.inputs, problem.outputs, key),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.adam(first["rate"])),
        problem.train,
        settings,
        FitOptions(steps=first["updates"], chunk=min(first["look_every"], first["updates"])),
        key=key,
        held_out=problem.held_out,
        measure=functools.partial(_measured, cell, problem),
    )
    tested = _tested(cell, problem, fitted.state.params)
    return [_row(each, problem, fitted, tested, i) for i, each in enumerate(asked)]


def _measured(cell: rnnjax.Cell, problem: Problem, params: network.Network, batch: Batch) -> dict[str, Array]:
    return problem.measured(network.apply(cell, params, batch, ragged=problem.ragged), batch)


def _tested(cell: rnnjax.Cell, problem: Problem, params: network.Network) -> dict[str, np.ndarray]:
    """Every measure of every run on the test part, `[runs]`; one run after the other, to need the memory of one."""
    batch = problem.test()
    program = jax.jit(lambda params: lax.map(lambda each: _measured(cell, problem, each, batch), params))
    return jax.device_get(program(params))


def _row(
    asked: Asked, problem: Problem, fitted: FittedMany, tested: dict[str, np.ndarray], i: int
) -> tuple[Asked, dict[str, Any], dict[str, np.ndarray]]:
    history, fault = fitted.history, fitted.faults[i]
    names = [
        "loss",
        "gradient_norm",
        "gradient_norm_max",
        "clipped",
        *(f"held_out_{name}" for name in problem.measures),
    ]
    arrays = {"updates": history["step"]} | {name: history[name][:, i] for name in names}
    values = {
        **{f"test_{name}": float(tested[name][i]) for name in problem.measures},
        **{f"held_out_{name}": float(arrays[f"held_out_{name}"][-1]) for name in problem.measures},
        "updates_done": int(fitted.state.step[i]),
        "clipped_share": float(np.nanmean(arrays["clipped"])) if np.isfinite(arrays["clipped"]).any() else None,
        "largest_gradient_norm": float(arrays["gradient_norm_max"].max()),
        "stopped_at_update": None if fault is None else fault[0],
        "not_finite": None if fault is None else list(fault[1]),
    }
    return asked, values, arrays
