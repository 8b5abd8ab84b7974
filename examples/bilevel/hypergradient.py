"""The gradient of a validation loss with respect to the penalty of the fit, by each estimator.

Inner problem: z*(θ) = argmin_z Σ log(1 + exp(−y xᵀz)) + exp(θ) ‖z‖² / 2 over training examples.
Outer problem: min_θ L(z*(θ)), L the mean of log(1 + exp(−y xᵀz)) over validation examples.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from examples.bilevel.data import Data, Problem
from examples.bilevel.lbfgs import OPA, Minimum, Pairs, VectorField, inverse_product, minimize

# (w -> H w, pairs of the inner solve, v) -> an estimate of H⁻¹ v
InverseEstimate = Callable[[VectorField, Pairs, Float[Array, "N"]], Float[Array, "N"]]


# Number of pairs that the inner solve stores, as in the experiment of Ramzi et al. (arXiv
# 2106.00553).
MEMORY = 60


class Method(NamedTuple):
    """How to get a hyper-gradient.

    Attributes:
      inverse: the estimator of H⁻¹ v.
      opa_every: steps of the inner solve between OPA's pairs, ≥ 1; None stores no such pairs.
    """

    inverse: InverseEstimate
    opa_every: int | None = None


def log_penalty(penalty: float) -> float:
    """Return θ.

    Raises:
      ValueError: the penalty is not positive and finite.
    """
    if not (penalty > 0 and math.isfinite(penalty)):
        raise ValueError(f"penalty is {penalty}; it must be above 0 and finite, such as 1.0.")
    return math.log(penalty)


def require_float64() -> None:
    """Raise ValueError if JAX has float64 off, because float32 does not reach 1e-6."""
    if jnp.zeros(()).dtype != jnp.float64:
        raise ValueError("float64 is off; run under `with jax.enable_x64(True):`.")


def mean_loss(z: Float[Array, "F"], data: Data) -> Float[Array, ""]:
    """Return L, the mean logistic loss of weights z over the examples."""
    return jnp.mean(jax.nn.softplus(-data.labels * (data.features @ z)))


def inner_gradient(z: Float[Array, "F"], theta: Float[Array, ""], train: Data) -> Float[Array, "F"]:
    """Return g(z, θ), the gradient of the inner objective; theta is the logarithm of the penalty.

    The loss is a sum, so that exp(−θ) is the C of scikit-learn's LogisticRegression.
    """
    examples = len(train.labels)
    return examples * jax.grad(mean_loss)(z, train) + jnp.exp(theta) * z


def penalty_direction(
    z: Float[Array, "F"], theta: Float[Array, ""], train: Data
) -> Float[Array, "F"]:
    """Return ∂g/∂θ, the direction of OPA's pairs."""
    return jax.jvp(lambda t: inner_gradient(z, t, train), (theta,), (jnp.ones_like(theta),))[1]


@functools.partial(jax.jit, static_argnames=("max_steps", "opa_every"))
def solve_inner(
    train: Data,
    theta: Float[Array, ""],
    z: Float[Array, "F"],
    pairs: Pairs,
    tol: float | Float[Array, ""] = 1e-6,
    *,
    max_steps: int = 1000,
    opa_every: int | None = None,
) -> Minimum:
    """Fit the weights from z and pairs until ‖g(z, θ)‖ ≤ tol; opa_every=None uses no OPA.

    Raises:
      ValueError: max_steps or opa_every is below 1.
    """
    aware = None
    if opa_every is not None:
        aware = OPA(lambda z: penalty_direction(z, theta, train), opa_every)
    return minimize(
        lambda z: inner_gradient(z, theta, train), z, pairs, tol=tol, max_steps=max_steps, opa=aware
    )


@functools.partial(jax.jit, static_argnames="inverse")
def hypergradient(
    problem: Problem,
    theta: Float[Array, ""],
    z: Float[Array, "F"],
    pairs: Pairs,
    inverse: InverseEstimate,
) -> Float[Array, ""]:
    """Return dL/dθ = −(H⁻¹ ∇L)ᵀ ∂g/∂θ, H = ∂g/∂z, with an estimate in place of H⁻¹.

    Args:
      problem: the problem, whose training and validation examples are used.
      theta: logarithm of the penalty.
      z: weights that were fitted with this penalty.
      pairs: pairs at the end of the fit.
      inverse: the estimator: `exact`, `shine`, `jacobian_free`, or `Refined(steps)`.

    Source: Pedregosa, Hyperparameter optimization with approximate gradient (ICML 2016), eq. 3.
    """

    def hessian_product(w):
        return jax.jvp(lambda z: inner_gradient(z, theta, problem.train), (z,), (w,))[1]

    q = inverse(hessian_product, pairs, jax.grad(mean_loss)(z, problem.validation))
    return -q @ penalty_direction(z, theta, problem.train)


def exact(product: VectorField, pairs: Pairs, v: Float[Array, "N"]) -> Float[Array, "N"]:
    """Solve H q = v by conjugate gradient, to 1e-10 relative (HOAG's way)."""
    return cg(product, v, tol=1e-10, maxiter=20 * len(v))[0]


def shine(product: VectorField, pairs: Pairs, v: Float[Array, "N"]) -> Float[Array, "N"]:
    """Return B v with the inverse estimate B of the inner solve. It takes no product with H."""
    return inverse_product(pairs, v)


def jacobian_free(product: VectorField, pairs: Pairs, v: Float[Array, "N"]) -> Float[Array, "N"]:
    """Return v, as if H = I. Its length is arbitrary, because g has no natural unit."""
    return v


@dataclasses.dataclass(frozen=True)
class Refined:
    """`shine`, refined by some steps of conjugate gradient.

    Raises:
      ValueError: steps < 1.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        """Check the number of steps."""
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1: with 0 it is shine.")

    def __call__(
        self, product: VectorField, pairs: Pairs, v: Float[Array, "N"]
    ) -> Float[Array, "N"]:
        """Return the estimate."""
        return cg(product, v, x0=inverse_product(pairs, v), tol=0.0, maxiter=self.steps)[0]


METHODS = {
    "exact": Method(exact),
    "shine": Method(shine),
    "shine_opa": Method(shine, opa_every=5),
    "shine_refine": Method(Refined()),
    "jacobian_free": Method(jacobian_free),
}
