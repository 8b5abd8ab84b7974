"""Continue a text with a trained model of the application "language".

    python -m mdeq_jax.commands.generate --checkpoint runs/text_pydoc --prompt 'The "for" statement'

The text is written to stdout as it is made. The last line is one JSON object: the text, tokens per
second (without the first token, which includes the compilation), and solver steps per token. Each
token is one solve, which starts from the equilibrium of the position before it; --nowarm-start
starts from zeros instead. A prompt may be longer than the memory: what lies further back than the
memory is forgotten. The vocabulary is stored in the checkpoint, so the training text is not needed.
"""

import sys
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.language.data.corpus import stored_vocabulary
from mdeq_jax.language.data.vocabulary import Vocabulary
from mdeq_jax.language.generation import Generator, Sampling
from mdeq_jax.language.model.create import create_model
from mdeq_jax.training.evaluation import evaluation_layer

# Most unknown words of a prompt that a message names.
_NAMED = 5


def main(
    checkpoint: str,
    prompt: str,
    *,
    length: int,
    sampling: Sampling,
    seed: int = 0,
    memory: int | None = None,
    warm_start: bool = True,
) -> dict[str, Any]:
    """Write a prompt and its continuation to stdout, and return the text and its cost.

    Args:
      checkpoint: a workdir, its best/, or one step's folder.
      prompt: the text to continue.
      length: number of tokens to generate, at least 1.
      sampling: how tokens are chosen.
      seed: seed of the draws, in [0, 2³²).
      memory: number of positions of the memory; None is the most that training has seen,
        config.model.memory or config.data.length.
      warm_start: whether each solve starts from the equilibrium of the position before.

    Raises:
      ValueError: the checkpoint is of another application, or its vocabulary does not fit; or the
        prompt is empty or has a token that the vocabulary lacks.
    """
    trained = applications.load_trained_as("language", checkpoint)
    config = trained.config
    vocabulary = stored_vocabulary(trained)
    tokens = encode_prompt(prompt, vocabulary)
    positions = memory or max(config.model.memory, config.data.length)
    generator = Generator(
        create_model(config.model, len(vocabulary), config.compute_dtype),
        trained.variables,
        evaluation_layer(config, config.train.unrolled_at(trained.step)),
        positions=positions,
        piece=config.data.length,
        warm_start=warm_start,
    )
    position, add = generator.read(tokens), vocabulary.decoder()
    parts = [add(int(number)) for number in tokens]
    print("".join(parts), end="", flush=True)
    steps, times = [], []
    for token in generator.generate(position, length, jax.random.key(seed), sampling):
        parts.append(add(token.number))
        print(parts[-1], end="", flush=True)
        steps.append(token.solver_steps)
        times.append(time.monotonic())
    print()
    several = length > 1
    return {
        "text": "".join(parts),
        "tokens": length,
        "tokens_per_s": (length - 1) / (times[-1] - times[0]) if several else None,
        "solver_steps": float(np.mean(steps[1:])) if several else None,
        "prompt_tokens": len(tokens),
        "prompt_solver_steps": float(position.solver_steps.mean()),
        "memory": positions,
    }


def encode_prompt(prompt: str, vocabulary: Vocabulary) -> np.ndarray:
    """Return the numbers of a prompt's tokens; name on stderr what the vocabulary lacks.

    Args:
      prompt: the text to continue.
      vocabulary: the vocabulary of the checkpoint.

    Raises:
      ValueError: the prompt is empty, or has a token that the vocabulary lacks, and there is no
        token for unknown ones.
    """
    missing, unknown = vocabulary.missing(prompt), vocabulary.unknown
    named = ", ".join(map(repr, missing[:_NAMED])) + ", ..." * (len(missing) > _NAMED)
    if missing and unknown is None:
        raise ValueError(
            f"--prompt has {named}, but the checkpoint's vocabulary of {len(vocabulary)} "
            f"{vocabulary.kind} has neither that nor a token for unknown ones; leave it out."
        )
    if missing and unknown is not None:
        stand_in = vocabulary.tokens[unknown]
        print(f"warning: --prompt has {named}, which is read as {stand_in!r}", file=sys.stderr)
    tokens = vocabulary.encode(prompt)
    if len(tokens) == 0:
        raise ValueError(f"--prompt is {prompt!r}, which has no {vocabulary.kind}; give some.")
    return tokens


def run() -> None:
    """Run the command under the flags of the process."""
    checkpoint = flags.DEFINE_string("checkpoint", None, cli.CHECKPOINT, required=True)
    prompt = flags.DEFINE_string("prompt", "\n", "The text to continue; by default a new line.")
    length = flags.DEFINE_integer("length", 200, "Number of tokens to generate.", 1)
    temperature = flags.DEFINE_float(
        "temperature", 1.0, "Below 1 prefers probable tokens; 0 takes the most probable one.", 0
    )
    top_k = flags.DEFINE_integer(
        "top-k", None, "Draw from this many of the most probable tokens; by default from all.", 1
    )
    seed = flags.DEFINE_integer("seed", 0, "Seed of the draws.", 0, 2**32 - 1)
    memory = flags.DEFINE_integer(
        "memory", None, "Positions of the memory; by default as many as training has seen.", 1
    )
    warm_start = flags.DEFINE_boolean(
        "warm-start", True, "Solve each token from the equilibrium of the position before it."
    )
    cli.run(
        __doc__,
        lambda: main(
            checkpoint.value,
            prompt.value,
            length=length.value,
            sampling=Sampling(temperature.value, top_k.value),
            seed=seed.value,
            memory=memory.value,
            warm_start=warm_start.value,
        ),
    )


if __name__ == "__main__":
    run()
