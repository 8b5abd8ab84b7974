"""The architecture, inferred from the names and shapes in a PyTorch file."""

import collections
import re
from collections.abc import Mapping
from typing import Any

from mdeq_jax.torch_files.fitting import Inferred
from mdeq_jax.vision.model import ModelConfig
from mdeq_jax.vision.torch_files.keys import HEAD_PARTS

Shapes = Mapping[str, tuple[int, ...]]
Options = dict[str, tuple[Any, ...]]

# Fields that no array depends on.
_UNSEEN = ("num_groups", "dropout")
_BRANCH = "fullstage.branches.{}.blocks.{}.{}.weight"


def infer(shapes: Shapes, given: Mapping[str, Any]) -> Inferred:
    """Return the architecture of a file's arrays.

    Args:
      shapes: shapes of PyTorch's arrays, by canonical name.
      given: values for fields of `ModelConfig` that the file does not determine.

    Raises:
      ValueError: the arrays are not an MDEQ's, or contradict the given fields.
    """
    possible = possible_fields(shapes)
    for field, value in given.items():
        if field in possible and value not in possible[field]:
            options = " or ".join(map(repr, possible[field]))
            raise ValueError(
                f"{field} is given as {value!r}; by the file's arrays it is {options}."
            )
    fields = {field: options[0] for field, options in possible.items()}
    groups = _fitting_groups(fields["branch_channels"], ModelConfig.num_groups)
    config = ModelConfig(**{**fields, "num_groups": groups, **given})
    ambiguous = [field for field, options in possible.items() if len(options) > 1]
    return Inferred(config, (*_UNSEEN, *ambiguous))


def possible_fields(shapes: Shapes) -> Options:
    """Return the values that fields of `ModelConfig` can have for the arrays of a file.

    Args:
      shapes: shapes of PyTorch's arrays, by canonical name.

    Returns:
      The possible values by field: one value if the file determines the field. A field that is left
      out may have any value.

    Raises:
      ValueError: the arrays are not an MDEQ's, or too many are missing.
    """
    shapes = {re.sub(r"\.weight_v$", ".weight", name): shape for name, shape in shapes.items()} | {
        name: shape for name, shape in shapes.items() if name.endswith(".weight_g")
    }
    blocks = _blocks(shapes)
    task = "segmentation" if "last_layer.0.weight" in shapes else "classification"
    head = _segmentation_head if task == "segmentation" else _classification_head
    return {
        "task": (task,),
        "blocks_per_branch": (blocks,),
        **_branches(shapes, blocks),
        **_stem(shapes, len(blocks)),
        **_switches(shapes, len(blocks)),
        **head(shapes, len(blocks)),
    }


def _blocks(shapes: Shapes) -> tuple[int, ...]:
    pattern = _BRANCH.replace(".", r"\.").format(r"(\d+)", r"(\d+)", "conv2")
    found = sorted(
        tuple(map(int, m.groups())) for m in map(re.compile(pattern).fullmatch, shapes) if m
    )
    blocks = tuple(collections.Counter(branch for branch, _ in found).values())
    if not blocks or found != [(i, j) for i, number in enumerate(blocks) for j in range(number)]:
        raise ValueError(
            "it is of no MDEQ, or blocks are missing: convolutions are needed in "
            f"{_BRANCH.format(0, 0, 'conv2')} and on; give the whole file of an MDEQ."
        )
    return blocks


def _branches(shapes: Shapes, blocks: tuple[int, ...]) -> Options:
    pairs = [
        [_shape(shapes, _BRANCH.format(i, 0, conv), 4) for conv in ("conv1", "conv2")]
        for i in range(len(blocks))
    ]
    widths = tuple(second[0] for _, second in pairs)
    expansions = {first[0] / second[0] for first, second in pairs}
    return {
        "branch_channels": (widths,),
        "big_kernels": (tuple(sum(conv[-1] == 5 for conv in pair) for pair in pairs),),
        "expansion": tuple(int(e) if e == int(e) else e for e in sorted(expansions)),
    }


def _stem(shapes: Shapes, branches: int) -> Options:
    extra = [
        int(m[1]) for m in map(re.compile(r"downsample\.DS(\d+)\.weight").fullmatch, shapes) if m
    ]
    if extra:
        return {"downsample_times": (max(extra),)}
    if "stage0.0.weight" not in shapes:
        return {"downsample_times": (0,)}
    # The shapes do not depend on the strides of the two convolutions. Two halvings are usual.
    return {"downsample_times": (2, 1, 0) if branches > 2 else (2, 1)}


def _switches(shapes: Shapes, branches: int) -> Options:
    def affine(part: str) -> tuple[bool, ...]:
        pattern = re.compile(rf"fullstage\.{part}\..*\.(gn\d|gnorm)\.weight")
        return (any(map(pattern.fullmatch, shapes)),)

    fused = {"fuse_gn_affine": affine("fuse_layers"), "post_gn_affine": affine("post_fuse_layers")}
    return {
        "weight_norm": (f"{_BRANCH.format(0, 0, 'conv1')}_g" in shapes,),
        "block_gn_affine": affine("branches"),
        **(fused if branches > 1 else {}),
    }


def _classification_head(shapes: Shapes, branches: int) -> Options:
    widths = [_shape(shapes, f"incre_modules.{i}.0.conv1.weight", 4)[0] for i in range(branches)]
    return {
        "head_channels": (tuple(widths),),
        "final_channels": (_shape(shapes, "final_layer.0.weight", 4)[0],),
        "num_classes": (_shape(shapes, "classifier.weight", 2)[0],),
    }


def _segmentation_head(shapes: Shapes, _: int) -> Options:
    shape = _shape(shapes, "last_layer.3.weight", 4)
    return {"num_classes": shape[:1], "final_conv_kernel": shape[-1:]}


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != dimensions or 0 in shape:
        problem = "is missing" if shape is None else f"has the shape {shape}"
        lacking = ", ".join(f"'{part}.*'" for part in _lacking(shapes, name.split(".")[0]))
        raise ValueError(
            f"its architecture cannot be told: {name} {problem}. Give the architecture by a config "
            "(--config in place of --infer), and name what may be missing: "
            f"allow_missing=[{lacking}], on the command line --allow-missing."
        )
    return shape


def _lacking(shapes: Shapes, part: str) -> list[str]:
    """Return a part of the model, and all parts of the same head that the file lacks."""
    there = {name.split(".")[0] for name in shapes}
    head = next((parts for parts in HEAD_PARTS.values() if part in parts), set())
    return sorted({part} | (head - there))


def _fitting_groups(widths: tuple[int, ...], most: int) -> int:
    """Return the largest number of groups, at most `most`, that these widths allow."""
    fused = len(widths) > 1  # then GroupNorm after the fusion has half as many groups
    for groups in range(most, 1, -1):
        needed = (groups, groups // 2) if fused else (groups,)
        if all(width % number == 0 for width in widths for number in needed):
            return groups
    return most if fused else 1
