"""Files as `torch.save` writes them, without PyTorch."""

import io
import struct
import zipfile

import numpy as np

STORAGES = {
    "bfloat16": "BFloat16",
    "float16": "Half",
    "float32": "Float",
    "float64": "Double",
    "int64": "Long",
    "uint8": "Byte",
    "bool": "Bool",
}


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
