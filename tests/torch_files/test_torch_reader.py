"""The restricted reader: what it reads, what it refuses, and that nothing else happens."""

import io
import pickletools
import random
import tarfile
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdeq_states import FIXTURES, random_state
from torch_files import WRITERS, Raw, pickled, tensor, whole

from mdeq_jax.torch_files.reader import read_state_dict, read_tensor
from mdeq_jax.torch_files.unpickle import _OPCODES
from mdeq_jax.vision.model import ModelConfig
from mdeq_jax.vision.torch_files.convert import import_torch

TINY = ModelConfig(
    branch_channels=(4,),
    blocks_per_branch=(1,),
    big_kernels=(0,),
    expansion=1,
    num_groups=2,
    head_channels=(1,),
    final_channels=2,
    num_classes=2,
)
both_formats = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def read(path):
    return {name: array.read() for name, array in read_state_dict(path).items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("name", ["cls3", "cls2_noaffine"])
def test_the_arrays_of_real_files(name):
    assert_same(read(FIXTURES / f"{name}.pkl"), np.load(FIXTURES / f"{name}_weights.npz"))


@both_formats
@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, "float16", "float32", "float64", "int64", "uint8", "bool"]
)
def test_types_and_shapes(tmp_path, write, dtype):
    state = {
        "matrix": np.arange(6).reshape(2, 3).astype(dtype),
        "transposed": np.arange(24).reshape(2, 3, 4).T.astype(dtype, order="F"),
        "scalar": np.array(1, dtype),
        "empty": np.zeros((0, 3), dtype),
    }
    assert_same(read(write(tmp_path / "file", state)), state)


@both_formats
def test_a_tensor_alone(tmp_path, write):
    bits = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read_tensor(write(tmp_path / "file", bits)).read()
    np.testing.assert_array_equal(found, bits)
    with pytest.raises(ValueError, match="it holds no state dict"):
        read_state_dict(tmp_path / "file")
    with pytest.raises(ValueError, match="it holds more than one tensor"):
        read_tensor(write(tmp_path / "file", {"w": bits}))


@both_formats
def test_views_of_one_storage(tmp_path, write):
    path = write(tmp_path / "file", {"whole": np.arange(12, dtype=np.float32)})
    part = tensor(lambda *v: b"".join(map(pickled, v)), "float32", "0", 12, 4, (2, 3), (4, 1))
    shared = {"whole": np.arange(12, dtype=np.float32), "part": Raw(part)}
    found = read(write(path, shared))
    np.testing.assert_array_equal(found["part"], [[4, 5, 6], [8, 9, 10]])


@both_formats
def test_a_training_checkpoint(tmp_path, write):
    weights = {"w": np.ones((2, 2), np.float32)}
    scalar = (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n"
        + pickled(("f8", False, True))
        + b"R"
        + pickled((3, "<", None))
        + b"bc_codecs\nencode\n"
        + pickled(("eight by", "latin1"))
        + b"RtR"
    )
    value = {
        "epoch": 3,
        "best_mIoU": Raw(scalar),
        "lr_scheduler": {
            "milestones": Raw(b"ccollections\nCounter\n" + pickled(({30: 1},)) + b"R")
        },
        "optimizer": {"state": {0: {"exp_avg": np.zeros(3, np.float32)}}, "lr": [0.1, None]},
        "state_dict": weights,
    }
    assert_same(read(write(tmp_path / "file", value)), weights)
    named_otherwise = {"net": weights, "epoch": 3, "optimizer": {"state": {}}}
    assert_same(read(write(tmp_path / "file", named_otherwise)), weights)


def test_the_hostile_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"refused: global posix\.system"):
        read_state_dict(FIXTURES / "hostile.pkl")
    assert list(tmp_path.iterdir()) == []


def argument_of(opcode):
    """Bytes of a well-formed argument; all zero, so that lengths are zero too."""
    if opcode.arg is None:
        return b""
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return {"STRING": b"''\n"}.get(opcode.name, b"0\n" * (1 + opcode.name.endswith("INST")))
    return bytes(8 if opcode.arg.n < 0 else opcode.arg.n)


REFUSED = [opcode for opcode in pickletools.opcodes if opcode.name not in _OPCODES]


@both_formats
@pytest.mark.parametrize("opcode", REFUSED, ids=lambda opcode: opcode.name)
def test_an_opcode_that_is_not_needed(tmp_path, write, opcode):
    value = {"w": Raw(opcode.code.encode("latin1") + argument_of(opcode))}
    with pytest.raises(ValueError, match=rf"refused: pickle opcode {opcode.name};"):
        read_state_dict(write(tmp_path / "file", value))


