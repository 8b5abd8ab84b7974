"""Characters of Python's language reference, on a CPU in minutes.

    python train.py --config configs/text_pydoc.py --workdir runs/text_pydoc

A small DEQ-Transformer. No data are downloaded: the text is the one of `pydoc_data.topics`, which
comes with Python, with each of its paragraphs once; it has 373,423 characters in Python 3.11.7. The
final JSON has the bits per character of a part of the text that training does not see, and those of
an interpolated trigram model there (`eval/trigram_bits`).

Sources: Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019; Bai, Koltun and Kolter,
"Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021.
"""

from ml_collections import ConfigDict

from mdeq_jax.language.config import Config
from mdeq_jax.training.sections import to_config_dict


def get_config() -> ConfigDict:
    """Return the config."""
    config = to_config_dict(Config())
    config.data.length = 32
    config.model.memory = 32
    config.optim.learning_rate = 3e-3
    config.optim.warmup_steps = 200
    # The weight grows from 0, because a strong penalty keeps attention from forming.
    config.jacobian.probability = 0.3
    config.jacobian.increment_steps = 1000
    config.train.steps = 4000
    config.train.eval_every = 2000
    config.evaluation.memories = (0, 128)
    config.evaluation.steps = (6, 24)
    return config
