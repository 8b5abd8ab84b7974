"""The language model as an experiment: the next word, character or byte of a text.

    tokens, memory → injection u → z = cell(z, u, memory) → log p of the next token

Each row of a batch continues the text of the row before; the carry is the memory, the equilibria
and injections of its last positions.

Sources: Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019; Bai, Koltun and Kolter,
"Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021; DEQ-Sequence of
locuslab/deq.
"""

import functools
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mdeq_jax.language.config import Config
from mdeq_jax.language.data.corpus import Corpus, open_corpus
from mdeq_jax.language.data.streams import Streams, eval_streams, train_streams
from mdeq_jax.language.memory import lengthened, shortened
from mdeq_jax.language.model.create import create_model
from mdeq_jax.language.model.language_model import LanguageModel, Memory
from mdeq_jax.language.model.torch_files import import_with_report
from mdeq_jax.language.trigram import fit_trigram
from mdeq_jax.solvers import sample_keys
from mdeq_jax.torch_files.fitting import Imported
from mdeq_jax.training.evaluation import masked_sums, solver_statistics
from mdeq_jax.training.experiment import (
    Batch,
    Evaluation,
    Forward,
    Layer,
    Metrics,
    Prediction,
    Score,
    Variables,
    first_row,
)
from mdeq_jax.training.weights import load_matching

__all__ = ["Config", "Language", "create_experiment", "import_torch"]

# What the mean of −log p of a token is reported as.
UNITS = {
    "characters": "bits_per_character",
    "bytes": "bits_per_byte",
    "words": "perplexity",
}


