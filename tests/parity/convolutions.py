"""Convolutional cells in other libraries; the step runs in `jax.lax.scan` here."""

# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.libraries import Programs, require
from benchmarks.problems import Point, Problem, programs
from rnnjax import cells
from tests.parity import paper

SPACES = {1: (5,), 2: (4, 3), 3: (3, 2, 4)}
STEPS = {"conv_lstm": paper.conv_lstm, "conv_gru": paper.conv_gru}


def made(cell: str, axes: int) -> tuple[Any, Problem]:
    """A convolutional cell over one to three axes, and a problem: `xs` is `[T, B, *space, D]`."""
    point, space = Point(B=2, T=4, D=3, H=4), SPACES[axes]
    conv = cells.convolutional()[cell](point.H, space)
    kernel, width = (3,) * axes, {"conv_lstm": 4, "conv_gru": 3}[cell] * point.H
    shapes = {"w_x": (*kernel, point.D, width), "w_h": (*kernel, point.H, width), "b": (width,)}
    zeros = {name: np.zeros(shape) for name, shape in shapes.items()}
    return conv, Problem(cell, point, zeros, np.zeros((point.T, point.B, *space, point.D)), None)


def _programs(problem: Problem, run: Callable, layout: Callable, **options: Any) -> Programs:
    """The space of `ys` is flattened."""
    return programs(problem, lambda *args: (ys := run(*args)).reshape(*ys.shape[:2], -1), layout, **options)


def _params(weights: Any) -> cells.ConvParams:
    return cells.ConvParams(**weights)


def scanned(conv: Any, problem: Problem) -> Programs:
    """Our step."""

    def run(params: Any, xs: Any, lengths: Any) -> Any:
        step = functools.partial(conv.step, params)
        return lax.scan(step, conv.initial_carry(params, (xs.shape[1],)), xs)[1]

    return _programs(problem, run, _params)


def from_paper(conv: Any, problem: Problem) -> Programs:
    return paper.unrolled(problem, STEPS[problem.cell], conv, _params)


def _swapped(weight: Any) -> Any:
    """From i, f, g, o to i, g, f, o."""
    i, f, g, o = jnp.split(weight, 4, -1)
    return jnp.concatenate([i, g, f, o], -1)


def _bias(problem: Problem, b: Any) -> Any:
    """In the order i, g, f, o, less the one that their steps add to f."""
    return _swapped(b) - jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0], b.dtype), problem.point.H)


def flax_linen(conv: Any, problem: Problem) -> Programs:
    """`nn.ConvLSTMCell`, which has two biases that are added."""
    require("flax")
    from flax import linen as nn

    kernel = (3,) * len(conv.shape)
    model = nn.RNN(nn.ConvLSTMCell(problem.point.H, kernel, param_dtype=problem.xs.dtype), time_major=True)

    def layout(weights: Any) -> Any:
        inner = {"kernel": _swapped(weights["w_h"]), "bias": jnp.zeros_like(weights["b"])}
        return {"ih": {"kernel": _swapped(weights["w_x"]), "bias": _bias(problem, weights["b"])}, "hh": inner}

    return _programs(problem, lambda params, xs, _: model.apply({"params": {"cell": params}}, xs), layout)


def haiku(conv: Any, problem: Problem) -> Programs:
    """`hk.Conv1DLSTM` to `hk.Conv3DLSTM`, which have two biases that are added."""
    require("haiku")
    import haiku as hk

    kind: Any = {1: hk.Conv1DLSTM, 2: hk.Conv2DLSTM, 3: hk.Conv3DLSTM}[len(conv.shape)]

    def unrolled(xs: Any) -> Any:
        core = kind(input_shape=conv.shape, output_channels=problem.point.H, kernel_shape=3, name="core")
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    model = hk.without_apply_rng(hk.transform(unrolled))

    def layout(weights: Any) -> Any:
        inner = {"w": _swapped(weights["w_h"]), "b": jnp.zeros_like(weights["b"])}
        outer = {"w": _swapped(weights["w_x"]), "b": _bias(problem, weights["b"])}
        names = [f"core/{name}_to_hidden" for name in ("input", "hidden")]
        return dict(zip(names, (outer, inner), strict=True))

    return _programs(problem, lambda params, xs, _: model.apply(params, xs), layout)


def keras(conv: Any, problem: Problem) -> Programs:
    """The layers `ConvLSTM1D` to `ConvLSTM3D`, batch-major."""
    require("keras")
    import keras

    B, T, D, H = problem.point
    layers = keras.layers
    kind: Any = {1: layers.ConvLSTM1D, 2: layers.ConvLSTM2D, 3: layers.ConvLSTM3D}[len(conv.shape)]
    layer = kind(H, 3, padding="same", return_sequences=True, dtype=problem.xs.dtype.name)
    layer.build((B, T, *conv.shape, D))
    state = [variable.value for variable in layer.non_trainable_variables]

    def run(params: Any, xs: Any, lengths: Any) -> Any:
        return layer.stateless_call(params, state, xs)[0]

    return _programs(problem, run, lambda w: [w["w_x"], w["w_h"], w["b"]], batch_major=True)
