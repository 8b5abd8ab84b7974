"""Read tensors from a file of `torch.save`, in either format, without PyTorch.

Since PyTorch 1.6 a file is an uncompressed zip with the pickle `NAME/data.pkl` and the numbers of
each storage in `NAME/data/KEY`; older files are five pickles (a magic number, the format's version,
the machine, the object, the storages' keys), then each storage after its length as int64.
Source: `torch/serialization.py`, pytorch/pytorch.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mdeq_jax.torch_files.unpickle import Storage, Tensor, load

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
# A model of 90 million parameters with its optimizer has a pickle of a tenth of a MiB.
_MAX_PICKLE = 4 * 2**20


class LazyArray(NamedTuple):
    """An array that is read from its file on demand."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


# The content of a file, and a function from a storage to the position of its bytes.
_Content = tuple[Any, Callable[[Storage], int]]
# Errors that zipfile raises on damage beside its own: bad offsets, unknown methods, encryption.
_ON_DAMAGE = (EOFError, IndexError, OverflowError, RuntimeError)
_BIG_ENDIAN = "written on a big-endian machine, which is not supported."


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Return the tensors of a PyTorch file by name; no code in it is executed.

    Args:
      path: a file that `torch.save` wrote, zip or legacy, with a state dict or a dict that has one
        under "state_dict" or "net".

    Raises:
      ValueError: the file cannot be read, is damaged, is of another kind, or holds anything but
        tensors and containers; the message names it.
    """
    return _read(path, _state_dict)


def read_tensor(path: str | os.PathLike[str]) -> LazyArray:
    """Return the tensor of a PyTorch file that holds only one; no code in it is executed.

    Args:
      path: a file that `torch.save` wrote, zip or legacy, with a tensor.

    Raises:
      ValueError: the file cannot be read, is damaged, or holds anything but one tensor; the message
        names it.
    """
    return _read(path, _only_tensor)["tensor"]


def _read(
    path: str | os.PathLike[str], select: Callable[[Any], Mapping[str, Tensor]]
) -> dict[str, LazyArray]:
    """Return the tensors that `select` finds in the content of a file."""
    try:
        with open(path, "rb") as file:
            value, locate = _read_content(file)
            return {name: _lazy(path, t, locate(t.storage)) for name, t in select(value).items()}
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{os.fspath(path)}: {reason}") from None


def _read_content(file: BinaryIO) -> _Content:
    start = file.read(512)
    file.seek(0)
    if not start:
        raise ValueError("the file is empty.")
    if start[257:262] == b"ustar":
        raise ValueError("a tar archive; unpack it and give the file of weights in it.")
    if start.startswith(b"PK"):
        return _read_zip(file)
    if start.startswith(b"\x80"):
        return _read_legacy(file)
    raise ValueError(f"not a file by torch.save; it begins with {start[:16]!r}.")


def _read_zip(file: BinaryIO) -> _Content:
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            _require_plain(members, size)
            damaged = archive.testzip()
            if damaged:
                raise ValueError(f"its member {damaged!r} is damaged.")
            pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
            if len(pickles) != 1 or members[pickles[0]].file_size > _MAX_PICKLE:
                raise ValueError("a zip that is no file by torch.save: no NAME/data.pkl in it.")
            root = pickles[0].removesuffix("data.pkl")
            order = f"{root}byteorder"
            if order in members and archive.read(order) != b"little":
                raise ValueError(_BIG_ENDIAN)
            value = load(io.BytesIO(archive.read(pickles[0])))
            positions = {name: _data_position(file, info) for name, info in members.items()}
    except (zipfile.BadZipFile, struct.error, *_ON_DAMAGE) as error:
        raise ValueError(f"a truncated or damaged zip: {error}") from None

    def locate(storage: Storage) -> int:
        name = f"{root}data/{storage.key}"
        if name not in members or members[name].file_size != storage.nbytes:
            raise ValueError(f"its storage {storage.key[:40]!r} is missing or of another size.")
        return positions[name]

    return value, locate


def _require_plain(members: Mapping[str, zipfile.ZipInfo], size: int) -> None:
    """Refuse members that torch.save never writes, and members larger than the file."""
    for info in members.values():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(
                f"a zip that is no file by torch.save: its member {info.filename[:80]!r} is "
                "compressed."
            )
    if sum(info.file_size for info in members.values()) > size:
        raise ValueError("a damaged zip: its members are larger than the file.")


def _data_position(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    # The local header's name and extra field may be longer than the central directory's.
    file.seek(info.header_offset + 26)
    return info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _read_legacy(file: BinaryIO) -> _Content:
    size = os.fstat(file.fileno()).st_size
    pickles = io.BytesIO(file.read(_MAX_PICKLE))
    if load(pickles) != _MAGIC:
        raise ValueError("a pickle, but not one by torch.save.")
    if load(pickles) != _VERSION:
        raise ValueError("a legacy file of an unknown version.")
    machine = load(pickles)
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise ValueError(_BIG_ENDIAN)
    value, keys = load(pickles), load(pickles)
    storages = {tensor.storage.key: tensor.storage for tensor in _tensors(value)}
    positions = _legacy_positions(file, pickles.tell(), size, keys, storages)

    def locate(storage: Storage) -> int:
        if storages[storage.key] != storage or storage.key not in positions:
            raise ValueError(f"its storage {storage.key[:40]!r} is missing or declared twice.")
        return positions[storage.key]

    return value, locate


def _legacy_positions(
    file: BinaryIO, position: int, size: int, keys: Any, storages: Mapping[str, Storage]
) -> dict[str, int]:
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise ValueError("a damaged legacy file: its list of storages does not fit its tensors.")
    positions = {}
    for key in keys:
        file.seek(position)
        positions[key] = position + 8
        position += 8 + storages[key].nbytes
        if position > size or struct.unpack("<q", file.read(8)) != (storages[key].count,):
            raise ValueError(f"a truncated or damaged legacy file: storage {key[:40]!r}.")
    return positions


def _tensors(value: Any) -> list[Tensor]:
    """Return all tensors in nested containers, which may hold each other."""
    found, seen, todo = [], set(), [value]
    while todo:
        item = todo.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif type(item) in (dict, list, tuple) and id(item) not in seen:
            seen.add(id(item))
            todo.extend(item.values() if type(item) is dict else item)
    return found


def _state_dict(value: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "net"):
        if type(value) is dict and type(value.get(key)) is dict:
            value = value[key]
    if type(value) is not dict:
        raise ValueError("it holds no state dict; save model.state_dict().")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"no state dict: its entry {str(name)[:80]!r} is no tensor; "
                "save model.state_dict()."
            )
    return value


def _only_tensor(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Tensor):
        raise ValueError("it holds more than one tensor; save the tensor alone.")
    return {"tensor": value}


def _lazy(path: str | os.PathLike[str], tensor: Tensor, position: int) -> LazyArray:
    storage, offset, shape, strides = tensor
    itemsize = storage.dtype.itemsize

    def read() -> np.ndarray:
        span = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        count = span if all(shape) else 0
        start = position + offset * itemsize
        flat = np.fromfile(path, storage.dtype, count, offset=start)
        if len(flat) != count:
            raise ValueError(f"{os.fspath(path)}: the file was cut off while it was read.")
        return np.lib.stride_tricks.as_strided(flat, shape, [step * itemsize for step in strides])

    return LazyArray(shape, storage.dtype, read)
