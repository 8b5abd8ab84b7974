"""Files as `torch.save` writes them, without PyTorch, and the state dict of any architecture."""

import io
import json
import struct
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mdeq_jax.vision.model import ModelConfig, create_model
from mdeq_jax.vision.torch_files.keys import torch_name, torch_shape

FIXTURES = Path(__file__).parents[2] / "fixtures"
STORAGES = {
    "bfloat16": "BFloat16",
    "float16": "Half",
    "float32": "Float",
    "float64": "Double",
    "int64": "Long",
    "uint8": "Byte",
    "bool": "Bool",
}


def load_config(name):
    return ModelConfig(**json.loads((FIXTURES / f"{name}.json").read_text()))


def random_state(config, dtype=np.float32):
    """Random arrays by PyTorch name, about 1 where they scale."""
    side = config.size_divisor
    images = jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(create_model(config).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    state = {}
    for (_, *path), leaf in traverse_util.flatten_dict(shapes).items():
        values = rng.uniform(-0.3, 0.3, size=torch_shape(path, leaf.shape))
        about_one = path[-1] in ("g", "scale", "var")
        state[torch_name(path, config.task)] = (values + about_one).astype(dtype)
    return state


def fold(state):
    """The state dict with each g and v folded into its weight, as a model saved for inference."""
    folded = {name: a for name, a in state.items() if not name.endswith(("_g", "_v"))}
    for name, g in state.items():
        if name.endswith("_g"):
            v = state[f"{name.removesuffix('_g')}_v"]
            norm = np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
            folded[name.removesuffix("_g")] = g * v / norm
    return folded


class Raw(bytes):
    """Opcodes to stand in a pickle as they are."""


def pickled(value, storages=None):
    """The opcodes of protocol 2 for a value, without PROTO and STOP; arrays become tensors."""
    storages = {} if storages is None else storages

    def of(*values):
        return b"".join(pickled(v, storages) for v in values)

    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return _tensor(value, storages, of)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + of(*value) + b"t"
    if isinstance(value, list):
        return b"](" + of(*value) + b"e"
    return b"}(" + of(*(part for item in value.items() for part in item)) + b"u"


def _tensor(array, storages, of):
    key = str(len(storages))
    contiguous = array if array.flags.c_contiguous else array.T
    assert contiguous.flags.c_contiguous
    storages[key] = contiguous
    strides = tuple(step // array.itemsize for step in array.strides)
    return tensor(of, array.dtype.name, key, array.size, 0, array.shape, strides)


def tensor(of, dtype, key, count, offset, shape, strides):
    """The opcodes of one tensor from the parts that it is declared by."""
    kind = Raw(f"ctorch\n{STORAGES[dtype]}Storage\n".encode())
    storage = Raw(of(("storage", kind, key, "cpu", count)) + b"Q")
    hooks = Raw(b"ccollections\nOrderedDict\n)R")
    arguments = of((storage, offset, shape, strides, False, hooks))
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def whole(opcodes):
    return b"\x80\x02" + opcodes + b"."


def write_zip(path, value, *, root="archive", **members):
    """Write a file of the format since PyTorch 1.6."""
    storages = {}
    content = whole(pickled(value, storages))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", content)
        archive.writestr(f"{root}/byteorder", members.get("byteorder", "little"))
        for key, array in storages.items():
            archive.writestr(f"{root}/data/{key}", array.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return path


def write_legacy(path, value, *, little_endian=True):
    """Write a file of the format before PyTorch 1.6."""
    storages = {}
    file = io.BytesIO()
    file.write(whole(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"))
    file.write(whole(pickled(1001)))
    machine = {"protocol_version": 1001, "little_endian": little_endian}
    file.write(whole(pickled(machine)))
    file.write(whole(pickled(value, storages)))
    file.write(whole(pickled(list(storages))))
    for array in storages.values():
        file.write(struct.pack("<q", array.size) + array.tobytes())
    path.write_bytes(file.getvalue())
    return path


WRITERS = {"zip": write_zip, "legacy": write_legacy}
