"""The originals' PyTorch names of parameters and ours, and the layouts of their files."""

import fnmatch
import re

from mdeq_jax.torch_files.names import plain_name
from mdeq_jax.vision.model import ModelConfig

# Layers. {i}, {j}, {k} are numbers, {layer} is the same name on both sides. If two rows fit one
# of ours, the first holds. Source: `mdeq_core.py` and `mdeq.py` in `lib/models`, locuslab/deq.
# PyTorch                                       ours
_BODY = """
downsample.0                                    stem/downsample_0/conv
downsample.1                                    stem/downsample_0/bn
downsample.3                                    stem/downsample_1/conv
downsample.4                                    stem/downsample_1/bn
downsample.DS{k+1}                              stem/downsample_{k}/conv
downsample.DS{k+1}-BN                           stem/downsample_{k}/bn
stage0.0                                        stem/stage0/conv
stage0.1                                        stem/stage0/bn

fullstage.branches.{i}.blocks.{j}.{layer}       cell/branches_{i}_blocks_{j}/{layer}
fullstage.fuse_layers.{i}.{j}.net.{k}.{layer}   cell/fuse_layers_{i}_{j}/net_{k}/{layer}
fullstage.fuse_layers.{i}.{j}.net.{layer}       cell/fuse_layers_{i}_{j}/net/{layer}
fullstage.post_fuse_layers.{i}.{layer}          cell/post_fuse_layers_{i}/{layer}
"""
_HEADS = {
    "classification": """
incre_modules.{i}.0.conv{k}                     head/incre_modules_{i}/layer{k}/conv
incre_modules.{i}.0.bn{k}                       head/incre_modules_{i}/layer{k}/bn
incre_modules.{i}.0.downsample.0                head/incre_modules_{i}/shortcut/conv
incre_modules.{i}.0.downsample.1                head/incre_modules_{i}/shortcut/bn
downsamp_modules.{i}.0                          head/downsamp_modules_{i}/conv
downsamp_modules.{i}.1                          head/downsamp_modules_{i}/bn
final_layer.0                                   head/final_layer/conv
final_layer.1                                   head/final_layer/bn
classifier                                      head/classifier
""",
    "segmentation": """
last_layer.0                                    head/last_layer/conv
last_layer.1                                    head/last_layer/bn
last_layer.3                                    head/pixel_classifier
""",
}


def _parts(table: str) -> set[str]:
    return {re.split(r"\W", row)[0] for row in table.split("\n") if row}


# First words of PyTorch names, by task.
HEAD_PARTS = {task: _parts(table) for task, table in _HEADS.items()}
_PARTS = _parts(_BODY).union(*HEAD_PARTS.values())

# Modules around a part of the model: DataParallel and torch.compile.
_WRAPPER = re.compile(r"(?<=\.)(module|_orig_mod)\.")
# TorchDEQ's name of the cell, and the originals' name.
_RENAMED = {"full_stage.": "fullstage."}
_IGNORED = {
    "*.num_batches_tracked": "counters of BatchNorm, which nothing depends on",
    "n_averaged": "the counter of AveragedModel, which nothing depends on",
    "fullstage_copy.*": "copies of the cell in the 2020 layout",
    "deq.func.*": "copies of the cell in the 2020 layout",
    "deq.func_copy.*": "copies of the cell in the 2020 layout",
    "loss.*": "class weights of the segmentation trainer's loss",
}
_IGNORED_OF_ONE_BRANCH = {"fullstage.post_fuse_layers.*": "not used by a model of one branch"}


def canonical_name(name: str) -> str:
    """Return the originals' name for a name of any layout.

    Wrappers inside a name are removed only where the name begins with a part of an MDEQ: in another
    model, "module" may be the name of a layer.

    Examples:
      >>> canonical_name("module._orig_mod.full_stage._orig_mod.branches.0")
      'fullstage.branches.0'
      >>> canonical_name("conv1.parametrizations.weight.original0")
      'conv1.weight_g'
    """
    name = plain_name(name)
    for start, renamed in _RENAMED.items():
        if name.startswith(start):
            name = renamed + name.removeprefix(start)
    if name.split(".")[0] in _PARTS:
        name = _WRAPPER.sub("", name)
    return name


def why_ignored(name: str, config: ModelConfig) -> str | None:
    """Return why a model does not use a canonical name, or None if it uses it."""
    rules = _IGNORED | (_IGNORED_OF_ONE_BRANCH if config.num_branches == 1 else {})
    return next((why for rule, why in rules.items() if fnmatch.fnmatchcase(name, rule)), None)


def layer_table(task: str) -> str:
    """Return PyTorch's names of layers and ours, a row for each, for a task."""
    return _BODY + _HEADS[task]
