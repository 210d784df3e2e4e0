"""How long an LSTM remembers, by the initialisation of its forget gates.

Question: what share of the gradient is left in the cell state k steps back, for forget biases 0, 1 and 5 and for chrono
initialisation?
Command: python -m experiments.lstm_memory
Minutes: 0.5 on one core; 0.3 with --quick.
Expected: with W_h = 0 each step leaves exactly σ(b_f) of the gradient in the cell state: 0.5 for b_f = 0 (the lecture's
vanishing network), 0.731 for 1, and for 5 a time constant of 149 steps. Chrono initialisation, b_f = log u with u
uniform on [1, T_max - 1], leaves on average 0.725 at lag 50 and 0.149 at lag 500 for T_max = 500; its decay is not
exponential. With orthogonal W_h and white noise as input, gradient also flows through the gates: b_f = 0 and 1 decay
about 40% more slowly, with b_f = 5 the gradient even grows, and chrono stays near its closed form.

The share is |dL/dc_(T-1-k)| / |dL/dc_(T-1)|, from the exact log-adjoint in float64, where L is the sum of the last
hidden state. The setting "closed" has W_h = 0 and no input, as the closed form assumes, and takes the mean over units.
The setting "driven" is the cell as initialised (orthogonal W_h per gate, LeCun W_x) with white noise as input, and
takes the norm over units.

References: Tallec and Ollivier, Can recurrent neural networks warp time?, ICLR 2018 (chrono); Jozefowicz, Zaremba and
Sutskever, An empirical exploration of recurrent network architectures, ICML 2015 (b_f = 1).
"""

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jax import Array
from pydantic import PositiveInt

import rnnjax
from rnnjax import gradients
from rnnjax.gradients import theory

from . import lab
from .lab import style

INPUT_SIZE = 3
SETTINGS = ("closed", "driven")


@lab.options(quick={"steps": 501, "seeds": 4, "hidden_size": 64})
class Options(lab.Options):
    """Memory of an LSTM's cell state by the initialisation of its forget gates."""

    inits: lab.Distinct[str] = ("0", "1", "5", "chrono")
    """Forget biases, or "chrono"."""
    t_max: Annotated[int, Ge(3)] = 500
    """Chrono's T_max, the longest dependency it is meant for [steps]."""
    hidden_size: PositiveInt = 128
    """H [units]."""
    steps: Annotated[int, Ge(20)] = 1000
    """Length of the sequences [steps]."""
    seeds: Annotated[int, Ge(2)] = 8
    """How many networks are drawn per initialisation."""

    def check(self) -> None:
        for init in self.inits:
            try:
                valid = init == "chrono" or math.isfinite(float(init))
            except ValueError:
                valid = False
            if not valid:
                raise lab.UsageError(f"--inits {init}: give a finite number, or chrono.")


