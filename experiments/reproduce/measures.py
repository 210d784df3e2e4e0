"""The measurements behind the table of published numbers. The table has their names.

Each function takes the row's arguments and returns numbers by key: a single number, or a list over seeds, of which the
table shows the mean. "seeds" and "spread" say over how many seeds a single number was taken, and their deviation.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnjax import tasks
from rnnjax.gradients import theory

from .. import cliff, temporal_order
from ..curse_of_memory import second_moments
from ..driven_edge import AROUND, leading_exponents, zero_crossing
from ..float_horizon import death_lags, gradient_curves
from ..gradient_decay import scalar_case
from ..linear_spectra import norms, scalar, spectrum
from ..lstm_memory import memory, rate
from ..statland.published import COMPANIES
from ..statland.training import forward, lstm_prediction, published_network
from ..tanh_phase_diagram import leading_and_mean, whole_spectrum
from .recipes import adding_errors, order_learned

Found = dict[str, Any]

EXPRESSIONS: dict[str, Any] = {
    "gradient 50 steps back in a linear unit": lambda w2: scalar_case(w2)["gradient"],
    "prediction for a company": lambda name: float(lstm_prediction(COMPANIES[name])),
    "dL/dw of a linear unit over T w^(T-1)": lambda w, steps: (
        scalar(w, steps)["weight_gradient"] / (steps * w ** (steps - 1))
    ),
    "top exponent of fresh matrices": lambda size: theory.ginibre_exponents(size)[0],
    "bottom exponent of fresh matrices": lambda size: theory.ginibre_exponents(size)[-1],
    "mean-field exponent": theory.tanh_lyapunov_exponent,
    "critical gain": theory.critical_gain,
    "chrono": theory.chrono_decay,
    "curse of memory": lambda pole: theory.curse_of_memory(pole).sensitivity,
    "adding": lambda low, high: tasks.adding_baseline(low, high).loss,
    "copy memory": lambda delay: tasks.copy_memory_baseline(delay).loss,
}


def expression(of: str, at: list[Any]) -> Found:
    return {"value": EXPRESSIONS[of](*at)}


def statland(days: list[str]) -> Found:
    predictions, hidden = forward(published_network(), [days])
    return {"prediction": float(predictions[0]), "hidden": float(hidden[0])}


def orthogonal_exponents(steps: int) -> Found:
    """The exponent furthest from log s, s = 0.5, over log s."""
    found = spectrum("orthogonal", 64, 0.5, steps, 0)["exponents"] / math.log(0.5)
    return {"value": found[np.abs(found - 1).argmax()]}


def newman(steps: int, seeds: int) -> Found:
    found = np.array([spectrum("fresh", 64, 1.0, steps, seed)["exponents"] for seed in range(seeds)])
    return {"top": found[:, 0], "bottom": found[:, -1]}


def mean_squared_norm(matrices: str, draws: int) -> Found:
    """log10 of the mean squared norm at lag 50, H = 64, g = 1."""
    return {"value": norms(matrices, 64, 1.0, 50, draws, 0)["log10_mean_squared_norm"], "seeds": draws}


def edge_of_chaos(variance: float, hidden_size: int, steps: int, seeds: int) -> Found:
    """The gain at which the measured leading exponent crosses zero."""
    edge = float(theory.critical_gain(variance))
    gains = tuple(round(edge * share, 6) for share in AROUND)
    found = [leading_exponents(hidden_size, gains, variance, steps, steps // 5, seed) for seed in range(seeds)]
    return {"value": [zero_crossing(np.array(gains), np.array(each["leading"])) for each in found]}


def tanh_exponents(hidden_size: int, steps: int, seeds: int) -> Found:
    """Leading and mean exponent at gains 2 and 3."""
    found = [leading_and_mean(hidden_size, (2.0, 3.0), steps, steps // 5, seed) for seed in range(seeds)]
    return {f"{name}-g{2 + i}": [each[name][i] for each in found] for name in ("leading", "mean") for i in range(2)}


def tanh_dimension(gain: float, hidden_size: int, steps: int, seeds: int) -> Found:
    spectra = [whole_spectrum(hidden_size, gain, steps, steps // 5, seed) for seed in range(seeds)]
    return {"value": [each["dimension_over_size"] for each in spectra]}


def forget_gate(bias: str) -> Found:
    """An LSTM without recurrent weights: the share of the cell's gradient kept per step, and its time constant."""
    slope = rate(memory(bias, "closed", 2, 60, 500, 0, 0)["log_share"], 1)
    return {"kept_per_step": math.exp(slope), "time_constant_steps": -1 / slope}


def chrono(hidden_size: int, seeds: int) -> Found:
    found = [memory("chrono", "closed", hidden_size, 501, 500, 0, seed)["log_share"] for seed in range(seeds)]
    return {f"lag-{lag}": [math.exp(log_share[lag]) for log_share in found] for lag in (50, 500)}


