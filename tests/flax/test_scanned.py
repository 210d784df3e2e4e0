"""`ScannedRNN` against the class that agents carry with them, written here with `nn.scan`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rnnjax.flax import ScannedRNN

T, B, D, H = 6, 3, 4, 5


class Copied(nn.Module):
    """Resets before each step to a carry that a cell of its own makes, which takes the number 0."""

    kind: type = nn.GRUCell

    @functools.partial(nn.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False})
    @nn.compact
    def __call__(self, carry, x):
        inputs, resets = x
        zeros = self.kind(H, param_dtype=float).initialize_carry(jax.random.key(0), (len(resets), H))
        carry = jax.tree.map(lambda zero, leaf: jnp.where(resets[:, None].astype(bool), zero, leaf), zeros, carry)
        return self.kind(features=H, param_dtype=float)(carry, inputs)


class Agent(nn.Module):
    core: nn.Module

    @nn.compact
    def __call__(self, carry, x):
        observations, dones = x
        embedding = nn.relu(nn.Dense(D, param_dtype=float)(observations))
        carry, ys = self.core(carry, (embedding, dones))
        return carry, nn.Dense(2, param_dtype=float)(ys)


@pytest.fixture(params=[nn.GRUCell, nn.OptimizedLSTMCell], ids=lambda kind: kind.__name__)
def agents(request):
    made = functools.partial(request.param, param_dtype=float)
    return Agent(Copied(request.param)), Agent(ScannedRNN(made)), ScannedRNN.initialize_carry(B, H, made)


def batch():
    random = np.random.default_rng(0)
    return jnp.asarray(random.normal(size=(T, B, D))), jnp.asarray(random.random((T, B)) < 0.3)


def test_the_same_parameters_values_and_gradients(agents):
    theirs, ours, start = agents
    observations, dones = batch()
    zeros = jnp.zeros((T, B))  # as agents initialise themselves
    variables = theirs.init(jax.random.key(0), start, (observations, zeros))
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), start, (observations, zeros)), variables)
    start = jax.tree.map(lambda leaf: leaf + 0.5, start)

    def loss(agent, variables, dones):
        carry, ys = agent.apply(variables, start, (observations, dones))
        return (ys**2).sum(), (carry, ys)

    results = [
        jax.jit(jax.value_and_grad(functools.partial(loss, agent), has_aux=True))(variables, flags)
        for agent, flags in ((ours, dones), (theirs, dones.astype(float)))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), *results)
    jax.tree.map(
        np.testing.assert_array_equal, loss(ours, variables, dones.astype(float)), loss(ours, variables, dones)
    )


def test_acting_step_by_step(agents):
    _, ours, start = agents
    observations, dones = batch()
    variables = ours.init(jax.random.key(0), start, (observations, dones))
    carry, whole = ours.apply(variables, start, (observations, dones))
    steps, state = [], start
    for t in range(T):
        state, y = ours.apply(variables, state, (observations[t : t + 1], dones[t : t + 1]))
        steps.append(y)
    np.testing.assert_allclose(jnp.concatenate(steps), whole, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), state, carry)


def test_names_and_refusals():
    observations, dones = batch()
    core = ScannedRNN(functools.partial(nn.GRUCell, param_dtype=float), cell_name="GRUCell_0")
    start = jnp.zeros((B, H))
    assert list(core.init(jax.random.key(0), start, (observations, dones))["params"]) == ["GRUCell_0"]
    with pytest.raises(TypeError, match=r"`x` is a .*; expected a pair \(inputs"):
        core.init(jax.random.key(0), start, observations)
    with pytest.raises(ValueError, match="`resets` is"):
        core.init(jax.random.key(0), start, (observations, dones.T))