def memory(
    init: str, setting: str, hidden_size: int, steps: int, t_max: int, seed: int, network: int
) -> dict[str, Any]:
    """What is left of dL/dc by lag, in one network: the one at index `network` of those that `seed` draws.

    Returns:
      `log_share`: `[T]` nats, log of the share at lags 0..T-1.
      `rate_nats_per_step`: its slope over the last nine tenths; None for chrono, which is not exponential.
    """
    key = jax.random.split(jax.random.key(seed), network + 1)[network]
    key_params, key_bias, key_input = jax.random.split(key, 3)
    cell = rnnjax.LSTM(hidden_size)
    params = cell.init(key_params, INPUT_SIZE, "float64")
    forget = forget_biases(init, hidden_size, t_max, key_bias)
    b = params.b.at[hidden_size : 2 * hidden_size].set(forget)
    if init == "chrono":
        b = b.at[:hidden_size].set(-forget)  # of the input gate
    xs = jax.random.normal(key_input, (steps, INPUT_SIZE), "float64")
    if setting == "closed":
        params, xs = params._replace(w_h=jnp.zeros_like(params.w_h)), jnp.zeros_like(xs)

    log_units, log_norm = _log_adjoint_of_c(cell, params._replace(b=b), xs, np.ones(hidden_size))
    log_size = np.logaddexp.reduce(log_units - log_units[0], axis=1) if setting == "closed" else log_norm
    log_share = np.asarray(log_size - log_size[0])
    return {
        "log_share": log_share,
        "rate_nats_per_step": None if init == "chrono" else rate(log_share, (steps - 1) // 10),
    }


def forget_biases(init: str, hidden_size: int, t_max: int, key: Array) -> Array:
    """`[H]`: the number `init` for every unit, or log u with u uniform on [1, T_max - 1] for "chrono"."""
    if init == "chrono":
        return rnnjax.initializers.Chrono(t_max)(key, (hidden_size,), "float64")
    return jnp.full(hidden_size, float(init), "float64")


@functools.partial(jax.jit, static_argnums=0)
def _log_adjoint_of_c(cell: rnnjax.LSTM, params: rnnjax.LSTMParams, xs: Array, ones: Array) -> tuple[Array, Array]:
    """log |dL/dc| of each unit, `[T, H]`, and of all, `[T]`, from c_(T-1) back: L depends on c_T through h_T alone.

    `ones` is an argument because XLA would spend seconds on folding the gradient of a loss without arguments.
    """
    found = gradients.adjoint(cell, params, xs, lambda ys: ys[-1] @ ones)
    log_units = found.log_norm[:, None] + jnp.log(jnp.abs(found.direction.c))
    return log_units[-2::-1], found.log_norm_by_part.c[-2::-1]


def rate(log_share: np.ndarray, from_lag: int) -> float:
    """Slope of the log share `[T]` from a lag on [nats/step]."""
    return float(np.polyfit(np.arange(from_lag, len(log_share)), log_share[from_lag:], 1)[0])


def log10_closed_form(init: str, steps: int, t_max: int) -> np.ndarray:
    """log10 of the mean share at lags 0..steps-1: σ(b_f)^k, and the mean of (u/(1 + u))^k for chrono."""
    lags = np.arange(steps)
    if init == "chrono":
        return np.log10(theory.chrono_decay(lags, t_max))
    return lags * theory.forget_gate_exponent(float(init)) / math.log(10)


def measure(options: Options, run: lab.Run) -> list[lab.Row]:
    sizes = {name: getattr(options, name) for name in ("hidden_size", "steps", "t_max", "seed")}
    asked = [
        {"init": init, "setting": setting, "network": network, **sizes}
        for init in options.inits
        for setting in SETTINGS
        for network in range(options.seeds)
    ]
    return run.rows(memory, asked, "networks")


def draw(rows: list[lab.Row], page: lab.Page) -> None:
    options, table, residuals, lines = page.options, [], [], []
    lags = np.arange(options.steps)
    some = np.unique(np.geomspace(1, options.steps - 1, 14).astype(int))
    fig, axes = style.figures(1, 2, 9.6, 4.4, sharey=True)
    for i, init in enumerate(options.inits):
        label = f"chrono, T_max = {options.t_max}" if init == "chrono" else f"forget bias {init}"
        closed = log10_closed_form(init, options.steps, options.t_max)
        for ax, setting in zip(axes[0], SETTINGS, strict=True):
            networks = [row for row in rows if (row["init"], row["setting"]) == (init, setting)]
            share = np.array([row["log_share"] for row in networks]) / math.log(10)
            ax.plot(lags[1:], closed[1:], **style.curve(i))
            ax.errorbar(some, share.mean(0)[some], share.std(0)[some], **style.markers(i), label=label)
            table.append(found := _over_networks(networks))
            if setting == "closed":
                for lag in sorted({min(50, lags[-1]), min(options.t_max, lags[-1])}):
                    samples, expected = 10.0 ** share[:, lag], 10.0 ** closed[lag]
                    quantity = f"{label}, share left at lag {lag}"
                    residuals.append(lab.residual(quantity, samples.mean(), expected, unit="1", samples=samples))
            elif init != "chrono":
                measured, gate = found["rate_nats_per_step"], found["closed_form_rate_nats_per_step"]
                lines.append(f"Driven, {label}: {measured:+.3g} nats per step; the gate alone {gate:.3g}.")
    for ax, title in zip(axes[0], ("W_h = 0, no input", "as initialised, driven by white noise"), strict=True):
        ax.set(title=title, xlabel="lag [steps]", xscale="log", ylim=(-12, 4.5))
    axes[0, 0].set_ylabel("share of dL/dc that is left, log10 [decades]")
    axes[0, 1].legend(loc="lower left")
    style.letters(axes)

    errors = [abs(each["relative_residual"]) for each in residuals if not each["quantity"].startswith("chrono")]
    exact = f"With W_h = 0 the measured share is σ(b_f)^k, with relative errors up to {max(errors, default=0):.1e}."
    page.text("Results", [exact, *lines] if errors else lines)
    page.figure(
        "memory",
        fig,
        alt="Share of the cell state's gradient that is left against lag, for each initialisation. On the left the "
        "markers lie on the closed-form lines, on the right near them.",
        caption="Measured (markers, one standard deviation over networks) and closed form (lines): σ(b_f)^k, and the "
        "mean of (u/(1 + u))^k for chrono. (a) The case of the closed form, mean over units. (b) With orthogonal W_h "
        "and white noise as input, norm over units; the closed form is drawn for comparison.",
    )
    page.residuals(residuals, "Share of dL/dc that is left for W_h = 0: measured and closed form")
    page.table(table, caption="Rates and time constants of dL/dc")
    page.summary |= {"rows": table, "residuals": residuals}


def _over_networks(rows: list[lab.Row]) -> dict[str, Any]:
    init, log_shares = rows[0]["init"], np.array([row["log_share"] for row in rows])
    rates = [row["rate_nats_per_step"] for row in rows if init != "chrono"]
    mean = float(np.mean(rates)) if rates else None
    return {
        "init": init,
        "setting": rows[0]["setting"],
        "rate_nats_per_step": mean,
        "rate_nats_per_step_std": float(np.std(rates)) if rates else None,
        "time_constant_steps": -1 / mean if mean and mean < 0 else None,
        "closed_form_rate_nats_per_step": theory.forget_gate_exponent(float(init)) if rates else None,
        "log10_share_at_last_lag_mean": float(log_shares[:, -1].mean() / math.log(10)),
        "last_lag_steps": log_shares.shape[1] - 1,
    }


experiment = lab.Experiment(Options, measure, draw, x64=True)

if __name__ == "__main__":
    experiment.main()