def test_opcodes_that_make_objects_are_among_the_refused():
    names = {opcode.name for opcode in REFUSED}
    assert {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"} <= names


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "posix system",
        "builtins eval",
        "builtins getattr",
        "__builtin__ exec",
        "subprocess Popen",
        "torch load",
        "torch.storage _load_from_bytes",
        "torch._utils _rebuild_tensor_v2.__globals__",
        "collections OrderedDict.update",
        "numpy load",
        "lib.models.mdeq MDEQClsNet",
    ],
)
@both_formats
def test_a_global_that_is_not_needed(tmp_path, write, name):
    module, attribute = name.split(" ")
    called = b"c" + f"{module}\n{attribute}\n".encode() + pickled(("true",)) + b"R"
    with pytest.raises(ValueError, match="refused") as error:
        read_state_dict(write(tmp_path / "file", {"w": Raw(called)}))
    assert f"refused: global {module}.{attribute};" in str(error.value)


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (pickled("text") + pickled(()) + b"R", "a call of what is no function"),
        (b"ctorch\nFloatStorage\n" + pickled((3,)) + b"R", "a call of what is no function"),
        (b"ccollections\nOrderedDict\n" + pickled({}) + b"b", "attributes of what is no container"),
        (pickled(("module", 1, "0", "cpu", 1)) + b"Q", "no storage"),
        (b"ccollections\nOrderedDict\n" + pickled(([],)) + b"R", "damaged pickle"),
        (b"R", "damaged pickle"),
        (b"}" + pickled(((), 1)) + b"0", "refused: pickle opcode POP"),
        (b"}()Nu", "under a key that is no string"),
        (b"](N", "damaged pickle"),
        (b"j\xff\xff\xff\xff", "damaged pickle"),
        (b"X\xff\xff\xff\x7fabc", "damaged pickle"),
    ],
)
@both_formats
def test_a_malformed_pickle(tmp_path, write, opcodes, message):
    with pytest.raises(ValueError, match=message) as error:
        read_state_dict(write(tmp_path / "file", {"w": Raw(opcodes)}))
    assert "\n" not in str(error.value)


def test_a_memo_of_a_large_index_takes_no_memory(tmp_path):
    value = {"w": np.ones(1, np.float32), "v": Raw(pickled("") + b"r\xff\xff\xff\x7f")}
    tracemalloc.start()
    with pytest.raises(ValueError, match="'v' is no tensor"):
        read_state_dict(WRITERS["zip"](tmp_path / "file", value))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, -1, (4,), (1,)),
        (4, 0, (2, 2), (4, 1)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (-2, -2), (1, 1)),
        (4, 0, (2**30, 2**30), (0, 0)),
        (4, 0, (1,) * 9, (1,) * 9),
        (4, 0, (2.0,), (1,)),
        (4, 0, 4, 1),
        (2**31 - 1, 0, (2**31 - 1,), (1,)),
        (-4, 0, (4,), (1,)),
        (4.0, 0, (4,), (1,)),
    ],
)
@both_formats
def test_a_tensor_that_does_not_lie_in_its_storage(tmp_path, write, count, offset, shape, strides):
    def of(*values):
        return b"".join(map(pickled, values))

    other = tensor(of, "float32", "0", count, offset, shape, strides)
    value = {"whole": np.zeros(4, np.float32), "part": Raw(other)}
    with pytest.raises(ValueError, match=r"damaged|storage"):
        read(write(tmp_path / "file", value))


@both_formats
def test_a_storage_that_is_not_there(tmp_path, write):
    def of(*values):
        return b"".join(map(pickled, values))

    value = {"w": Raw(tensor(of, "float32", "../data.pkl", 1, 0, (1,), (1,)))}
    with pytest.raises(ValueError, match="storage"):
        read_state_dict(write(tmp_path / "file", value))


@both_formats
@pytest.mark.parametrize(
    "value", [3, None, [1], {"epoch": 3}, {"state_dict": 3}, {3: np.ones(1)}, {"w": [np.ones(1)]}]
)
def test_a_file_without_a_state_dict(tmp_path, write, value):
    with pytest.raises(ValueError, match="no state dict"):
        read_state_dict(write(tmp_path / "file", value))


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def zip_of(path, compression=zipfile.ZIP_STORED, name="notes.txt"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, "x" * 1000)


