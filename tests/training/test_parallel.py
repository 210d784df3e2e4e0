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
