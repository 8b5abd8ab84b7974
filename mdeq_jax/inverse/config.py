"""The section `optimise` of a config, which every inverse problem has."""

import dataclasses

from mdeq_jax.checks import require_number, require_share
from mdeq_jax.implicit import Steps


@dataclasses.dataclass(frozen=True)
class OptimiseConfig:
    """How far one application of the augmented map goes.

    Attributes:
      z_step: share of f(z, x) − z by which the state z moves, in (0, 1].
      mu_step: share of the residual of the adjoint equation by which the multiplier μ moves, in
        (0, 1].
      x_step: step size of gradient descent on the input x, above 0.
    """

    z_step: float = 0.8
    mu_step: float = 0.6
    x_step: float = 0.1

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_share(self, "z_step")
        require_share(self, "mu_step")
        require_number(self, "x_step", lambda x: x > 0, "above 0")

    def steps(self) -> Steps:
        """Return the step sizes as `mdeq_jax.optimise` takes them."""
        return Steps(z=self.z_step, mu=self.mu_step, x=self.x_step)
