"""Before training: the adjoint's rate, the Lyapunov exponent of the same rows, and cases where both are known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from experiments.collapse.networks import CELLS, SETTINGS, TASKS, closed_form, draw, logits
from rnnjax.gradients import adjoint, leading_exponent, theory
from rnnjax.tasks import cross_entropy

STEPS, ROWS = 340, 4
NEAR, FAR = 40, 300  # lags between which the slope is taken: past the readout's transient, short of the start


def measure_rates(cell_name: str, task_name: str, hidden_size: int, seeds: int, seed: int) -> dict[str, Any]:
    """Every setting of a cell on a task's inputs, float64: lists over settings of lists over seeds; closed forms."""
    cell, task = CELLS[cell_name](hidden_size), TASKS[task_name]
    settings = SETTINGS[cell_name]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), seeds)
        gains, biases = (jnp.array([getattr(s, name) for s in settings]) for name in ("gain", "bias"))
        networks = jax.jit(
            jax.vmap(jax.vmap(lambda k, g, b: draw(cell, task, k, g, b, "float64"), (0, None, None)), (None, 0, 0))
        )(keys, gains, biases)
        batch = task.draw(jax.random.fold_in(keys[0], 1), STEPS, (ROWS,), dtype="float64")

        @jax.jit
        @jax.vmap
        @jax.vmap
        def both(network: Any):
            found = adjoint(cell, network.rnn, batch.xs, lambda ys: cross_entropy(logits(ys, network), batch)).log_norm
            lags = jnp.arange(NEAR, FAR + 1)
            curve = found[STEPS - lags].mean(axis=1)
            centred = (lags - lags.mean()) / jnp.sum((lags - lags.mean()) ** 2)
            exponent = leading_exponent(cell, network.rnn, batch.xs, transient=STEPS - FAR).exponent
            return (centred * curve).sum(), exponent.mean(), found.mean(axis=1)

        rates, exponents, curves = map(np.asarray, both(networks))
    return {
        "settings": [{"gain": s.gain, "bias": s.bias} for s in settings],
        "adjoint_rates": rates.tolist(),
        "exponents": exponents.tolist(),
        "closed_forms": [closed_form(cell_name, task, s) for s in settings],
        "log_norm_at_lag": curves.mean(axis=1)[:, ::-1][:, ::20].tolist(),
    }


def exact_cases(hidden_size: int) -> list[dict[str, Any]]:
    """Where all three are known: scaled rotations, and gates with W2 = 0 and no input. Float64."""
    cases = []
    with jax.enable_x64(True):
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(hidden_size, hidden_size)))[0]
        linear = rnnjax.Elman(hidden_size, "linear")
        for scale in (0.5, 0.8, 0.95, 1.1):
            params = rnnjax.ElmanParams(
                jnp.ones((1, hidden_size)), jnp.asarray(scale * rotation), jnp.zeros(hidden_size)
            )
            cases.append(_exact("linear, scaled rotation", linear, params, np.log(scale)))
        for name, cell in (("lstm", rnnjax.LSTM(hidden_size)), ("gru", rnnjax.GRU(hidden_size))):
            shapes = jax.eval_shape(lambda key, cell=cell: cell.init(key, 1, jnp.float64), jax.random.key(0))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            for bias in (-1.0, 0.0, 1.0, 3.0):
                params = zeros._replace(b=zeros.b.at[hidden_size : 2 * hidden_size].set(bias))
                cases.append(_exact(f"{name}, W2 = 0", cell, params, float(theory.forget_gate_exponent(bias))))
    return cases


def _exact(name: str, cell: Any, params: Any, closed: float) -> dict[str, Any]:
    xs = jnp.zeros((STEPS, 1))

    @jax.jit
    def both(params: Any):
        weights = jnp.cos(jnp.arange(cell.hidden_size, dtype=xs.dtype))
        found = adjoint(cell, params, xs, lambda ys: ys[-1] @ weights).log_norm
        rate = (found[STEPS - FAR] - found[STEPS - NEAR]) / (FAR - NEAR)
        return rate, leading_exponent(cell, params, xs, transient=STEPS - FAR).exponent

    rate, exponent = both(params)
    return {"case": name, "closed_form": float(closed), "adjoint_rate": float(rate), "exponent": float(exponent)}
