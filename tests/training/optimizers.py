"""Every optimizer of Optax: which train under `fit`, which do not, and why.

python -m tests.training.optimizers            writes docs/optimizers.md, which `test_optimizers` compares
"""

import inspect
import sys
import textwrap
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

TABLE = Path(__file__).parents[2] / "docs" / "optimizers.md"


def scaled(*transformations: Any) -> Any:
    """Adds a step size to a transformation that has none."""
    return optax.chain(*transformations, optax.scale(-0.1))


def descent() -> Any:
    return optax.sgd(0.1)


def as_a_schedule(step: Any) -> Any:
    return -0.1 * jnp.ones_like(step, jnp.float32)


def in_two_groups(matrix: Any = None) -> Any:
    """Matrices and vectors under different optimizers."""
    groups: dict[Any, Any] = {"matrix": optax.adam(0.1) if matrix is None else matrix, "vector": descent()}
    return optax.partition(
        groups, lambda tree: jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", tree)
    )


def vectors(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim == 1, tree)


def always(step: Any, **extra_args: Any) -> Any:
    return step >= 0


def call(name: str, **arguments: Any) -> Callable[[], Any]:
    """`optax.name(**arguments)`, or the same of `optax.contrib` for a name that starts with "contrib."."""
    home = contrib if name.startswith("contrib.") else optax
    return lambda: getattr(home, name.removeprefix("contrib."))(**arguments)


def scaled_call(name: str, **arguments: Any) -> Callable[[], Any]:
    return lambda: scaled(call(name, **arguments)())


OPTIMIZERS = """
adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw
novograd optimistic_adam optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd
signum sm3 yogi contrib.acprop contrib.ademamix contrib.adopt contrib.galore contrib.madgrad contrib.momo
contrib.momo_adam contrib.muon contrib.schedule_free_adamw contrib.schedule_free_sgd contrib.simplified_ademamix
contrib.sophia
"""
"""Names that take a learning rate."""

RATES = {"adadelta": 100.0, "lars": 100.0, "contrib.simplified_ademamix": 0.002}
"""Learning rates other than 0.1."""

SCALES = """
centralize identity normalize_by_update_norm scale_by_adam scale_by_adamax scale_by_adan
scale_by_amsgrad scale_by_belief scale_by_factored_rms scale_by_lbfgs scale_by_lion scale_by_novograd
scale_by_optimistic_gradient scale_by_param_block_norm scale_by_param_block_rms scale_by_polyak scale_by_radam
scale_by_rms scale_by_rss scale_by_sign scale_by_sm3 scale_by_stddev scale_by_trust_ratio scale_by_yogi zero_nans
add_decayed_weights apply_every contrib.normalize contrib.reduce_on_plateau contrib.scale_by_acprop
contrib.scale_by_ademamix contrib.scale_by_adopt contrib.scale_by_galore
"""
"""Names that take no arguments and need a separate step size."""

