"""A pickle machine for PyTorch files that knows tensors and containers, and executes no code.

`pickletools` of the standard library reads the opcodes; this module interprets the opcodes that
`torch.save` writes for numbers, strings, containers and tensors. It refuses every other opcode, and
every global except the few named here; the message names what was refused.
"""

import io
import math
import pickletools
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Storage(NamedTuple):
    """A run of numbers that tensors are views of; `key` names it in the file."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def nbytes(self) -> int:
        """The number of bytes in the file."""
        return self.count * self.dtype.itemsize


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class RefusedError(ValueError):
    """A pickle asks for something that is neither a tensor nor a container."""


def load(stream: io.BytesIO) -> Any:
    """Return the value of a pickle in a stream, and leave the stream after the pickle's end.

    Returns:
      Numbers, strings, None, dicts, lists and tuples, with a `Tensor` in the place of each tensor
      and None in the place of each NumPy scalar.

    Raises:
      ValueError: the pickle asks for anything else, which the message names, or is damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name not in _OPCODES:
                raise RefusedError(f"pickle opcode {opcode.name}")
            _OPCODES[opcode.name](machine, argument)
        (result,) = machine.stack
        return result
    except RefusedError as error:
        raise ValueError(
            f"refused: {error}; only tensors and containers of them are read. "
            "Save model.state_dict() alone. If the file holds a whole model, its own code can do "
            "so: torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW_FILE)."
        ) from None
    # A damaged pickle gives opcodes too few operands, or operands of the wrong type.
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"damaged pickle: {str(error)[:100]}") from None


class _Machine:
    """The stack, the marks on it, and the memo of a pickle being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        # Not below the last mark, where the operands of an unfinished container are.
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError("too few operands")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def pop_marked(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def memoize(self, index: int | None) -> None:
        (value,) = self.pop(1)
        self.memo[len(self.memo) if index is None else index] = value
        self.push(value)

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def extend(self, items: list[Any]) -> None:
        (target,) = self.pop(1)
        if type(target) is not list:
            raise TypeError("items appended to what is no list")
        target.extend(items)
        self.push(target)

    def update(self, items: list[Any]) -> None:
        (target,) = self.pop(1)
        keys, values = items[::2], items[1::2]
        # A deep tuple as a key would be hashed.
        if type(target) is not dict or not all(type(key) in (str, int) for key in keys):
            raise TypeError("items set in what is no dict, or under a key that is no string")
        target.update(zip(keys, values, strict=True))
        self.push(target)

    def find_global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise RefusedError(f"global {name.replace(' ', '.')[:100]}")
        self.push(_GLOBALS[name])

    def stack_global(self, _: None) -> None:
        self.find_global(" ".join(self.pop(2)))

    def reduce(self, _: None) -> None:
        function, arguments = self.pop(2)
        # Every function on the stack comes from _GLOBALS.
        if not isinstance(function, FunctionType) or type(arguments) is not tuple:
            raise RefusedError("a call of what is no function")
        self.push(function(*arguments))

    def build(self, _: None) -> None:
        target, _state = self.pop(2)  # attributes of a container, such as a state dict's _metadata
        if type(target) is not dict and target is not None:
            raise RefusedError("attributes of what is no container")
        self.push(target)

    def find_storage(self, _: None) -> None:
        (reference,) = self.pop(1)
        kind, dtype, key, _device, count, *view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or type(key) is not str:
            raise RefusedError("a persistent id of what is no storage")
        if any(part is not None for part in view):
            raise RefusedError("a storage that is a view of another")
        _require_whole((count,), "storage size")
        self.push(Storage(key, dtype, count))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Return the tensor of `torch._utils._rebuild_tensor_v2`, checked to lie in its storage."""
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError("a tensor of no storage, or without a shape")
    _require_whole((offset, *shape, *strides), "tensor layout")
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    # An expanded tensor could be of any size.
    if len(shape) > 8 or math.prod(shape) > storage.count:
        raise ValueError("a tensor of more entries than its storage")
    if all(shape) and last >= storage.count:
        raise ValueError("a tensor that reaches beyond its storage")
    return Tensor(storage, offset, shape, strides)


def _require_whole(values: tuple[Any, ...], what: str) -> None:
    if not all(type(value) is int and 0 <= value < 2**48 for value in values):
        raise ValueError(f"{what} is not of whole numbers of at least 0")


def _first(value: Any, *_: Any) -> Any:
    return value


def _skip(*_: Any) -> None:
    """Return None for a value that stands beside the weights in training checkpoints."""


_DTYPES = {
    "BFloat16": jnp.bfloat16,
    "Half": np.float16,
    "Float": np.float32,
    "Double": np.float64,
    "Bool": np.bool_,
    "Byte": np.uint8,
    "Char": np.int8,
    "Short": np.int16,
    "Int": np.int32,
    "Long": np.int64,
}
_GLOBALS = {
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _first,
    "collections OrderedDict": lambda: {},
    "collections Counter": _first,
    # NumPy scalars, such as a best mean IoU.
    "numpy.core.multiarray scalar": _skip,
    "numpy._core.multiarray scalar": _skip,
    "numpy dtype": _skip,
    "_codecs encode": _skip,
} | {f"torch {name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}

_PUSHED = "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE"
_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _skip),
    **dict.fromkeys(_PUSHED.split(), _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.find_global,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.find_storage,
}
