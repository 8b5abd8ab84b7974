"""TorchDEQ's version of `imagenet_small`: phantom gradients, plain iteration, no warm-up.

    python train.py --config configs/imagenet_small_phantom.py --workdir runs/imagenet_small_phantom

Data: ImageNet (ILSVRC 2012), as in `configs/imagenet_small.py`. Published: 75.7 % top-1, and 73.6 %
when evaluated with `--config.solver.forward.max_steps=10` (`deq-zoo/mdeq`, locuslab/torchdeq; 2
GPUs).
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("imagenet_small")

    config.solver.forward.name = "picard"
    config.adjoint.name = "phantom"
    config.adjoint.steps = 5
    config.adjoint.damping = 1.0

    config.data.eval_batch_size = 100

    config.train.pretrain_steps = 0
    return config
