"""DEQ-Transformer on WikiText-103, for accelerators.

    python train.py --config configs/wikitext103_deq.py --workdir runs/wikitext103_deq

Add --config.data.root=FOLDER. FOLDER has wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens,
or the same files as train.txt, valid.txt and test.txt. With --config.data.eval_split=test the test
set is evaluated.

Published: perplexity 23.8 on the test set with 30 solver steps, 23.1 for the released weights with
a memory of 300 (locuslab/deq, README of DEQ-Sequence). Settings: `wt103_deq_transformer.sh` there.
Not trained to the end with this code.

Source: Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019.
"""

import dataclasses

from ml_collections import ConfigDict

from mdeq_jax.language.config import Config
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    model = dataclasses.replace(ModelConfig.published("deq"), memory=150, dropout=0.05)
    config = to_config_dict(Config(model=model))
    config.data.text = "wikitext103"
    config.data.vocabulary = "words"
    config.data.batch_size = 56
    config.data.eval_batch_size = 16
    config.data.length = 150
    config.solver.forward.name = "anderson"
    config.solver.forward.max_steps = 30
    config.solver.backward.name = "broyden"
    config.solver.backward.max_steps = 35
    config.optim.learning_rate = 2.5e-4
    config.optim.learning_rate_floor = 0.0
    config.optim.warmup_steps = 16_000
    config.optim.clip_norm = 0.25
    config.train.steps = 300_000
    config.train.pretrain_steps = 32_000
    config.train.num_layers = 2
    config.train.eval_every = 5_000
    config.train.checkpoint_seconds = 600.0
    config.evaluation.memories = (300, 480)
    return config
