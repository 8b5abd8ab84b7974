"""TorchDEQ's version of `cifar10_large`: phantom gradients, SGD, no warm-up, no dropout.

    python train.py --config configs/cifar10_large_phantom.py --workdir runs/cifar10_large_phantom

There are 11,098,398 parameters, because the GroupNorm after the fusion is affine here.
Published: 95.0 % (`deq-zoo/mdeq`, locuslab/torchdeq). TorchDEQ (2 GPUs) also weight-normalises the
convolutions of the fusion; this model does not.
"""

from ml_collections import ConfigDict

from mdeq_jax.vision.config import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("cifar10_large")

    config.model.post_gn_affine = True
    config.model.dropout = 0.0

    config.solver.forward.stop_mode = "abs"
    config.adjoint.name = "phantom"
    config.adjoint.steps = 5
    config.adjoint.damping = 0.7

    config.data.eval_batch_size = 1000

    config.optim.name = "sgd"
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.momentum = 0.9
    config.optim.nesterov = False

    config.train.pretrain_steps = 0
    return config
