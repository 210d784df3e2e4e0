"""Arrays by name from `.npz` and `.safetensors` files."""

import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LOADED_BY = {
    ".pt": "torch.load(path, weights_only=True)",
    ".pth": "torch.load(path, weights_only=True)",
    ".bin": "torch.load(path, weights_only=True)",
    ".eqx": "equinox.tree_deserialise_leaves(path, like=model)",
    ".msgpack": "flax.serialization.msgpack_restore(path.read_bytes())",
    ".pkl": "pickle.load, if you trust its author",
}


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """All arrays of a file by name.

    Raises:
      ValueError: it is of another kind, or damaged.
    """
    suffix = Path(path).suffix
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    if suffix == ".safetensors":
        return _safetensors(Path(path))
    fix = f"; load it with {_LOADED_BY[suffix]}, and pass the result" if suffix in _LOADED_BY else ""
    raise ValueError(f"{path!r} is none of .safetensors, .npz, .keras, .h5 and .weights.h5{fix}.")


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """Eight bytes with the length of a header in JSON, which says where in the rest each array is.

    Reference: https://huggingface.co/docs/safetensors, format.
    """
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 + size:
        raise ValueError(f"{str(path)!r} has {len(data)} bytes, fewer than its header says: it is damaged.")
    header, body, found = json.loads(data[8 : 8 + size]), data[8 + size :], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name!r} is {entry['dtype']}; weights are one of {', '.join(_DTYPES)}.")
        dtype = jnp.dtype(_DTYPES[entry["dtype"]])
        first, last = entry["data_offsets"]
        if last - first != math.prod(entry["shape"]) * dtype.itemsize or last > len(body):
            raise ValueError(f"{str(path)!r} is damaged: {name!r} does not have the bytes that its shape needs.")
        found[name] = np.frombuffer(body[first:last], dtype).reshape(entry["shape"]).copy()
    return found