class Language:
    """A DEQ-Transformer on a text, as `Experiment` describes it.

    Attributes:
      config: the config of the run.
      unit: "bits_per_character", "bits_per_byte" or "perplexity" (of words).
    """

    sample = "piece"
    record_name = "nll"

    def __init__(self, config: Config):
        """Take the config; the text is read when it is used."""
        self.config, self.unit = config, UNITS[config.data.vocabulary]
        self.score = Score(f"eval/{self.unit}", higher_is_better=False)
        self.progress: Mapping[str, str] = {self.unit: ".3f"}

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The text; raises ValueError if it cannot be read."""
        return open_corpus(self.config.data)

    @functools.cached_property
    def model(self) -> LanguageModel:
        """The network, for the vocabulary of the text."""
        config = self.config
        return create_model(config.model, len(self.corpus.vocabulary), config.compute_dtype)

    @property
    def train_size(self) -> int:
        """Return the number of pieces of the training text in an epoch."""
        data = self.config.data
        return Streams(self.corpus.train, data.batch_size, data.length).pieces * data.batch_size

    @property
    def positions(self) -> int:
        """Return the number of positions of the carry, the most that an evaluation asks for."""
        return max(self.config.model.memory, *self.config.evaluation.memories, 0)

    def init(self, key: PRNGKeyArray) -> Variables:
        """Return random parameters, and the vocabulary as a collection of its own."""
        tokens = jnp.zeros((1, self.config.data.length), jnp.int32)
        return {**self.model.init(key, tokens), "vocabulary": self._vocabulary}

    @property
    def _vocabulary(self) -> dict[str, Array]:
        """The vocabulary as arrays, under its fingerprint, which a checkpoint must have."""
        vocabulary = self.corpus.vocabulary
        return {vocabulary.fingerprint: jnp.asarray(vocabulary.to_array())}

    def require_vocabulary(self, variables: Variables) -> None:
        """Raise ValueError if variables are of another vocabulary than the text."""
        own = self.corpus.vocabulary
        stored = variables.get("vocabulary", {own.fingerprint: None})
        if own.fingerprint not in stored:
            raise ValueError(
                f"the weights are of the vocabulary {', '.join(stored)}, but the training text of "
                f"config.data has the vocabulary {own.fingerprint} of {len(own)} "
                f"{self.config.data.vocabulary}. Set config.data to the text of the checkpoint."
            )

    def init_carry(self, batch_size: int) -> Memory:
        """Return an empty memory."""
        return self.model.init_memory(batch_size, self.positions)

    def load_weights(self, variables: Variables, source: str) -> tuple[Variables, list[str]]:
        """Return variables with the weights of a checkpoint or a PyTorch file of this text."""
        allowed = self.config.init_from_allow_missing
        return load_matching(variables, source, allowed, self.import_file)

    def import_file(
        self,
        path: str | os.PathLike[str],
        *,
        allow_missing: Iterable[str] = (),
        drop: Iterable[str] = (),
    ) -> Imported:
        """Return the variables of a PyTorch file, with the vocabulary of the training text.

        Args:
          path: a file that `torch.save` wrote.
          allow_missing: PyTorch names, with ``*`` for any part, of arrays that get initial values
            if they are missing in the file.
          drop: PyTorch names, with ``*`` for any part, of arrays that are not read from the file.

        Raises:
          ValueError: the file cannot be read, or fits neither the network nor the vocabulary.
        """
        words = len(self.corpus.vocabulary)
        imported = import_with_report(
            path, self.config.model, words, allow_missing=allow_missing, drop=drop
        )
        variables = {**imported.variables, "vocabulary": self._vocabulary}
        return imported._replace(variables=variables)

    def train_batches(self) -> grain.DatasetIterator:
        """Return this process's share of the streams of the training text."""
        return train_streams(self.corpus.train, self.config.data)

    def evaluations(self) -> Mapping[str, Evaluation]:
        """Return "eval", and "eval/memoryM" and "eval/stepsN" for those of config.evaluation.

        Raises:
          ValueError: the text cannot be read, or is too small.
        """
        own, others = self.config.model.memory, self.config.evaluation
        self.eval_batches(own).close()  # what is missing is reported before the first step
        aligned = {} if self.unit == "perplexity" else {"trigram_bits": self._trigram_bits}
        found = {"eval": Evaluation(functools.partial(self.eval_batches, own, aligned))}
        for memory in others.memories:
            batches = functools.partial(self.eval_batches, memory)
            found[f"eval/memory{memory}"] = Evaluation(batches)
        for steps in others.steps:
            batches = functools.partial(self.eval_batches, own)
            found[f"eval/steps{steps}"] = Evaluation(batches, max_steps=steps)
        return found

    def eval_batches(
        self, memory: int, aligned: Mapping[str, np.ndarray] | None = None
    ) -> grain.DatasetIterator:
        """Return one pass over this process's share of the text that is evaluated.

        Args:
          memory: number of positions of the memory that are used.
          aligned: arrays of the length of the text, which the batches have beside the targets.
        """
        constants = {"memory": np.int32(memory)}
        return eval_streams(self._eval_tokens, self.config.data, aligned or {}, constants)

    @property
    def _eval_tokens(self) -> np.ndarray:
        return getattr(self.corpus, self.config.data.eval_split)

    @functools.cached_property
    def _trigram_bits(self) -> np.ndarray:
        """The bits of each token of the text that is evaluated, by the trigram model."""
        trigram = fit_trigram(self.corpus.train, len(self.corpus.vocabulary))
        return trigram.bits(self._eval_tokens).astype(np.float32)

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch unchanged."""
        return batch

    def forward(
        self,
        variables: Variables,
        batch: Batch,
        layer: Layer,
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
        carry: Any = (),
    ) -> Forward:
        """Return −log p of the targets, "nll" (B, L) in nats, and the memory of the next piece."""
        self.require_vocabulary(variables)
        keys = None if key is None else sample_keys(key, batch["tokens"], first_row(batch))
        memory = shortened(carry, self.config.model.memory) if train else carry
        out = self.model.apply(variables, batch["tokens"], memory, deq=layer, train=train, key=keys)
        outputs = self.decode(variables, out.hidden, batch, train=train)
        collections = {name: tree for name, tree in variables.items() if name != "params"}
        carry = lengthened(out.memory, self.positions)
        return Forward(outputs, out.solution, collections, carry)

    def decode(self, variables: Variables, z: PyTree, batch: Batch, *, train: bool) -> PyTree:
        """Return −log p of the targets in nats, {"nll": (B, L)}."""
        return {"nll": self.model.nll(variables, z, batch["targets"])}

    def loss(
        self, variables: Variables, outputs: PyTree, batch: Batch, axis_name: str | None
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the mean of −log p, and the same in the unit of the run."""
        loss = outputs["nll"].mean()
        # A mean of the devices' perplexities is not the perplexity of the batch.
        whole = loss if axis_name is None else lax.pmean(loss, axis_name)
        return loss, {self.unit: in_unit(whole, self.unit)}

    def predict(self, variables: Variables, batch: Batch, layer: Layer, carry: Any) -> Prediction:
        """Return −log p of the targets with a memory of at most ``batch["memory"]`` positions."""
        memory = carry._replace(filled=jnp.minimum(carry.filled, batch["memory"]))
        found = self.forward(variables, batch, layer, train=False, carry=memory)
        counted = jnp.where(batch["counted"], found.outputs["nll"], 0)
        statistics = solver_statistics(self.config, found.solution)
        return Prediction({"nll": counted}, statistics, found.carry)

    def sums(self, outputs: PyTree, batch: Batch) -> Mapping[str, PyTree]:
        """Return the sums of −log p, of the number of tokens, and of the trigram model's bits."""
        values = {"nll": outputs["nll"], "tokens": batch["counted"].astype(jnp.float32)}
        if "trigram_bits" in batch:
            values["trigram_bits"] = batch["trigram_bits"]
        return masked_sums({k: x.sum(axis=1) for k, x in values.items()}, batch["mask"])

    def summarize(self, sums: Mapping[str, PyTree]) -> dict[str, float]:
        """Return the score, the number of tokens, and where it is known the trigram model's bits.

        Each row of the text begins without a memory, and its first token is not predicted.
        """
        tokens = float(sums["tokens"])
        found = {self.unit: float(in_unit(sums["nll"] / tokens, self.unit)), "tokens": tokens}
        if "trigram_bits" in sums:
            found["trigram_bits"] = float(sums["trigram_bits"]) / tokens
        return found

    def record(self, outputs: PyTree) -> Array:
        """Return −log p of each target in nats, (B, L); 0 behind the end of a row."""
        return outputs["nll"]


def in_unit(nll: Any, unit: str) -> Any:
    """Return a mean of −log p in nats as perplexity, or in bits."""
    return jnp.exp(nll) if unit == "perplexity" else nll / math.log(2)


def create_experiment(config: Config) -> Language:
    """Return the experiment of a config."""
    return Language(config)


def import_torch(
    config: Config,
    path: str | os.PathLike[str],
    *,
    allow_missing: Iterable[str],
    drop: Iterable[str],
) -> Imported:
    """Return the variables of a file of locuslab/deq or TorchDEQ, and where they are from.

    Args:
      config: config whose sections ``model`` and ``data`` determine the network and the vocabulary.
        The files hold no vocabulary, so that the training text is needed.
      path: a file that `torch.save` wrote, with a state dict.
      allow_missing: PyTorch names, with ``*`` for any part, of arrays that get initial values if
        they are missing in the file.
      drop: PyTorch names, with ``*`` for any part, of arrays that are not read from the file.

    Raises:
      ValueError: the file or the text cannot be read, or the file does not fit the network.
    """
    return Language(config).import_file(path, allow_missing=allow_missing, drop=drop)