def curse(sequences: int) -> Found:
    return second_moments(0.9, sequences, 4000, 0)


def adding_lstm() -> Found:
    errors = adding_errors("lstm", 100, 8000, 3)
    return {"value": np.median(errors), "seeds": len(errors), "spread": np.std(errors, ddof=1)}


def adding_rnn(seeds: int) -> Found:
    """Seeds either learn or stay near the best constant: a mean of all would describe neither."""
    constant = tasks.adding_baseline(-1.0, 1.0).loss
    return {"value": [error for error in adding_errors("rnn", 100, 8000, seeds) if error < constant / 2]}


def order(cell: str) -> Found:
    """How many of five seeds learn temporal order, and the median of sequences until then."""
    found = order_learned(cell, 1500, 5)
    return {"solved": np.isfinite(found).sum(), "sequences": np.median(found), "seeds": len(found)}


def cliff_wall() -> Found:
    """‖∇E‖ where x_0 is a repelling fixed point over its closed form, w = 5.5, T = 50."""
    ws = np.array([5.5])
    _, found = cliff.value_and_gradient(ws, cliff.wall(ws), 50)
    return {"value": np.hypot(found.w, found.b)[0] / np.hypot(*cliff.gradient_on_wall(ws, 50))[0]}


def order_pascanu(method: str) -> Found:
    """Which of five networks of 50 smart tanh units learn T = 50."""
    common = {"initialisation": "smart tanh", "steps": 50, "method": method, "seed": 0, "hidden_size": 50}
    common |= {"omega_weight": 4.0 if "Ω" in method else 0.0, "updates": 4000, "batch": 20, "rate": 0.1}
    with jax.enable_x64(False):
        found = temporal_order.train([common | {"max_norm": 1.0, "index": index} for index in range(5)])
    return {"value": np.mean([each["solved"] for each in found]), "seeds": 5}


def tanh_norm_at_100(seeds: int) -> Found:
    """Orthogonal tanh networks, H = 32, scale 1, driven by white noise: log10 of the norm, and where float32 has 0."""
    found = gradient_curves("tanh", 1.0, range(seeds), 32, 100, 0)
    dead = found.plain["norm", "float32"][:, -1] == 0
    return {"log10_norm": found.log_norm[:, -1] / np.log(10), "float32_dead": dead.mean(), "seeds": seeds}


def half_dies(dtype: str, steps: int) -> Found:
    """The lag at which the norm is 0 in four orthogonal linear networks of scale 0.5."""
    return {"value": death_lags(gradient_curves("linear", 0.5, range(4), 32, steps, 0).plain["norm", dtype])}


def tanh_slope_rounded() -> Found:
    """Relative error of (1 + y)(1 - y), JAX's rule for the slope, with y = tanh(8) rounded to the nearest float32."""
    y = np.float32(np.tanh(8.0))
    return {"value": abs(float((1 + y) * (1 - y)) * float(np.cosh(8.0)) ** 2 - 1)}


def tanh_slope_jax() -> Found:
    """By JAX: XLA's tanh on a CPU is exactly 1 from 8 on, so the slope is 0 there."""
    slopes = {x: float(jax.grad(jnp.tanh)(jnp.float32(x))) for x in (8.0, 9.5)}
    return {"relative_error": abs(slopes[8.0] * float(np.cosh(8.0)) ** 2 - 1), "slope_at_9.5": slopes[9.5]}


def optax_clip() -> Found:
    """`optax.clip_by_global_norm` of a finite float32 gradient of 1e30, of (inf, 1), and of zeros to norm 0."""

    def clipped(max_norm: float, *gradient: float) -> np.ndarray:
        clip, given = optax.clip_by_global_norm(max_norm), jnp.array(gradient, jnp.float32)
        return np.asarray(clip.update(given, clip.init(given))[0])

    at_inf, beside = clipped(1.0, float("inf"), 1.0)
    return {
        "largest_of_1e30": np.abs(clipped(1.0, 1e30, 1e30, 1e30)).max(),
        "nan_and_0_of_inf": float(np.isnan(at_inf) and beside == 0),
        "nan_of_zeros": np.isnan(clipped(0.0, 0.0, 0.0)).mean(),
    }


def pascanu_bound() -> Found:
    """Share of orthogonal tanh networks whose gradient rate lies below log(γ σ_max); every σ is the scale."""
    below = []
    for scale in (0.3, 1.0, 3.0):
        found = gradient_curves("tanh", scale, range(4), 16, 60, 0).log_norm
        below += list((found[:, -1] - found[:, 0]) / 60 <= float(theory.pascanu_bound(scale * np.eye(16))) + 1e-12)
    return {"value": np.mean(below), "seeds": len(below)}
