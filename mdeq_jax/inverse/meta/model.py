"""An equilibrium network on points, which a task vector modulates."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

# The state's own share of the cell starts as a contraction.
_RECURRENT = nn.initializers.variance_scaling(0.25, "fan_in", "normal")


class TaskNetwork(nn.Module):
    """A network whose weights all tasks share, and whose modulation is the task vector v.

        x = U silu(A point + a) + b
        z = tanh(W z + (1 + Γ v) ⊙ x + B v),  output = (1 + C v) ⊙ z, then a linear map

    With v = 0 it is the network that a new task starts from.

    Attributes:
      width: number of entries of the state of each point.
      task_width: number of entries of v.
      outputs: number of outputs of each point.

    Source: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018, for
    the modulation.
    """

    width: int
    task_width: int
    outputs: int

    def setup(self) -> None:
        """Make the layers."""
        plain = lambda: nn.Dense(self.width, use_bias=False)  # noqa: E731
        self.hidden, self.injected = nn.Dense(self.width), nn.Dense(self.width)
        self.recurrent = nn.Dense(self.width, use_bias=False, kernel_init=_RECURRENT)
        self.scale, self.shift, self.out_scale = plain(), plain(), plain()
        self.linear = nn.Dense(self.outputs)

    def inject(self, points: Float[Array, "B n inputs"]) -> Float[Array, "B n width"]:
        """Return the injection x."""
        return self.injected(jax.nn.silu(self.hidden(points)))

    def cell(
        self,
        z: Float[Array, "B n width"],
        x: Float[Array, "B n width"],
        v: Float[Array, "B task_width"],
    ) -> Float[Array, "B n width"]:
        """Return the cell at the state z, with the injection x and the task vector v."""
        v = v[:, None]
        return jnp.tanh(self.recurrent(z) + (1 + self.scale(v)) * x + self.shift(v))

    def head(
        self, z: Float[Array, "B n width"], v: Float[Array, "B task_width"]
    ) -> Float[Array, "B n outputs"]:
        """Return the outputs of a state."""
        return self.linear((1 + self.out_scale(v[:, None])) * z)

    def __call__(self, points: Float[Array, "B n inputs"]) -> Float[Array, "B n outputs"]:
        """Return the outputs after one application of the cell, which touches every parameter."""
        x, v = self.inject(points), jnp.zeros((len(points), self.task_width), points.dtype)
        return self.head(self.cell(jnp.zeros_like(x), x, v), v)
