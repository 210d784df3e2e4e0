"""Every test runs in x64 with strict dtype promotion: tolerances are near rounding, and no dtype widens in silence.

A test of float32 says so with explicit dtypes. Nothing is seeded from the clock: hypothesis is derandomized and keeps
no database, so the same code gets the same verdict.
"""

import hypothesis
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

hypothesis.settings.register_profile("rnnjax", derandomize=True, database=None, deadline=None, max_examples=20)
hypothesis.settings.load_profile("rnnjax")
