"""A sharded batch gives the same results. Two CPU devices need a process of their own."""

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


ON_A_USERS_MESH = """
import jax, jax.numpy as jnp, numpy as np
import rnnjax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tests.registry import CELLS, normal
rnnjax.sharding.setup_process(device_count=2)
jax.config.update("jax_enable_x64", True)
explicit = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Explicit,))
manual = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
rows, over_time = P("rows"), P(None, "rows")
def same(outputs, params, given, placed, specs, out):
    mapped = jax.shard_map(outputs, mesh=manual, in_specs=(P(), *specs), out_specs=out)
    wanted = (0, 1) if jnp.issubdtype(given[0].dtype, jnp.floating) else 0
    def both(outputs):
        loss = lambda params, xs, *times: (jnp.sin(outputs(params, xs, *times)) ** 2).sum()
        return jax.jit(lambda *given: (outputs(*given), jax.grad(loss, argnums=wanted)(*given)))
    want = both(outputs)(params, *given)
    with jax.set_mesh(explicit):
        found = both(outputs)(params, *placed)
    assert found[0].sharding.spec in (out, P(*out, None)), found[0].sharding
    without_context = jax.jit(outputs)(params, *placed)  # for the gradient JAX itself asks for `jax.set_mesh`
    for got, expected in ((found, want), (both(mapped)(params, *given), want), (without_context, want[0])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, expected)
rng = np.random.default_rng(0)
xs, resets = jnp.asarray(rng.normal(size=(4, 4, 2))), jnp.asarray(rng.random((4, 4)) < 0.3)
given, specs = (xs, jnp.array([4, 0, 3, 2]), resets), (over_time, rows, over_time)
placed = [jax.device_put(a, NamedSharding(explicit, s)) for a, s in zip(given, specs)]
for name, options in {
    "elman_tanh": {"engine": "scan"}, "lstm": {"checkpoint": 3}, "gru": {"reverse": True}, "layer_norm": {},
    "step_cell": {}, "projected": {"checkpoint": 2, "engine": "scan"}, "bidirectional": {}, "readout": {"chunk": 2},
}.items():
    cell = CELLS[name]
    params = normal(jax.eval_shape(lambda key: cell.init(key, 2), jax.random.key(0)), name)
    def outputs(params, xs, lengths, resets):
        return rnnjax.unroll(cell, params, xs, lengths=lengths, resets=resets, **options)[1]
    same(outputs, params, given, placed, specs, over_time)
embedding, pooling = rnnjax.Embedding(9, 3), rnnjax.AttentionPooling(2)
params = embedding.init(jax.random.key(0)), pooling.init(jax.random.key(1), 3)
def pooled(params, tokens, lengths, mask):
    ys, times = embedding(params[0], tokens), {"lengths": lengths, "mask": mask}
    ways = rnnjax.pool_last(ys, **times), rnnjax.pool_mean(ys, **times), pooling(params[1], ys, **times)
    return jnp.concatenate(ways, axis=-1)
tokens = jnp.arange(16).reshape(4, 4) % 9
placed[0] = jax.device_put(tokens, NamedSharding(explicit, over_time))
same(pooled, params, (tokens, *given[1:]), placed, specs, rows)
print("done")
"""

ONLINE = """
import jax, jax.numpy as jnp, numpy as np
import rnnjax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P, auto_axes
rnnjax.sharding.setup_process(device_count=2)
jax.config.update("jax_enable_x64", True)
from tests.online.test_every_rule import CELL, KEYS, PARAMS, RULES, STEPS, XS
meshes = [jax.make_mesh((2,), ("rows",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit)]
mask, resets = (np.random.default_rng(seed).random(XS.shape[:2]) < 0.7 for seed in (0, 1))
given = XS, jnp.asarray(mask), jnp.asarray(resets)
for name, rule in RULES.items():
    def gradients(xs, mask, resets):
        def step(state, now):
            x, mask, resets, key = now
            found = rule.step(CELL, PARAMS, *state, x, jnp.cos, mask=mask, resets=resets, key=key)
            return (found.carry, found.trace), found.gradient
        rows = xs.shape[1:2]
        start = CELL.initial_carry(PARAMS, rows), rule.init(CELL, PARAMS, rows)
        return jax.lax.scan(step, start, (xs, mask, resets, KEYS[:STEPS]))[1]
    want = jax.jit(gradients)(*given)
    for mesh, run in zip(meshes, (gradients, auto_axes(gradients, out_sharding=P()))):
        placed = [jax.device_put(each, NamedSharding(mesh, P(None, "rows"))) for each in given]
        with jax.set_mesh(mesh):
            got = jax.jit(run)(*placed)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, want)
print("done")
"""


@pytest.mark.parametrize(
    "program", [TWO_DEVICES, ON_A_USERS_MESH, ONLINE], ids=["our_mesh", "a_users_mesh", "online_rules"]
)
def test_two_devices_give_the_same_numbers(program):
    """On our mesh; and, with all of JAX's checks, on an explicit mesh and inside a user's `shard_map`.

    The rules of `rnnjax.online` run on a mesh with automatic axes, and in `auto_axes` on one with explicit axes.
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if program == TWO_DEVICES:
        environment.pop("XLA_FLAGS", None)  # XLA's defaults
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
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
    """Seven runs in groups of three: the last group is not full, and results keep their order."""
    starts, rates = jnp.arange(7.0), jnp.linspace(0.1, 0.7, 7)
    mesh = sharding.make_mesh(jax.devices()[:1])
    for where in (None, mesh):
        found = sharding.spread(lambda start, rate: {"end": start * rate}, where, at_once=3)(starts, rates)
        np.testing.assert_allclose(found["end"], starts * rates, rtol=1e-15)


def test_groups_hold_as_many_runs_as_asked():
    """Three runs are vmapped together, not seven."""
    program = sharding.spread(lambda run: run @ jnp.ones((2, 2)), at_once=3)
    text = program.lower(jnp.ones((7, 2))).as_text()  # pyright: ignore[reportFunctionMemberAccess]
    assert "tensor<3x2x" in text or "tensor<3x2>" in text
