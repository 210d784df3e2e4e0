"""Data parallelism gives the same results as one device, for unequal weights, over a mesh and over processes."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MODEL = """
    import sys
    import jax, jax.numpy as jnp, numpy as np, optax
    jax.config.update("jax_enable_x64", True)
    {setup}
    from rnnjax import sharding, tasks, training
    from rnnjax.sharding import make_mesh

    def data(key, step):
        return tasks.parity(key, 6, (8,), shortest=1)      # rows of unequal length: devices count unequally

    def loss(params, batch):
        hs = jnp.tanh(jnp.cumsum(batch.xs * params["w"], axis=0))
        return tasks.cross_entropy(hs @ params["v"], batch)

    params = {{"w": jnp.linspace(-1.0, 1.0, 4), "v": jnp.outer(jnp.arange(4.0), jnp.array([1.0, -1.0]))}}
    rule = optax.chain(training.clip_by_global_norm(1.0), optax.sgd(0.3))
    options = training.FitOptions(steps={steps}, chunk=6)
    mesh = make_mesh()
    assert mesh.size == 2

    def run(gradient):
        state = training.init_state(params, rule, jax.random.key(0))
        return training.fit(loss, state, rule, data, options, gradient=gradient)

    whole, cut = run(None), run(training.data_parallel(loss, mesh))
    for name in params:
        np.testing.assert_allclose(np.asarray(cut.state.params[name]), whole.state.params[name], rtol=1e-10)
        assert not np.allclose(whole.state.params[name], params[name])
    np.testing.assert_allclose([l["loss"] for l in cut.history], [l["loss"] for l in whole.history], rtol=1e-10)

    def many(mesh):                                        # three runs on two devices
        settings = {{"rate": jnp.array([0.1, 0.3, 1.0])}}
        return training.fit_many(
            loss, lambda key, setting: params, lambda setting: optax.sgd(setting["rate"]), data, settings,
            training.FitOptions(steps=4, chunk=2), key=jax.random.key(1), mesh=mesh,
        )

    one, spread = many(None), many(mesh)
    for name in params:
        assert spread.state.params[name].shape == one.state.params[name].shape
        np.testing.assert_allclose(spread.state.params[name], one.state.params[name], rtol=1e-10)
        assert not np.allclose(one.state.params[name][0], one.state.params[name][2])
    np.testing.assert_allclose(spread.history["loss"], one.history["loss"], rtol=1e-10)
    squares = sharding.spread(lambda x: x * x, mesh)(jnp.arange(5.0))
    np.testing.assert_array_equal(np.asarray(squares), np.arange(5.0) ** 2)
    print("equal", flush=True)
    {end}
"""


def program(setup, end="", steps=12):
    return textwrap.dedent(MODEL).format(setup=setup, end=end, steps=steps)


def test_two_devices_make_the_same_updates():
    """Runs in a process of its own, since the number of devices is fixed at the first use of JAX."""
    text = program('jax.config.update("jax_num_cpu_devices", 2)')
    run = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.stdout.strip() == "equal", run.stderr[-2000:]


@pytest.mark.skipif("RNNJAX_SLOW" not in os.environ, reason="two processes that compile: set RNNJAX_SLOW=1")
def test_two_processes_make_the_same_updates():
    """A hundred steps over two local processes with one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    setup = (
        'jax.config.update("jax_cpu_collectives_implementation", "gloo"); '
        f'jax.distributed.initialize("127.0.0.1:{port}", 2, int(sys.argv[1]))'
    )
    text = program(setup, "jax.distributed.shutdown()", steps=100)
    started = [
        subprocess.Popen([sys.executable, "-c", text, str(i)], cwd=ROOT, stdout=-1, stderr=-1, text=True)
        for i in range(2)
    ]
    try:
        for process in started:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0 and "equal" in out, err[-2000:]
    finally:
        for process in started:
            process.kill()


WIDE = """
    import re, sys, tempfile
    import jax, jax.numpy as jnp, numpy as np, optax
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", sys.argv[1] == "float64")
    import rnnjax
    from rnnjax import sharding, tasks, training

    mesh, first = sharding.make_mesh(), jax.devices()[0]
    model = rnnjax.Readout(rnnjax.LSTM(128), output_size=2)
    params = model.init(jax.random.key(0), 1, sys.argv[1])
    rule = optax.adam(1e-3, eps=1e-6)                      # else gradients that are rounding errors take full steps
    data = lambda key, step: tasks.parity(key, 12, (16,), shortest=4)

    def loss(params, batch):
        _, ys = rnnjax.unroll(model, params, batch.xs.astype(sys.argv[1]), lengths=batch.lengths)
        return tasks.cross_entropy(ys, batch)

    gradient = training.data_parallel(loss, mesh, sharded=True)

    def run(state, steps=20, **more):
        return training.fit(loss, state, rule, data, training.FitOptions(steps=steps, chunk=10), **more)

    def same(one, other, **tolerance):
        for a, b in zip(*(jax.tree.leaves((s.params, s.opt_state)) for s in (one, other))):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerance)

    def on_first_device(tree):
        return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards
                   if shard.device == first)

    whole = training.init_state(params, rule, jax.random.key(1))
    state = sharding.fully_sharded(whole, mesh)
    cut = run(state, gradient=gradient).state
    same(cut, run(whole).state, rtol=0, atol={"float32": 1e-6, "float64": 1e-12}[sys.argv[1]])
    for now, before in zip(*(jax.tree.leaves((s.params, s.opt_state)) for s in (cut, state))):
        assert before.is_fully_replicated or now.sharding == before.sharding
    memory = [on_first_device((each.params, each.opt_state)) for each in (whole, cut)]
    assert 7 < memory[0] / memory[1] <= 8, memory

    with tempfile.TemporaryDirectory() as folder:
        kept = training.Checkpoints(folder=folder, every=10)
        run(state, 10, gradient=gradient, checkpoints=kept)
        again = run(state, gradient=gradient, checkpoints=kept).state
    same(again, cut, rtol=0, atol=0)
    assert again.params.rnn.w_h.sharding == cut.params.rnn.w_h.sharding

    program = jax.jit(gradient).lower(state.params, data(jax.random.key(2), 0)).compile()
    bodies = set(re.findall(r"body=%([\\w.-]+)", program.as_text()))
    collective, parts = r" (all|reduce|collective)-\\w+\\(", re.split(r"\\n(?=%|ENTRY)", program.as_text())
    loops = [part for part in parts if part[1:].split(" ")[0] in bodies]
    assert loops and not any(re.search(collective, loop) for loop in loops)
    assert any(re.search(collective, part) for part in parts)
    print("equal", memory, program.memory_analysis().argument_size_in_bytes, flush=True)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wide_network_is_sharded_over_eight_devices(dtype):
    """It trains to the numbers of one device; the state stays sharded; the time loop has no collective."""
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(WIDE), dtype], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.startswith("equal"), run.stderr[-2000:]
