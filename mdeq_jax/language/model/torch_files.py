"""Checkpoints of locuslab/deq's DEQ-Sequence and of TorchDEQ's deq-lm, converted to variables.

torch is not needed, and no code in a file is executed.
"""

import dataclasses
import functools
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import PyTree

from mdeq_jax.language.model.config import Kind, ModelConfig
from mdeq_jax.language.model.torch_layout import (
    canonical_name,
    converted,
    initial_arrays,
    wanted_arrays,
)
from mdeq_jax.torch_files.fitting import Imported
from mdeq_jax.torch_files.importing import Arrays, Shapes, Target, import_arrays
from mdeq_jax.torch_files.names import read_arrays
from mdeq_jax.torch_files.reader import LazyArray

_TABLE, _FREQUENCIES = "word_emb.emb_layers.0.weight", "pos_emb.inv_freq"
# Fields of `ModelConfig` that a file determines, beside tie_projections.
_INFERRED = (
    "kind",
    "width",
    "embedding_width",
    "heads",
    "inner_width",
    "layers",
    "cutoffs",
    "div_val",
)


def import_torch(
    path: str | os.PathLike[str],
    config: ModelConfig,
    vocabulary: int | None = None,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> PyTree:
    """Return the variables of a language model from a PyTorch file.

    Files of locuslab/deq ("post" and "pre") and of TorchDEQ's deq-lm ("stacked") are read, with and
    without weight norm. Weight norm is converted into the form of the config.

    Args:
      path: a file that `torch.save` wrote, with a state dict. A file with a whole pickled model,
        such as ``model.pt`` of locuslab/deq, is refused.
      config: the architecture of the model.
      vocabulary: number of words; None takes the number of words of the file.
      allow_missing: list of PyTorch names, with ``*`` for any part, that may be missing in the
        file. These arrays get initial values.
      drop: list of PyTorch names, with ``*`` for any part, that are not read from the file.

    Returns:
      {"params": ...} of numpy arrays as `LanguageModel.init` returns them, float32, or float64 if
      the file has float64.

    Raises:
      ValueError: the file cannot be read, or holds more than tensors and containers; arrays that
        must be equal differ; names and shapes do not fit the architecture, with a line for each
        misfit; or `allow_missing` or `drop` is a string and not a list.
    """
    found = import_with_report(path, config, vocabulary, allow_missing=allow_missing, drop=drop)
    return found.variables


def import_with_report(
    path: str | os.PathLike[str],
    config: ModelConfig,
    vocabulary: int | None = None,
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Imported:
    """Return the variables of `import_torch`, with the same arguments, and where they come from."""
    found = _read(path)
    words = _words(path, found) if vocabulary is None else vocabulary
    target = Target(
        wanted_arrays(config, words),
        lambda: initial_arrays(config, words),
        explain=lambda shapes: _explanations(shapes, config, words),
        why_ignored=_why_ignored,
        canonical=canonical_name,
        convert=functools.partial(converted, config),
    )
    shared = _without_copies(path, found, config)
    return import_arrays(path, shared, target, allow_missing=allow_missing, drop=drop)


def infer_config(path: str | os.PathLike[str], kind: Kind = "post") -> ModelConfig:
    """Return the architecture, inferred from the names and shapes in a PyTorch file.

    Fields on which no array depends have their defaults: memory, local, dropout rates and remat.

    Args:
      path: a file that `torch.save` wrote, with a state dict.
      kind: kind of a file of locuslab/deq, "post" or "pre", whose arrays are the same. A file of
        TorchDEQ is known to be "stacked".

    Raises:
      ValueError: the file cannot be read, or does not hold such a model.
    """
    found = _read(path)
    try:
        config = _infer({name: array.shape for name, array in found.items()}, kind)
    except _OtherModelError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    pairs = [(name, other) for name, other in _copies(found) if ".out_projs." in name]
    tied = all(_equal(found[name], found[other]) for name, other in pairs)
    return dataclasses.replace(config, tie_projections=tied)


class _OtherModelError(ValueError):
    """The arrays are of another model."""


def _read(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """Return the arrays of a file by TorchDEQ's names, kernels of 1×1 convolutions as matrices."""
    return {name: _as_matrix(name, a) for name, a in read_arrays(path, canonical_name).items()}


def _as_matrix(name: str, array: LazyArray) -> LazyArray:
    shape = array.shape
    if name.endswith(".weight_g") and math.prod(shape) == shape[0]:
        shape = (shape[0], 1, 1, 1)
    elif len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    return array._replace(shape=shape, read=lambda: array.read().reshape(shape))


def _why_ignored(name: str) -> str | None:
    return "frequencies of the positions, which are constants" if name == _FREQUENCIES else None


def _copies(arrays: Arrays) -> Iterator[tuple[str, str]]:
    """Yield names of the softmax's arrays with the embedding's that they may be copies of."""
    for name in arrays:
        if match := re.fullmatch(r"crit\.out_(layers|projs)\.(\d+)\.weight", name):
            others = [f"word_emb.emb_{match[1]}.{i}.weight" for i in (match[2], 0)]
            original = next((other for other in others if other in arrays), None)
            # The projection of the first cluster is never shared.
            if original and (match[1], match[2]) != ("projs", "0"):
                yield name, original


def _equal(array: LazyArray, other: LazyArray) -> bool:
    return np.array_equal(array.read(), other.read())


def _without_copies(
    path: str | os.PathLike[str], arrays: Arrays, config: ModelConfig
) -> dict[str, LazyArray]:
    """Return the arrays without those that are equal to another one in a tied model."""
    kept = dict(arrays)
    for name, original in _copies(arrays):
        projection = ".out_projs." in name
        if projection and not config.tie_projections:
            continue
        if not _equal(kept.pop(name), arrays[original]):
            remedy = (
                "Set config.model.tie_projections=False."
                if projection
                else "Only models whose embedding and softmax share the word vectors are read."
            )
            raise ValueError(f"{os.fspath(path)}: {name} and {original} differ. {remedy}")
    return kept


def _words(path: str | os.PathLike[str], arrays: Arrays) -> int:
    """Return the number of words; raises ValueError if there are none."""
    tables = _tables({name: array.shape for name, array in arrays.items()})
    if not tables:
        raise ValueError(f"{os.fspath(path)}: it holds no DEQ-Transformer: {_TABLE} is missing.")
    return sum(words for words, _ in tables)


def _tables(shapes: Shapes) -> list[tuple[int, ...]]:
    """Return the shapes (words, width) of the embedding's tables."""
    names = (f"word_emb.emb_layers.{i}.weight" for i in itertools.count())
    return [shapes[name] for name in itertools.takewhile(shapes.__contains__, names)]


def _infer(shapes: Shapes, kind: Kind) -> ModelConfig:
    """Return the architecture of arrays of these shapes; tie_projections has its default.

    Raises:
      _OtherModelError: an array that tells a width is missing.
    """
    attention, tables = "func.dec_attn.0", _tables(shapes)
    needed = ("injection.weight", f"{attention}.r_w_bias", "func.pos_ff.0.ff1_net.bias", _TABLE)
    if missing := [name for name in needed if name not in shapes]:
        raise _OtherModelError(f"it holds no DEQ-Transformer: {missing[0]} is missing.")
    if len(tables) == 1 and "crit.cluster_weight" in shapes:
        raise _OtherModelError("its clusters share one table, which does not tell the cutoffs.")
    stacked = f"{attention}.ln1.weight" in shapes
    layers = sum(name.endswith(".r_w_bias") for name in shapes)
    return ModelConfig(
        kind="stacked" if stacked else kind,
        width=shapes["injection.weight"][-1],
        embedding_width=tables[0][1],
        heads=shapes[f"{attention}.r_w_bias"][0],
        inner_width=shapes["func.pos_ff.0.ff1_net.bias"][0],
        layers=layers if stacked else ModelConfig.layers,
        cutoffs=tuple(itertools.accumulate(words for words, _ in tables[:-1])),
        div_val=_div_val([width for _, width in tables]),
        weight_norm=f"{attention}.qkv_net.weight_g" in shapes,
    )


def _div_val(widths: Sequence[int]) -> int:
    """Return the divisor of which cluster i has the power i.

    Raises:
      _OtherModelError: the widths have no such divisor.
    """
    for divisor in range(1, widths[0] + 1):
        if all(width == widths[0] // divisor**i for i, width in enumerate(widths)):
            return divisor
    raise _OtherModelError(f"its word vectors have the widths {widths}, without a common divisor.")


def _explanations(shapes: Shapes, config: ModelConfig, vocabulary: int) -> list[str]:
    """Return where the model differs from the one inferred from the file."""
    try:
        found = _infer(shapes, "pre" if config.kind == "pre" else "post")
    except _OtherModelError as error:
        return [str(error)]
    # The same weights fit with and without weight norm.
    pairs = [
        (f"config.model.{field}", getattr(config, field), getattr(found, field))
        for field in _INFERRED
        if field != "layers" or config.kind == "stacked"
    ]
    pairs.append(("the number of words", vocabulary, sum(words for words, _ in _tables(shapes))))
    return [
        f"{name} is {ours!r}; by the file's arrays it is {theirs!r}"
        for name, ours, theirs in pairs
        if ours != theirs
    ]
