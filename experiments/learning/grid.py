"""The grid: the runs of one cell, clipped and not, times seeds, trained in one program and kept as a row each."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh

import rnnjax
from experiments import harness
from experiments.harness import strict_json
from experiments.learning.network import CELLS
from experiments.learning.options import Options
from experiments.learning.problem import Problem
from rnnjax.tasks import Batch
from rnnjax.training import FitOptions, FittedMany, clip_by_global_norm, fit_many, save_model

Asked = dict[str, Any]
"""What a row is: "cell", "clipped", "index" of the seed, and the options that it depends on."""


class Trained(NamedTuple):
    """One row, and the model that it is about."""

    asked: Asked
    values: dict[str, Any]
    arrays: dict[str, np.ndarray]
    model: rnnjax.Readout
    params: rnnjax.ReadoutParams


def rows_of(run: harness.Run[Any], problem: Problem) -> list[harness.Row]:
    """Every row of the grid; those that the folder lacks are trained first, a cell at a time, and models saved."""
    options: Options = run.options
    plan = {name: _plan(options, name) for name in options.cells}
    with run.progress("cells", len(plan)) as advance:
        for name, asked in plan.items():
            missing = [dict(each) for each in run.rows.missing(asked)]
            if missing:
                done = train(problem, missing, run.mesh)
                for each in done if run.leads else ():  # before its row: where there is a row, there is a model
                    said = strict_json.strict(each.asked | each.values)
                    folder = run.folder / folder_of(each.asked)
                    save_model(folder, each.model, each.params, said, input_size=problem.inputs)
                run.rows.put_many(each[:3] for each in done)
            advance(note=name)
    found = [run.rows.get(each) for asked in plan.values() for each in asked]
    return [row for row in found if row is not None]


def folder_of(asked: Asked) -> Path:
    """Where the model of a row lies in the folder of the run, such as `models/lstm-clipped-0`."""
    return Path("models") / f"{asked['cell']}-{'clipped' if asked['clipped'] else 'unclipped'}-{asked['index']}"


def _plan(options: Options, cell: str) -> list[Asked]:
    return [
        {"cell": cell, "clipped": clipped, "index": index, **options.of_a_row}
        for clipped in options.clipping
        for index in range(options.seeds)
    ]


def train(problem: Problem, asked: Sequence[Asked], mesh: Mesh | None = None) -> list[Trained]:
    """The rows of one cell.

    A seed starts from the same weights and reads the same sequences whether it is clipped or not.

    Args:
      problem: what is learned.
      asked: the rows.
      mesh: devices over which the runs are cut; None: one device.
    Returns:
      Values of each row: test and last held-out measures, updates done, and where and on what it stopped if something
      was not finite (then the measures are those of the last finite step). Arrays, one entry a look: "updates", "loss",
      "gradient_norm", "gradient_norm_max", "clipped" (share of updates), and "held_out_<measure>".
    """
    first = asked[0]
    model = rnnjax.Readout(CELLS[first["cell"]](first["hidden_size"]), problem.outputs)
    key = jax.random.key(first["seed"])
    settings = {
        "max_norm": jnp.array([each["max_norm"] if each["clipped"] else jnp.inf for each in asked]),
        "key": jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array([each["index"] for each in asked], jnp.uint32)),
    }
    rate = optax.cosine_decay_schedule(first["rate"], first["updates"])

    def loss(params: rnnjax.ReadoutParams, batch: Batch) -> Array:
        return problem.loss(problem.outputs_of(model, params, batch), batch)

    fitted = fit_many(
        loss,
        lambda key, setting: model.init(key, problem.inputs),
        lambda setting: optax.chain(clip_by_global_norm(setting["max_norm"]), optax.adam(rate)),
        problem.train,
        settings,
        FitOptions(steps=first["updates"], chunk=min(first["look_every"], first["updates"])),
        key=key,
        held_out=problem.held_out,
        measure=functools.partial(problem.measured, model),
        mesh=mesh,
    )
    batch = problem.test()
    # one run after the other, to need the memory of one
    test = jax.jit(lambda params: lax.map(lambda each: problem.measured(model, each, batch), params))
    tested = jax.device_get(test(fitted.state.params))
    params = jax.device_get(fitted.state.params)
    return [
        Trained(each, *_values(problem, fitted, tested, i), model, jax.tree.map(lambda leaf, i=i: leaf[i], params))
        for i, each in enumerate(asked)
    ]


def _values(
    problem: Problem, fitted: FittedMany, tested: dict[str, np.ndarray], i: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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
    return values, arrays
