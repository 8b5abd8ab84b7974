"""`digit_scenes` with a second head, for the digit with the most pixels; 287,782 parameters.

    python train.py --config configs/digit_scenes_multitask.py --workdir runs/digit_scenes_multitask

One equilibrium, two tasks: the loss of the classification head is added with the weight
`loss.classification_weight`. Evaluation reports `eval/segmentation_miou` and
`eval/classification_accuracy`. These commands train either task by itself, for comparison:

    python train.py --config configs/digit_scenes.py --workdir runs/digit_scenes
    python train.py --config configs/digit_scenes_multitask.py --workdir runs/digit_scenes_image \\
        --config.model.task=classification --config.model.extra_heads="()" \\
        --config.loss.class_weights=None

`--config.model.extra_heads="('classification', 'scales')"` adds an auxiliary loss on the
equilibrium of each branch, with the weight `loss.scale_weight`.
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("digit_scenes")

    config.model.extra_heads = ("classification",)
    config.model.head_channels = (8, 16, 24)
    config.model.final_channels = 128
    return config
