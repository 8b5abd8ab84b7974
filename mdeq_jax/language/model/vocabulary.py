"""Adaptive embedding and adaptive softmax, which share their word vectors.

Sources: Grave et al., "Efficient softmax approximation for GPUs", ICML 2017, arXiv 1609.04309;
Baevski and Auli, ICLR 2019, arXiv 1809.10853; DEQ-Sequence/utils of locuslab/deq.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.layers.modules import compute_dtype, normal_init
from mdeq_jax.solvers.norms import to_working_dtype


class Vocabulary(nn.Module):
    """Word vectors, as the input of the cell and as the classes of the softmax.

        embed(w) = √D P_i e_w                                       for a word w of cluster i
        log p(w) = log softmax([E₀ Q₀ᵀz + b₀, C Q₀ᵀz + c])_w        for a word of the first cluster
        log p(w) = log p(cluster i) + log softmax(E_i Q_iᵀz + b_i)_w    for the others

    Words are numbered by frequency, so that the frequent ones have the wide vectors. P_i and Q_i
    are the projections of embedding and softmax. With one projection-free cluster this is the full
    softmax. All positions are computed in all clusters, because shapes are static.

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
        config, bounds = self.config, [0, *self.config.cutoffs, self.size]
        self.ranges = list(zip(bounds, bounds[1:], strict=False))
        # Equally wide clusters are rows of one table.
        split = config.div_val > 1
        tables = self.ranges if split else [(0, self.size)]
        widths = [config.embedding_width // config.div_val**i for i in range(len(tables))]
        self.tables = [
            self.param(f"table_{i}", normal_init, (stop - start, width))
            for i, ((start, stop), width) in enumerate(zip(tables, widths, strict=True))
        ]
        zeros = nn.initializers.zeros
        self.biases = [
            self.param(f"bias_{i}", zeros, (stop - start,))
            for i, (start, stop) in enumerate(tables)
        ]
        if clusters := len(config.cutoffs):
            shape = (clusters, config.embedding_width)
            self.cluster_table = self.param("cluster_table", normal_init, shape)
            self.cluster_bias = self.param("cluster_bias", zeros, (clusters,))
        if config.has_projections:
            self.embedding_projections = [
                self.param(f"embedding_projection_{i}", normal_init, (width, config.width))
                for i, width in enumerate(widths)
            ]
            # The first one is never shared.
            untied = 1 if config.tie_projections else len(self.ranges)
            self.softmax_projections = [
                self.param(
                    f"softmax_projection_{i}",
                    normal_init,
                    (widths[i if split else 0], config.width),
                )
                for i in range(untied)
            ]

    def embed(self, words: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Return the projected word vectors, times √D.

        Args:
          words: word numbers in [0, V).
        """
        tables = self.tables
        ranges = self.ranges if len(tables) > 1 else [(0, self.size)]
        embedded = jnp.zeros((), tables[0].dtype)
        for i, (table, (start, stop)) in enumerate(zip(tables, ranges, strict=True)):
            vectors = table[jnp.clip(words, start, stop - 1) - start]
            if self.config.has_projections:
                vectors = self._matmul(vectors, self.embedding_projections[i])
            inside = (words >= start) & (words < stop)
            embedded = embedded + jnp.where(inside[..., None], vectors, 0)
        return math.sqrt(self.config.width) * embedded

    def nll(
        self, z: Float[Array, "*shape D"], words: Int[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """Return −log p of each position's word.

        Args:
          z: states.
          words: word numbers in [0, V).
        """
        head = self._head(z)
        first, *others = self.ranges
        nll = -_pick(head, jnp.minimum(words, first[1] - 1))
        for i, (start, stop) in enumerate(others, start=1):
            tail = self._tail(z, i)
            within = jnp.clip(words, start, stop - 1) - start
            inside = (words >= start) & (words < stop)
            # Upstream numbers the clusters of the head from its end.
            nll = jnp.where(inside, -head[..., -i] - _pick(tail, within), nll)
        return nll

    def log_probabilities(self, z: Float[Array, "*shape D"]) -> Float[Array, "*shape V"]:
        """Return log p of every word.

        Args:
          z: states.
        """
        head = self._head(z)
        tails = [head[..., -i, None] + self._tail(z, i) for i in range(1, len(self.ranges))]
        return jnp.concatenate([head[..., : self.ranges[0][1]], *tails], axis=-1)

    def _head(self, z: Float[Array, "*shape D"]) -> Float[Array, "*shape words"]:
        """Return log p of the first cluster's words and of the other clusters, in this order."""
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
        start, stop = self.ranges[i]
        return self.tables[0][start:stop], self.biases[0][start:stop]

    def _log_softmax(self, z: Array, i: int, table: Array, bias: Array) -> Array:
        if self.config.has_projections:
            own = i < len(self.softmax_projections)
            shared = self.embedding_projections[i if len(self.tables) > 1 else 0]
            z = self._matmul(z, (self.softmax_projections[i] if own else shared).T)
        logits = to_working_dtype(self._matmul(z, table.T))
        return jax.nn.log_softmax(logits + bias)

    def _matmul(self, x: Array, kernel: Array) -> Array:
        x = x if self.dtype is None else x.astype(self.dtype)
        return x @ kernel.astype(compute_dtype(x, kernel))


def _pick(log_p: Float[Array, "*shape words"], words: Int[Array, "*shape"]) -> Array:
    return jnp.take_along_axis(log_p, words[..., None], axis=-1)[..., 0]
