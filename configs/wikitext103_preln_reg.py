"""Pre-LN DEQ-Transformer with Jacobian regularisation on WikiText-103, for accelerators.

    python train.py --config configs/wikitext103_preln_reg.py --workdir runs/wikitext103_preln_reg

Add --config.data.root=FOLDER. FOLDER has wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens,
or the same files as train.txt, valid.txt and test.txt.

Settings: `wt103_deq_transformer_preln_reg.sh` of locuslab/deq. Not trained to the end with this
code.

Source: Bai, Koltun and Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", ICML
2021.
"""

from ml_collections import ConfigDict

from mdeq_jax.training.config_files import load_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = load_config("wikitext103_deq_reg")
    config.model.kind = "pre"
    config.solver.forward.max_steps = 14
    config.solver.backward.max_steps = 14
    config.jacobian.probability = 0.4
    config.jacobian.weight = 2.0
    config.jacobian.increment_steps = 30_000
    return config
