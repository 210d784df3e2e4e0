"""PyTorch: `torch.nn.LSTM`, `GRU` and `RNN`, time-major; padded batches as packed sequences. On the CPU."""

# pyright: reportMissingImports=false
from typing import Any

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
    _, T, D, H = problem.point
    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}
    model = kinds[problem.cell](D, H)
    w = problem.weights
    recurrent = np.zeros_like(w["b"])
    if problem.cell == "gru":
        recurrent[2 * H :] = w["b_hn"]
    values = {"weight_ih_l0": w["w_x"].T, "weight_hh_l0": w["w_h"].T, "bias_ih_l0": w["b"], "bias_hh_l0": recurrent}
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in values.items()})
    xs = torch.tensor(problem.xs)
    watched = torch.tensor(problem.xs, requires_grad=True)
    lengths = None if problem.lengths is None else torch.tensor(problem.lengths, dtype=torch.int64)

    def unrolled(xs: Any) -> Any:
        if lengths is None:
            return model(xs)[0]
        packed = rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
        return rnn.pad_packed_sequence(model(packed)[0], total_length=T)[0]

    def forward() -> Any:
        with torch.inference_mode():
            return unrolled(xs)

    def train() -> Any:
        model.zero_grad(set_to_none=True)
        watched.grad = None
        loss = (unrolled(watched) ** 2).sum()
        loss.backward()
        return loss

    def gradients(loss: Any) -> dict[str, np.ndarray]:
        grads = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
        read = {"w_x": grads["weight_ih_l0"].T, "w_h": grads["weight_hh_l0"].T, "b": grads["bias_ih_l0"]}
        if problem.cell == "gru":
            read["b_hn"] = grads["bias_hh_l0"][2 * H :]
        return read | {"xs": watched.grad.numpy(), "loss": loss.detach().numpy()}

    return {
        "forward": harness.Program(forward, lambda ys: {"ys": ys.numpy()}, settle_s=_SETTLE_S),
        "train": harness.Program(train, gradients, settle_s=_SETTLE_S),
    }
