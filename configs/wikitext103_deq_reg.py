"""DEQ-Transformer with Jacobian regularisation on WikiText-103, for accelerators.

    python train.py --config configs/wikitext103_deq_reg.py --workdir runs/wikitext103_deq_reg

Add --config.data.root=FOLDER. FOLDER has wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens,
or the same files as train.txt, valid.txt and test.txt.

Published: perplexity 23.8 on the test set (locuslab/deq, README of DEQ-Sequence). Settings:
`wt103_deq_transformer_reg.sh` there. Not trained to the end with this code.

Source: Bai, Koltun and Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", ICML
2021.
"""

from ml_collections import ConfigDict

from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("wikitext103_deq")
    config.model.memory = 300
    config.model.dropout = 0.06
    config.model.attention_dropout = 0.01
    config.solver.forward.max_steps = 12
    config.solver.backward.max_steps = 13
    config.jacobian.probability = 0.35
    config.jacobian.weight = 1.9
    config.jacobian.increment_steps = 35_000
    config.jacobian.step_jitter = 2
    config.evaluation.memories = (150, 480)
    return config