TRAIN: dict[str, Callable[[], Any]] = {
    **{name: call(name, learning_rate=RATES.get(name, 0.1)) for name in OPTIMIZERS.split()},
    **{name: scaled_call(name) for name in SCALES.split()},
    # names with other arguments
    "GradientTransformation": lambda: optax.GradientTransformation(*optax.sgd(0.1)),
    "GradientTransformationExtraArgs": lambda: optax.GradientTransformationExtraArgs(*optax.sgd(0.1)),
    "MultiSteps": lambda: optax.MultiSteps(optax.polyak_sgd(0.2), 2),
    "adaptive_grad_clip": scaled_call("adaptive_grad_clip", clipping=1.0),
    "add_noise": scaled_call("add_noise", eta=1e-4, gamma=0.5, key=0),
    "apply_if_finite": lambda: optax.apply_if_finite(descent(), 3),
    "chain": lambda: optax.chain(optax.clip(1.0), descent()),
    "clip": scaled_call("clip", max_delta=1.0),
    "clip_by_block_rms": scaled_call("clip_by_block_rms", threshold=1.0),
    "clip_by_global_norm": scaled_call("clip_by_global_norm", max_norm=1.0),
    "conditionally_mask": lambda: optax.conditionally_mask(descent(), always),
    "conditionally_transform": lambda: optax.conditionally_transform(descent(), always),
    "ema": scaled_call("ema", decay=0.5),
    "flatten": lambda: optax.flatten(optax.adam(0.1)),
    "freeze": lambda: optax.chain(descent(), call("freeze", mask=vectors)()),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(optax.constant_schedule(0.1), eps=1e-8),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(learning_rate=0.1),
    "keep_params_nonnegative": lambda: optax.chain(descent(), optax.keep_params_nonnegative()),
    "lbfgs": call("lbfgs"),
    "masked": lambda: optax.chain(optax.masked(optax.clip(1.0), vectors), descent()),
    "multi_transform": in_two_groups,
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("sgd", descent())),
    "noisy_sgd": call("noisy_sgd", learning_rate=0.1, key=0),
    "partition": in_two_groups,
    "polyak_sgd": call("polyak_sgd", max_learning_rate=0.1),
    "scale": call("scale", step_size=-0.1),
    "scale_by_adadelta": lambda: optax.chain(optax.scale_by_adadelta(), optax.scale(-100.0)),
    "scale_by_backtracking_linesearch": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "scale_by_distance_over_gradients": lambda: optax.chain(
        optax.scale_by_distance_over_gradients(reps_rel=0.1), optax.scale(-1.0)
    ),
    "scale_by_learning_rate": call("scale_by_learning_rate", learning_rate=0.1),
    "scale_by_rprop": lambda: optax.chain(optax.scale_by_rprop(0.1), optax.scale(-1.0)),
    "scale_by_schedule": call("scale_by_schedule", step_size_fn=as_a_schedule),
    "scale_by_zoom_linesearch": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(10)),
    "selective_transform": lambda: optax.selective_transform(descent(), freeze_mask=False),
    "set_to_zero": lambda: optax.chain(descent(), optax.masked(optax.set_to_zero(), vectors)),
    "snapshot": lambda: optax.chain(optax.snapshot("norm", optax.tree.norm), descent()),
    "stateless": lambda: optax.stateless(lambda updates, params: jax.tree.map(lambda g: -0.1 * g, updates)),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda gradient, param: -0.1 * gradient),
    "trace": scaled_call("trace", decay=0.5),
    "with_extra_args_support": lambda: optax.with_extra_args_support(descent()),
    "contrib.cocob": call("contrib.cocob"),
    "contrib.dadapt_adamw": call("contrib.dadapt_adamw", estim_lr0=0.1),
    "contrib.dog": call("contrib.dog", init_step=("distance", 0.1)),
    "contrib.dowg": call("contrib.dowg", init_estim_sq_dist=0.1),
    "contrib.hutchinson_estimator_diag_hessian": lambda: contrib.sophia(
        0.1, hessian_diagonal_fn=contrib.hutchinson_estimator_diag_hessian(jax.random.PRNGKey(1))
    ),
    "contrib.mechanize": lambda: contrib.mechanize(optax.adam(1.0), s_init=0.1),
    "contrib.prodigy": call("contrib.prodigy", estim_lr0=0.1),
    "contrib.sam": lambda: contrib.sam(descent(), optax.chain(contrib.normalize(), optax.sgd(0.01)), opaque_mode=True),
    "contrib.scale_by_cocob": call("contrib.scale_by_cocob"),
    "contrib.scale_by_madgrad": call("contrib.scale_by_madgrad", learning_rate=0.1),
    "contrib.scale_by_muon": lambda: in_two_groups(
        scaled(
            contrib.scale_by_muon(
                weight_dimension_numbers=lambda tree: jax.tree.map(lambda leaf: contrib.MuonDimensionNumbers(), tree)
            )
        )
    ),
    "contrib.scale_by_simplified_ademamix": lambda: optax.chain(
        contrib.scale_by_simplified_ademamix(), optax.scale(-0.002)
    ),
    "contrib.schedule_free": lambda: contrib.schedule_free(descent(), 0.1),
    "contrib.split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(descent()),
}
"""Names of `optax`, and of `optax.contrib` with the prefix "contrib.", and the optimizer that is trained for each."""

