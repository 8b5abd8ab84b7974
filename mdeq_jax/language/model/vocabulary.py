"""Adaptive embedding and adaptive softmax, which share their word vectors.

Sources: Grave et al., "Efficient softmax approximation for GPUs", ICML 2017, arXiv 1609.04309;
Baevski and Auli, "Adaptive Input Representations", ICLR 2019, arXiv 1809.10853; DEQ-Sequence/utils
of locuslab/deq.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.layers.modules import compute_dtype, normal_init
from mdeq_jax.solvers.norms import to_working_dtype

# Positions whose logits are in memory at once, where there are several clusters.
_BLOCK = 256


class Vocabulary(nn.Module):
    """Word vectors, as the input of the cell and as the classes of the softmax.

        embed(w) = √D P_iᵀ e_w                                      for a word w of cluster i
        log p(w) = log softmax([E₀ Q₀ z + b₀, C Q₀ z + c])_w        for a word of the first cluster
        log p(w) = log p(cluster i) + log softmax(E_i Q_i z + b_i)_w    for other words

    Words are numbered by falling frequency: the first cluster has the widest vectors. P_i and Q_i
    are the projections of embedding and softmax, which may be shared. One cluster is the ordinary
    softmax.

    Attributes:
      config: the architecture.
      size: number of words V.
      dtype: dtype in which the linear maps compute; None is the dtype of inputs and parameters.
    """

    config: ModelConfig
    size: int
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        config = self.config
        self.clusters = list(itertools.pairwise([0, *config.cutoffs, self.size]))
        # Clusters of equally wide vectors are rows of one table.
        rows = self.clusters if config.div_val > 1 else [(0, self.size)]
        sizes = [stop - start for start, stop in rows]
        widths = [config.embedding_width // config.div_val**i for i in range(len(rows))]
        zeros = nn.initializers.zeros

        self.tables = [
            self.param(f"table_{i}", normal_init, shape)
            for i, shape in enumerate(zip(sizes, widths, strict=True))
        ]
        self.biases = [self.param(f"bias_{i}", zeros, (n,)) for i, n in enumerate(sizes)]
        if others := len(config.cutoffs):
            shape = (others, config.embedding_width)
            self.cluster_table = self.param("cluster_table", normal_init, shape)
            self.cluster_bias = self.param("cluster_bias", zeros, (others,))
        # The softmax has a projection of its own for the first cluster, shared or not.
        own = 1 if config.tie_projections else len(self.clusters)
        self.input_projections = self._projections("input", widths, len(rows))
        self.output_projections = self._projections("output", widths, own)

    def _projections(self, name: str, widths: list[int], count: int) -> list[Array]:
        if not self.config.has_projections:
            return []
        # All clusters of one table have its width.
        ins = [widths[min(i, len(widths) - 1)] for i in range(count)]
        return [
            self.param(f"{name}_projection_{i}", normal_init, (width, self.config.width))
            for i, width in enumerate(ins)
        ]

    def embed(self, words: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Return the projected word vectors, times √D.

        Args:
          words: word numbers in [0, V).
        """
        starts = [start for start, _ in self.clusters][: len(self.tables)]
        embedded = []
        for i, (table, start) in enumerate(zip(self.tables, starts, strict=True)):
            vectors = jnp.take(table, words - start, axis=0, mode="clip")
            if self.config.has_projections:
                vectors = self._matmul(vectors, self.input_projections[i])
            inside = (words >= start) & (words < start + len(table))
            embedded.append(jnp.where(inside[..., None], vectors, 0))
        return math.sqrt(self.config.width) * functools.reduce(jnp.add, embedded)

    def nll(
        self, z: Float[Array, "*shape D"], words: Int[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """Return −log p of each position's word.

        With several clusters, positions are sorted by word and taken in blocks. A block computes
        only the clusters that its words are in, and its logits again in the backward pass.

        Args:
          z: states.
          words: word numbers in [0, V).
        """
        if len(self.clusters) == 1:
            return self._nll(z, words)
        flat = jnp.asarray(z).reshape(-1, z.shape[-1])
        targets = jnp.asarray(words).reshape(-1)
        order = jnp.argsort(targets)
        size = min(_BLOCK, len(order))
        # The last words are repeated to fill the last block.
        blocks = jnp.pad(order, (0, -len(order) % size), mode="edge").reshape(-1, size)
        each = jax.checkpoint(lambda block: self._nll(flat[block], targets[block]))
        return lax.map(each, blocks).reshape(-1)[jnp.argsort(order)].reshape(words.shape)

    def _nll(
        self, z: Float[Array, "*shape D"], words: Int[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """Return −log p of words, computing only clusters that one of them is in."""
        head = self._head(z)
        cluster = (words[..., None] >= np.array(self.config.cutoffs, int)).sum(axis=-1)
        # The head numbers the other clusters from its end, as locuslab/deq does.
        nll = -_pick(head, jnp.where(cluster == 0, words, head.shape[-1] - cluster))
        for i in range(1, len(self.clusters)):
            add_tail = functools.partial(self._add_tail, i)
            inside = cluster == i
            nll = lax.cond(inside.any(), add_tail, lambda nll, *_: nll, nll, z, words, inside)
        return nll

    def _add_tail(self, i: int, nll: Array, z: Array, words: Array, inside: Array) -> Array:
        """Return nll minus log p of the words of cluster i, given the cluster."""
        start, stop = self.clusters[i]
        within = jnp.clip(words - start, 0, stop - start - 1)
        return nll - jnp.where(inside, _pick(self._tail(z, i), within), 0)

    def log_probabilities(self, z: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Return log p of every word.

        Args:
          z: states.
        """
        head = self._head(z)
        tails = [head[..., -i, None] + self._tail(z, i) for i in range(1, len(self.clusters))]
        return jnp.concatenate([head[..., : self.clusters[0][1]], *tails], axis=-1)

    def _head(self, z: Float[Array, "*shape D"]) -> Float[Array, "*shape words"]:
        """Return log p of the first cluster's words, then of the other clusters."""
        table, bias = self._cluster(0)
        if self.config.cutoffs:
            table = jnp.concatenate([table, self.cluster_table])
            bias = jnp.concatenate([bias, self.cluster_bias])
        return self._log_softmax(z, 0, table, bias)

    def _tail(self, z: Float[Array, "*shape D"], i: int) -> Float[Array, "*shape words"]:
        """Return log p of the words of cluster i, given the cluster."""
        return self._log_softmax(z, i, *self._cluster(i))

    def _cluster(self, i: int) -> tuple[Float[Array, "words E"], Float[Array, " words"]]:
        """Return vectors and biases of cluster i."""
        if len(self.tables) > 1:
            return self.tables[i], self.biases[i]
        rows = slice(*self.clusters[i])
        return self.tables[0][rows], self.biases[0][rows]

    def _log_softmax(self, z: Array, i: int, table: Array, bias: Array) -> Array:
        if self.config.has_projections:
            own, shared = self.output_projections, self.input_projections
            projection = own[i] if i < len(own) else shared[min(i, len(shared) - 1)]
            z = self._matmul(z, projection.T)
        return jax.nn.log_softmax(to_working_dtype(self._matmul(z, table.T)) + bias)

    def _matmul(self, x: Array, kernel: Array) -> Array:
        x = x if self.dtype is None else x.astype(self.dtype)
        return x @ kernel.astype(compute_dtype(x, kernel))


def _pick(log_p: Float[Array, "*shape words"], words: Int[Array, "*shape"]) -> Array:
    return jnp.take_along_axis(log_p, words[..., None], axis=-1)[..., 0]
