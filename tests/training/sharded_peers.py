"""Two processes with two devices each save and load a state that is sharded over them.

python -m tests.training.sharded_peers
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.training.peers_killed import ROOT, free_port


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        port = str(free_port())
        command = [sys.executable, "-m", "tests.training.sharded_peers", folder, port]
        both = [subprocess.Popen([*command, str(index)], cwd=ROOT) for index in range(2)]
        return max(process.wait(240) for process in both)


def peer(folder: Path, port: str, index: int) -> None:
    from rnnjax import processes, sharding

    with processes.initialize(f"127.0.0.1:{port}", 2, index, device_count=2):
        import jax
        import jax.numpy as jnp
        import numpy as np
        import optax

        import rnnjax
        from rnnjax import training

        mesh = sharding.make_mesh()
        weights = jnp.arange(2048.0).reshape(8, 256)
        rule = optax.adam(0.1)

        def start(scale: float) -> training.TrainState:
            state = training.init_state({"w": scale * weights, "b": jnp.ones(2) * scale}, rule, jax.random.key(0))
            return sharding.fully_sharded(state, mesh)

        kept = training.Checkpoints(folder=folder, every=1, keep=2)
        with kept.opened() as store:
            for step in range(3):
                state = start(1.0 + step)._replace(step=jnp.int32(step))
                assert not state.params["w"].is_fully_addressable
                store.save(state)
            found, *_ = store.load(start(0.0))
        assert found is not None and int(found.step) == 2
        assert found.params["w"].sharding == state.params["w"].sharding
        for one, other in zip(*map(jax.tree.leaves, (found._replace(key=None), state._replace(key=None))), strict=True):
            np.testing.assert_array_equal(one.addressable_data(0), other.addressable_data(0))
        names = sorted(path.name for path in folder.glob("step*"))
        assert names == ["step_000000001", "step_000000002"], names
        cell, place = rnnjax.GRU(3), folder / "model"
        training.save_model(place, cell, cell.init(jax.random.key(0), 2), input_size=2)
        processes.from_coordinator(b"it is written")
        for _ in range(1 + index):  # each process may load it at any time
            assert training.load_model(place).model == cell
        print(f"process {index}: the shards are as they were saved", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        peer(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main())
