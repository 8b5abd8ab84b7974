"""A tiny language model on a tiny text, for tests of training and of generation."""

import jax

from mdeq_jax.language.config import Config, DataConfig, EvaluationConfig
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.training.config import TrainConfig
from mdeq_jax.training.layer_config import AdjointConfig, SolverConfig, SolversConfig

TEXT = "".join(f"{n} and {n + 1} are {2 * n + 1}.\n" for n in range(60))
MODEL = ModelConfig(width=8, embedding_width=8, heads=2, inner_width=16, memory=6)


def write_text(folder, text=TEXT):
    """Write a text into a folder."""
    (folder / "text.txt").write_text(text)
    return str(folder)


def config_of(root, *, data=None, **changes):
    """A config of a text in a folder."""
    return Config(
        **{
            "model": MODEL,
            "data": DataConfig(
                **{
                    "batch_size": 2,
                    "eval_batch_size": 2,
                    "text": "text_folder",
                    "root": root,
                    "length": 8,
                    **(data or {}),
                }
            ),
            "evaluation": EvaluationConfig(),
            "solver": SolversConfig(SolverConfig("picard", max_steps=200, tol=1e-6)),
            "adjoint": AdjointConfig("phantom", steps=2),
            "train": TrainConfig(steps=2, log_every=1000, eval_every=1000),
            **changes,
        }
    )


def lively(experiment):
    """Random variables whose words matter more than at first; solves of them converge."""
    variables = jax.jit(experiment.init)(jax.random.key(1))
    params = {name: variables["params"][name] for name in ("vocabulary", "injection")}
    larger = jax.tree.map(lambda x: 100 * x, params)
    return {**variables, "params": {**variables["params"], **larger}}
