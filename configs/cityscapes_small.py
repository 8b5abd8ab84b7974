"""Cityscapes segmentation, four branches, 8,968,467 parameters, starting from an ImageNet model.

    python train.py --config configs/cityscapes_small.py --workdir runs/cityscapes_small \\
        --config.init_from=runs/imagenet_small

Data: Cityscapes, 2,975 finely annotated training and 500 validation images of 2048×1024;
docs/segmentation_data.md says how to prepare it. Training takes crops of 1024×512 at a random scale
of 0.5 to 2.1, randomly flipped; evaluation takes full images. Published: 75.1 % mIoU on the
validation set (arXiv 2006.08656); the authors' released weights reach 76.5. Source:
`experiments/cityscapes/seg_mdeq_SMALL.yaml`, locuslab/deq (4 GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import default_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = default_config()

    config.model.task = "segmentation"
    config.model.num_classes = 19
    config.model.branch_channels = (32, 64, 128, 256)
    config.model.blocks_per_branch = (1, 1, 1, 1)
    config.model.big_kernels = (0, 0, 0, 0)
    config.model.downsample_times = 2
    config.model.post_gn_affine = True
    config.model.dropout = 0.05

    config.solver.forward.max_steps = 27
    config.solver.backward.max_steps = 30
    config.solver.forward.stop_mode = "abs"

    # Weights of road, sidewalk, building, ..., from `lib/datasets/cityscapes.py`, locuslab/deq.
    config.loss.class_weights = (
        *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
        *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
    )

    config.data.name = "cityscapes"
    config.data.image_size = (512, 1024)
    config.data.batch_size = 12
    config.data.eval_batch_size = 4
    config.data.threads = 8

    config.optim.name = "sgd"
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 2e-4
    config.optim.momentum = 0.9
    config.optim.nesterov = False

    config.train.epochs = 500
    config.train.pretrain_steps = 60_000
    config.train.num_layers = 3
    return config
