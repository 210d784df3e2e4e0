"""The batch cut over devices gives the same numbers. Two CPU devices need a process of their own."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import sharding

TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
import rnnjax
from rnnjax import sharding
assert sharding.setup_process(device_count=2).device_count == 2
jax.config.update("jax_enable_x64", True)
mesh = sharding.make_mesh()
assert mesh.size == 2
rng = np.random.default_rng(0)
xs = jnp.asarray(rng.normal(size=(5, 4, 3)))
times = dict(lengths=np.array([5, 0, 3, 4]), mask=rng.random((5, 4)) < 0.7, resets=rng.random((5, 4)) < 0.3)
cell = rnnjax.Stack((rnnjax.LSTM(3), rnnjax.GRU(2)))
params = cell.init(jax.random.key(0), 3, "float64")
for engine in ("scan", "hoisted"):
    def run(unroll, **options):
        def loss(params, xs):
            carry, ys = unroll(cell, params, xs, reverse=True, engine=engine, **times, **options)
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves((carry, ys)))
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, xs)
    for got, want in zip(*map(jax.tree.leaves, (run(sharding.unroll, mesh=mesh), run(rnnjax.unroll)))):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    def mean(params, xs, lengths):
        return jnp.mean(rnnjax.unroll(cell, params, xs, lengths=lengths, engine=engine)[1] ** 2)
    lengths = jnp.array([5, 0, 3, 4])
    step = jax.jit(sharding.value_and_grad(mean, mesh, batch_axes=(1, 0)))
    placed = sharding.place(params, mesh), sharding.place(xs, mesh, 1), sharding.place(lengths, mesh, 0)
    got, want = step(*placed), jax.jit(jax.value_and_grad(mean))(params, xs, lengths)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    text = step.lower(*placed).as_text()
    assert text.count("all_reduce") >= 1
try:
    sharding.unroll(rnnjax.GRU(3), params, xs[:, :3], mesh=mesh)
except ValueError as error:
    assert "3 rows for 2 devices" in str(error)
else:
    raise AssertionError
try:
    sharding.setup_process(device_count=3)
except RuntimeError:
    pass
else:
    raise AssertionError
print("done")
"""


def test_two_devices_give_the_same_numbers():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    run = subprocess.run([sys.executable, "-c", TWO_DEVICES], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "done"


def test_importing_leaves_the_process_alone():
    code = "import jax; before = jax.config.jax_num_cpu_devices; import rnnjax.sharding; "
    code += "assert jax.config.jax_num_cpu_devices == before"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_errors_say_what_to_do():
    mesh = sharding.make_mesh(jax.devices()[:1])
    cell = rnnjax.Elman(3)
    params = cell.init(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="needs a batch axis"):
        sharding.unroll(cell, params, jnp.ones((4, 2)), mesh=mesh)
    with pytest.raises(ValueError, match="device_count is 0"):
        sharding.setup_process(device_count=0)
    with pytest.raises(ValueError, match="at_once is 0; give the number of runs"):
        sharding.spread(lambda x: x, mesh, at_once=0)
    with pytest.raises(ValueError, match="2 entries for 1"):
        sharding.value_and_grad(lambda p, x: x.sum(), mesh, batch_axes=(0, 1))(params, np.ones((2, 2)))


def test_runs_in_groups_are_the_runs():
    """Seven runs, three at once: the last group is not full, and each result stands where its run stood."""
    starts, rates = jnp.arange(7.0), jnp.linspace(0.1, 0.7, 7)
    mesh = sharding.make_mesh(jax.devices()[:1])
    for where in (None, mesh):
        found = sharding.spread(lambda start, rate: {"end": start * rate}, where, at_once=3)(starts, rates)
        np.testing.assert_allclose(found["end"], starts * rates, rtol=1e-15)


def test_groups_hold_as_many_runs_as_asked():
    """What is mapped over at once is three runs, not seven."""
    program = sharding.spread(lambda run: run @ jnp.ones((2, 2)), at_once=3)
    text = program.lower(jnp.ones((7, 2))).as_text()  # pyright: ignore[reportFunctionMemberAccess]
    assert "tensor<3x2x" in text or "tensor<3x2>" in text
