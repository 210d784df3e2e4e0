"""Runs `experiments.lstm_memory`; see its docstring."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np

from experiments import harness, lstm_memory
from experiments.lstm_memory.figure import label, memory_figure
from experiments.lstm_memory.measure import SETTINGS, Retention, mean_share, rate, retention
from rnnjax.gradients import theory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(harness.CommonOptions):
    """Memory of an LSTM's cell state by the initialisation of its forget gates."""

    inits: tuple[str, ...] = ("0", "1", "5", "chrono")
    """Forget biases, or "chrono"."""
    t_max: int = 500
    """Chrono's T_max, the longest dependency it is meant for [steps]."""
    hidden_size: int = 128
    """H [units]."""
    steps: int = 1000
    """Length of the sequences [steps]."""
    seeds: int = 8
    """How many networks are drawn per initialisation."""

    def check(self) -> None:
        super().check()
        if not self.inits:
            raise harness.UsageError("--inits is empty; give forget biases, or chrono.")
        for init in self.inits:
            if init != "chrono" and not _finite(init):
                raise harness.UsageError(f"--inits {init}: give a finite number, or chrono.")
        for name, least in (("hidden_size", 1), ("seeds", 2), ("t_max", 3), ("steps", 20)):
            if getattr(self, name) < least:
                raise harness.UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least {least}.")


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def measure(run: harness.Run[Options]) -> harness.Outcome:
    options, rows, residuals, curves, closed = run.options, [], [], {}, {}
    sizes = {name: getattr(options, name) for name in ("hidden_size", "steps", "t_max", "seeds", "seed")}
    with run.progress("settings", len(options.inits) * len(SETTINGS)) as advance:
        for init in options.inits:
            closed[init] = log10_closed_form(init, options.steps, options.t_max)
            for setting in SETTINGS:
                defines = {"init": init, "setting": setting, **sizes}
                kept = run.rows.compute(defines, lambda d=defines: _measure(**d))
                rows.append({"init": init, "setting": setting} | kept.values)
                curves[init, setting] = kept.arrays
                if setting == "closed":
                    residuals += _residuals(init, kept.arrays, closed[init], options)
                advance(note=f"{label(init, options.t_max)}, {setting}")
    with harness.plotting():
        drawn = memory_figure(run, curves, closed, options.t_max)
    tables = [
        run.show(harness.residual_table(residuals, "Share of dL/dc that is left, W_h = 0: measured and closed form")),
        run.show(harness.Table.of(rows, caption="Rates and time constants of dL/dc")),
    ]
    return harness.Outcome(
        summary={"rows": rows, "residuals": residuals},
        report=[harness.Text("What is to be seen", _reading(rows, residuals)), drawn, *tables],
    )


def log10_closed_form(init: str, steps: int, t_max: int) -> np.ndarray:
    """log10 of the mean share at lags 0..steps-1."""
    lags = np.arange(steps)
    if init == "chrono":
        return np.log10(theory.chrono_decay(lags, t_max))
    return lags * theory.forget_gate_exponent(float(init)) / math.log(10)


def _measure(**defines: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found = retention(**defines)
    init, setting = defines["init"], defines["setting"]
    log_share = _log_share(found, setting)
    share, last = log_share - log_share[:, :1], log_share.shape[1] - 1
    # One gate leaves exp(-k/τ); the mean over chrono's units is no exponential, so it has no rate.
    rates = [] if init == "chrono" else [rate(each, last // 10) for each in share]
    mean = float(np.mean(rates)) if rates else None
    values = {
        "rate_nats_per_step": mean,
        "rate_nats_per_step_std": float(np.std(rates)) if rates else None,
        "time_constant_steps": -1 / mean if mean is not None and mean < 0 else None,
        "closed_form_rate_nats_per_step": None if init == "chrono" else theory.forget_gate_exponent(float(init)),
        "log10_share_at_last_lag_mean": float(share[:, -1].mean() / math.log(10)),
        "last_lag_steps": last,
    }
    curves = {"mean": share.mean(axis=0) / math.log(10), "std": share.std(axis=0) / math.log(10)}
    return values, curves | {"by_seed": share / math.log(10)}


def _log_share(found: Retention, setting: str) -> np.ndarray:
    """`[S, T]` nats: the mean over units where they are apart, the norm where they mix."""
    if setting == "driven":
        return found.log_norm_c
    largest = found.log_share.max(axis=-1, keepdims=True)  # or the mean of e^-693 would be 0
    return largest[..., 0] + np.log(mean_share(found.log_share - largest))


def _residuals(init: str, arrays: dict[str, np.ndarray], closed: np.ndarray, options: Options) -> list[dict[str, Any]]:
    """At lag 50 and T_max, or as far as the sequence goes."""
    found = []
    for lag in sorted({min(50, options.steps - 1), min(options.t_max, options.steps - 1)}):
        shares = 10.0 ** arrays["by_seed"][:, lag]
        quantity = f"{label(init, options.t_max)}, share left at lag {lag}"
        found.append(harness.residual(quantity, shares.mean(), 10.0 ** closed[lag], unit="1", samples=shares.tolist()))
    return found


def _reading(rows: list[dict[str, Any]], residuals: list[dict[str, Any]]) -> list[str]:
    exact = [abs(each["relative_residual"]) for each in residuals if not each["quantity"].startswith("chrono")]
    chrono = [each for each in residuals if each["quantity"].startswith("chrono")]
    lines = []
    if exact:
        lines.append(f"With W_h = 0 the measured share is σ(b_f)^k within {max(exact):.1e}, relative.")
    lines += [
        f"{each['quantity']}: {each['measured']:.4f} ± {each['standard_error']:.4f}, closed form {each['theory']:.4f}."
        for each in chrono
    ]
    for row in rows:
        if row["setting"] == "driven" and row["rate_nats_per_step"] is not None:
            lines.append(
                f"As initialised and driven, forget bias {row['init']}: {row['rate_nats_per_step']:+.3g} nats a step, "
                f"against {row['closed_form_rate_nats_per_step']:.3g} of the gate alone."
            )
    return lines


EXPERIMENT = harness.Experiment(
    "lstm_memory",
    lstm_memory.__doc__ or "",
    Options,
    measure,
    quick={"steps": 501, "seeds": 4, "hidden_size": 64},
    code=("rnnjax", "experiments.lstm_memory.measure"),
    x64=True,
)

if __name__ == "__main__":
    sys.exit(harness.launch(EXPERIMENT))
