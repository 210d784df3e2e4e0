"""PyTorch: `torch.nn.LSTM`, `GRU` and `RNN`, time-major; padded batches as packed sequences.

It runs where JAX runs: on the CPU with all cores, or on a GPU.
"""

# pyright: reportMissingImports=false, reportOptionalMemberAccess=false
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from benchmarks.harness.process import cores
from benchmarks.peers.peer import require
from benchmarks.problems import Problem

_SETTLE_S = 0.1  # its OpenMP threads go on spinning for a while after their work


def build(problem: Problem) -> dict[str, harness.Program]:
    require("torch")
    import torch
    from torch.nn.utils import rnn

    torch.set_num_threads(cores())
    on_gpu = jax.default_backend() != "cpu"
    if on_gpu and not torch.cuda.is_available():
        raise harness.LeftOut(f"JAX runs on {jax.default_backend()}, and this PyTorch has the CPU only")
    torch.backends.cudnn.allow_tf32 = False  # as everybody here: float32 proper
    device = torch.device("cuda" if on_gpu else "cpu")
    settle_s = 0.0 if on_gpu else _SETTLE_S
    _, T, D, H = problem.point
    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}
    model = kinds[problem.cell](D, H)
    w = problem.weights
    recurrent = np.zeros_like(w["b"])
    if problem.cell == "gru":
        recurrent[2 * H :] = w["b_hn"]
    values = {"weight_ih_l0": w["w_x"].T, "weight_hh_l0": w["w_h"].T, "bias_ih_l0": w["b"], "bias_hh_l0": recurrent}
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in values.items()})
    model = model.to(device)
    xs = torch.tensor(problem.xs, device=device)
    watched = torch.tensor(problem.xs, device=device, requires_grad=True)
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths, dtype=torch.int64)

    def unrolled(xs: Any) -> Any:
        if lengths is None:
            return model(xs)[0]
        packed = rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(model(packed)[0], total_length=T)[0]

    def finished(result: Any) -> Any:
        if on_gpu:
            torch.cuda.synchronize()
        return result

    def forward() -> Any:
        with torch.inference_mode():
            return finished(unrolled(xs))

    def train() -> Any:
        model.zero_grad(set_to_none=True)
        watched.grad = None
        loss = (unrolled(watched) ** 2).sum()
        loss.backward()
        return finished(loss)

    def gradients(loss: Any) -> dict[str, np.ndarray]:
        grads = {name: parameter.grad.numpy(force=True) for name, parameter in model.named_parameters()}
        read = {"w_x": grads["weight_ih_l0"].T, "w_h": grads["weight_hh_l0"].T, "b": grads["bias_ih_l0"]}
        if problem.cell == "gru":
            read["b_hn"] = grads["bias_hh_l0"][2 * H :]
        return read | {"xs": watched.grad.numpy(force=True), "loss": loss.numpy(force=True)}

    return {
        "forward": harness.Program(forward, lambda ys: {"ys": ys.numpy(force=True)}, settle_s=settle_s),
        "train": harness.Program(train, gradients, settle_s=settle_s),
    }
