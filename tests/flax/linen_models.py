"""Two small linen models, one for each way in which Flax creates modules, and calls of them."""

from typing import Any

import jax
import jax.numpy as jnp

from tests.flax.cells import inputs, linen, linen_cell, noisy


class Compact(linen.Module):
    """Cells and their parameters are created in the model's own scope; `library` is linen or ours."""

    library: Any
    name_of_cell: str

    @linen.compact
    def __call__(self, x, **options):
        x = linen.Dense(2, param_dtype=jnp.float64)(x)
        x = self.library.RNN(linen_cell(self.name_of_cell))(x, **options)
        x = self.library.RNN(linen_cell("gru"))(x, **options)
        return linen.Dense(1, param_dtype=jnp.float64)(x)


class SetUp(linen.Module):
    """The cells are parts of the RNNs."""

    library: Any
    name_of_cell: str

    def setup(self):
        halves = [self.library.RNN(linen_cell(name)) for name in ("gru", self.name_of_cell)]
        self.encoder = self.library.Bidirectional(*halves)
        self.readout = linen.Dense(1, param_dtype=jnp.float64)

    def __call__(self, x, **options):
        return self.readout(self.encoder(x, **options))


def variables_of(module: Any, x: Any = None) -> Any:
    """Random parameters of the same shapes as from `init`, without compiling."""
    return noisy(jax.eval_shape(module.init, jax.random.key(0), inputs() if x is None else x))


def pulled(module: Any, weights: Any, variables: Any, x: Any, carry: Any, **options: Any) -> Any:
    """Outputs, and their gradients with respect to parameters, inputs and initial carry."""

    def run(variables, x, carry):
        return module.apply(variables, x, initial_carry=carry, **options)

    outputs, pull = jax.vjp(run, variables, x, carry)
    return outputs, pull(jax.tree.map(lambda w, y: w.astype(y.dtype), weights, outputs))
