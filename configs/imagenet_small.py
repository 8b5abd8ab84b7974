"""ImageNet, four branches, 16,808,936 parameters.

    python train.py --config configs/imagenet_small.py --workdir runs/imagenet_small

Data: ImageNet (ILSVRC 2012), random resized crops of 224×224, flipped; evaluated on the central
224×224 of images whose shorter side is 256. Published: 75.4 % top-1 at 27 steps (arXiv 2106.14342,
ICML 2021, table 2). Source: `experiments/imagenet/cls_mdeq_SMALL.yaml`, locuslab/deq (4 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import default_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = default_config()

    config.model.num_classes = 1000
    config.model.branch_channels = (32, 64, 128, 256)
    config.model.blocks_per_branch = (1, 1, 1, 1)
    config.model.big_kernels = (0, 0, 0, 0)
    config.model.head_channels = (24, 48, 96, 192)
    config.model.final_channels = 2048
    config.model.downsample_times = 2
    config.model.post_gn_affine = True

    config.solver.forward.max_steps = 26
    config.solver.backward.max_steps = 27
    config.solver.forward.stop_mode = "abs"

    config.data.name = "imagenet2012"
    config.data.image_size = (224, 224)
    config.data.batch_size = 128
    config.data.eval_batch_size = 128

    config.optim.name = "sgd"
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-5
    config.optim.momentum = 0.9
    config.optim.nesterov = True

    config.train.epochs = 100
    config.train.pretrain_steps = 510_000
    config.train.num_layers = 5
    return config
