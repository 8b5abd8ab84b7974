"""The section of a config that says how far one application of the augmented map goes."""

import dataclasses

from mdeq_jax.checks import require_number, require_share
from mdeq_jax.implicit.optimise import Steps


@dataclasses.dataclass(frozen=True)
class OptimiseConfig:
    """Step sizes of joint inference and input optimisation, `mdeq_jax.Steps`.

    Attributes:
      z_step: share of f(z, x) − z by which z moves, in (0, 1].
      mu_step: share of the residual of the adjoint equation by which μ moves, in (0, 1].
      x_step: step size of gradient descent on x, above 0.
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
        """Return the step sizes for `mdeq_jax.optimise`."""
        return Steps(self.z_step, self.mu_step, self.x_step)
