"""Rates of gradient decay for a given input or a given matrix, in JAX.

Mean field: with W_h ~ N(0, g²/H) and large H, the pre-activations of a step are Gaussian with variance C_t, and the
squared norm of a perturbation, forwards or backwards, grows by g² E[φ'(√C_t z)²] per step, z ~ N(0, 1).

Reference: Sompolinsky, Crisanti and Sommers, Phys. Rev. Lett. 61 (1988), 259; with input: Molgedey, Schuchhardt and
Schuster, Phys. Rev. Lett. 69 (1992), 3717.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike


def tanh_mean_field_rates(gain: ArrayLike, input_variances: ArrayLike) -> Array:
    """The growth of a gradient at each step of a tanh network with a given input, in nats.

        C_t = g² E[tanh²(√C_{t-1} z)] + σ²_t,   C_0 = 0            rate_t = ½ log(g² E[(1 - tanh²(√C_t z))²])

    Args:
      gain: g, a scalar; for an orthogonal W_h its scale.
      input_variances: σ²_t `[T]`, the variance over units of x_t W_x + b.
    Returns:
      `[T]` nats per step, those of J_t = ∂h_t/∂h_{t-1}.

    Example: with constant noise of variance 1, the edge of chaos is at g = 1.8556, not at 1.

      >>> rates = tanh_mean_field_rates(1.8556, jnp.ones(200))
      >>> bool(abs(rates[-1]) < 1e-4)
      True
    """
    # The trapezoidal rule converges geometrically for an analytic integrand that vanishes at both ends.
    z = np.linspace(-9, 9, 601)
    weights = np.exp(-(z**2) / 2)
    weights /= weights.sum()
    input_variances = jnp.asarray(input_variances)
    if not jnp.issubdtype(input_variances.dtype, jnp.floating):
        input_variances = input_variances.astype(float)
    z, weights = (jnp.asarray(a, input_variances.dtype) for a in (z, weights))
    gain = jnp.asarray(gain, input_variances.dtype)

    def step(variance: Array, input_variance: Array):
        activity = (weights * jnp.tanh(jnp.sqrt(variance) * z) ** 2).sum()
        variance = gain**2 * activity + input_variance
        # 1 - tanh² as 1/cosh², without cancellation for saturated units
        slope_squared = (weights / jnp.cosh(jnp.sqrt(variance) * z) ** 4).sum()
        return variance, jnp.log(gain) + 0.5 * jnp.log(slope_squared)

    _, rates = lax.scan(step, jnp.zeros_like(gain), input_variances)
    return rates


def relu_mean_field_rate(gain: ArrayLike) -> Array:
    """Nats per step for ReLU units with zero-mean pre-activations: half of them are active, so ½ log(g²/2).

    Example: He's initialisation, gain sqrt(2), neither vanishes nor explodes.

      >>> round(float(relu_mean_field_rate(2**0.5)), 6) + 0.0
      0.0
    """
    gain = jnp.asarray(gain)
    return 0.5 * jnp.log(gain**2 / 2)


def linear_rate(w_h: Array) -> Array:
    """log ρ(W_h), the rate of a linear network with one reused matrix: its leading Lyapunov exponent, in nats per step.

    For s times an orthogonal matrix this is log s, at every lag. For a Gaussian matrix it is the limit at large lags,
    after transient growth. (In JAX, eigenvalues of non-symmetric matrices are only available on the CPU.)

    Args:
      w_h: `[..., H, H]`.
    Returns:
      `[...]`.
    """
    return jnp.log(jnp.abs(jnp.linalg.eigvals(w_h)).max(axis=-1))
