"""TorchDEQ's deq-lm on WikiText-103, for accelerators.

    python train.py --config configs/wikitext103_torchdeq.py --workdir runs/wikitext103_torchdeq

Add --config.data.root=FOLDER. FOLDER has wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens,
or the same files as train.txt, valid.txt and test.txt.

Training applies the cell 12 times and differentiates through all applications, whose inside is
computed again in the backward pass. The last evaluation takes 12 plain steps, which are the same
applications.

Published: perplexity 22.34 with a memory of 150, 21.85 with 480 (deq-zoo/deq-lm of
locuslab/torchdeq). Settings: `run.sh` there. Not trained to the end with this code.

Source: Geng and Kolter, "TorchDEQ: A Library for Deep Equilibrium Models", 2023.
"""

import dataclasses

from ml_collections import ConfigDict

from mdeq_jax.language.config import Config
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.training.layer_config import SolverConfig, SolversConfig
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    published = ModelConfig.published("torchdeq")
    model = dataclasses.replace(published, memory=150, dropout=0.05, remat=True)
    solver = SolversConfig(SolverConfig("picard", max_steps=12, tol=1e-3))
    config = to_config_dict(Config(model=model, solver=solver))
    config.data.text = "wikitext103"
    config.data.vocabulary = "words"
    config.data.batch_size = 56
    config.data.eval_batch_size = 16
    config.data.length = 150
    config.optim.learning_rate = 2.5e-4
    config.optim.learning_rate_floor = 0.0
    config.optim.warmup_steps = 8_000
    config.optim.clip_norm = 0.25
    config.train.steps = 150_000
    config.train.pretrain_steps = 150_000
    config.train.num_layers = 12
    config.train.eval_every = 5_000
    config.train.checkpoint_seconds = 600.0
    config.evaluation.memories = (480,)
    return config