DO_NOT: dict[str, str] = {
    "contrib.differentially_private_aggregate": "it needs per-example gradients",
    "contrib.dpsgd": "it needs per-example gradients",
    "differentially_private_aggregate": "the old name of `optax.contrib.differentially_private_aggregate`",
    "dpsgd": "the old name of `optax.contrib.dpsgd`",
    "measure_with_ema": "a part of `optax.monitor`",
    "monitor": "its state has other leaves after the first update; `fit` reports norms by itself",
    "lookahead": "its parameters are `optax.LookaheadParams`, and the loss takes only one half of them",
}
"""Names that do not train under `fit`, and why."""

NO_OPTIMIZERS = {
    "WrappedSchedule",
    "bias_correction",
    "matrix_inverse_pth_root",
    "sigmoid_binary_cross_entropy",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "contrib.schedule_free_eval_params",
}
"""Names without a return type, or with `init` and `update`, that do not make optimizers."""


def exported() -> set[str]:
    """The names of `optax` and `optax.contrib` that make, or may make, a gradient transformation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # names to be removed
        found = {
            prefix + name: getattr(home, name)
            for prefix, home in (("", optax), ("contrib.", contrib))
            for name in {*dir(home), *getattr(home, "__all__", ())}
            if not name.startswith("_")
        }
    return {name for name, value in found.items() if _may_make_one(value)} - NO_OPTIMIZERS


def _may_make_one(value: Any) -> bool:
    if isinstance(value, type):
        return hasattr(value, "init") and hasattr(value, "update")
    if not callable(value) or typing.get_origin(value) is not None:
        return False
    made = inspect.signature(value).return_annotation
    return made is inspect.Signature.empty or "GradientTransformation" in str(made)


def table() -> str:
    """docs/optimizers.md."""
    of = len(TRAIN) + len(DO_NOT)
    train = "\n\n".join(textwrap.fill(f"{home}: {', '.join(names)}.", 118) for home, names in _by_home(TRAIN))
    refused = "\n".join(f"| `optax.{name}` | {why} |" for name, why in sorted(DO_NOT.items()))
    return f"""# Which of Optax's optimizers train

Written by `python -m tests.training.optimizers` and checked by `tests/training/test_optimizers.py`, which trains a
small problem with each optimizer under `fit` and `fit_many`, and fails if Optax exports a name that is not listed here.
{len(TRAIN)} of the {of} names in Optax 0.2.8 that make an optimizer or a part of one train ({len(TRAIN) / of:.0%}).

## Supported

{train}

## Not supported

| name | reason |
|---|---|
{refused}

## Arguments of `update`

`fit` passes `value`, `grad`, `value_fn`, `obj_fn` and `grad_fn` for the step's own batch and key (see
`rnnjax/training/optimizers.py`). A transformation that does not accept one of them, such as `optax.contrib.sam`, is
called without it.

- `fit` stops at, or skips, a step with a non-finite loss or gradient before the optimizer runs: `apply_if_finite` and
  `zero_nans` never receive one.
- `contrib.galore` calls LAPACK at some updates; in a program with a time loop this can deadlock on a CPU unless
  `OPENBLAS_NUM_THREADS=1`.
- Integer, boolean and PRNG-key parameters are not trained and are not passed to the optimizer.
"""


def _by_home(names: Any) -> list[tuple[str, list[str]]]:
    ours = [f"`{name.removeprefix('contrib.')}`" for name in sorted(names) if name.startswith("contrib.")]
    return [("`optax`", [f"`{name}`" for name in sorted(names) if "." not in name]), ("`optax.contrib`", ours)]


if __name__ == "__main__":
    sys.exit(TABLE.write_text(table(), encoding="utf-8") == 0)