def encrypted(path):
    zip_of(path, name="archive/data.pkl")
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("<!DOCTYPE html> sign in"), "begins with b'<!DOCTYPE html>"),
        (lambda path: path.write_bytes(b"\x80\x02"), "damaged pickle"),
        (lambda path: path.write_bytes(whole(pickled({"w": 1}))), "not one by torch.save"),
        (lambda path: path.write_bytes(b"PK\3\4" + bytes(60)), "damaged zip"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file"),
        (tar, "a tar archive; unpack it"),
        (zip_of, "no NAME/data.pkl"),
        (lambda path: zip_of(path, zipfile.ZIP_DEFLATED), "'notes.txt' is compressed"),
        (encrypted, "encrypted"),
    ],
)
def test_a_file_of_another_kind(tmp_path, make, message):
    make(tmp_path / "file")
    with pytest.raises(ValueError, match=message) as error:
        read_state_dict(tmp_path / "file")
    assert str(error.value).startswith(str(tmp_path / "file"))
    assert "\n" not in str(error.value)


def test_a_big_endian_file(tmp_path):
    for made in (
        WRITERS["zip"](tmp_path / "zip", {"w": np.ones(1)}, byteorder="big"),
        WRITERS["legacy"](tmp_path / "legacy", {"w": np.ones(1)}, little_endian=False),
    ):
        with pytest.raises(ValueError, match="big-endian"):
            read_state_dict(made)


@both_formats
def test_every_truncation(tmp_path, write):
    content = write(tmp_path / "file", {"w": np.ones((2, 2)), "b": np.ones(3)}).read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut: .+") as error:
            read_state_dict(tmp_path / "cut")
        assert "\n" not in str(error.value)


def test_a_file_cut_off_after_it_was_opened(tmp_path):
    path = WRITERS["legacy"](tmp_path / "file", {"w": np.ones(100)})
    array = read_state_dict(path)["w"]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="cut off"):
        array.read()


def mutate(content, rng):
    """A few changed bytes, a lost or doubled stretch, or a lost end."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        # Half of the changes go where the structure of both formats is densest: the ends.
        ends = rng.choice([0, len(content) - 3000, None, None])
        place = rng.randrange(len(content)) if ends is None else ends + rng.randrange(3000)
        place = min(max(place, 0), len(content) - 1)
        stretch = slice(place, place + rng.randrange(1, 20))
        kind = rng.randrange(10)
        if kind < 6:
            content[place] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif kind < 7:
            del content[stretch]
        elif kind < 8:
            content[place:place] = content[stretch]
        elif kind < 9:
            content[place] = ord(rng.choice([o.code for o in pickletools.opcodes]))
        elif rng.randrange(4) == 0:
            del content[place + 1 :]
    return bytes(content)


def fuzz(tmp_path, cases, seed):
    """Mutated files end in a ValueError or a whole import; returns how many in which."""
    rng = random.Random(seed)
    state = random_state(TINY)
    originals = {format: WRITERS[format](tmp_path / format, state) for format in WRITERS}
    contents = {format: path.read_bytes() for format, path in originals.items()}
    expected = import_torch(originals["zip"], TINY)
    outcomes = {"refused": 0, "imported": 0}
    tracemalloc.start()
    for case in range(cases):
        format = rng.choice(list(WRITERS))
        (tmp_path / "mutated").write_bytes(mutate(contents[format], rng))
        tracemalloc.reset_peak()
        try:
            # Before the model's shapes are traced, which most files do not reach.
            read_state_dict(tmp_path / "mutated")
            variables = import_torch(tmp_path / "mutated", TINY)
        except ValueError:
            outcomes["refused"] += 1
        else:
            outcomes["imported"] += 1
            assert_imported(variables, expected, exact=format == "zip", case=case)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20, case
    tracemalloc.stop()
    return outcomes


def assert_imported(variables, expected, *, exact, case):
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected), case
    # The legacy format has no checksums: its numbers are what the file says.
    if exact:
        jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_fuzz(tmp_path):
    outcomes = fuzz(tmp_path, cases=100, seed=0)
    assert outcomes["refused"] > 25
    assert outcomes["imported"] > 2


@pytest.mark.slow
def test_fuzz_long(tmp_path, request):
    fuzz(tmp_path, cases=request.config.getoption("--fuzz-cases"), seed=1)
