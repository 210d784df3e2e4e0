"""Closed forms for gradient decay, to compare with measurements: in NumPy with float64, or in JAX for given inputs.

Rates and exponents are in nats per step. W_h ~ N(0, g²/H) with gain g; the lag k = T - t counts steps back.
"""

from rnnjax.gradients.theory.bounds import pascanu_bound
from rnnjax.gradients.theory.gates import chrono_decay, forget_gate_exponent, forget_gate_time
from rnnjax.gradients.theory.matrices import circular_law_exponents, frozen_exponents, ginibre_exponents
from rnnjax.gradients.theory.mean_field import critical_gain, tanh_lyapunov_exponent, tanh_mean_exponent, tanh_variance
from rnnjax.gradients.theory.memory import MemoryCurse, curse_of_memory
from rnnjax.gradients.theory.rates import linear_rate, relu_mean_field_rate, tanh_mean_field_rates

__all__ = [
    "MemoryCurse",
    "chrono_decay",
    "circular_law_exponents",
    "critical_gain",
    "curse_of_memory",
    "forget_gate_exponent",
    "forget_gate_time",
    "frozen_exponents",
    "ginibre_exponents",
    "linear_rate",
    "pascanu_bound",
    "relu_mean_field_rate",
    "tanh_lyapunov_exponent",
    "tanh_mean_exponent",
    "tanh_mean_field_rates",
    "tanh_variance",
]
