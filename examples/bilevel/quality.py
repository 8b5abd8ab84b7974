"""The quality of L-BFGS's inverse estimate along directions and for the hyper-gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from examples.bilevel.data import Data, load_problem
from examples.bilevel.hypergradient import (
    MEMORY,
    Method,
    exact,
    hypergradient,
    inner_gradient,
    log_penalty,
    penalty_direction,
    require_float64,
    solve_inner,
)
from examples.bilevel.lbfgs import inverse_product, no_pairs

DIRECTIONS = ("prescribed", "krylov", "random")


class Alignment(NamedTuple):
    """An estimate a of H⁻¹ v beside the truth b.

    Attributes:
      cosine: aᵀb / ‖a‖‖b‖.
      norm_ratio: ‖a‖ / ‖b‖.
    """

    cosine: Float[np.ndarray, "tries"]
    norm_ratio: Float[np.ndarray, "tries"]


def inversion_quality(tries: int, *, opa_every: int | None = None) -> dict[str, Alignment]:
    """Compare B v with H⁻¹ v after fits of breast-cancer, penalty 1, memory 60, tolerance 1e-6.

    v is "prescribed": ∂g/∂θ, the direction of OPA's pairs; "krylov": H s with the last step s; or
    "random": normal. Each try has its own 113 training examples and starts from normal weights.

    Args:
      tries: number of fits, ≥ 1.
      opa_every: steps between OPA's pairs, 5 in the paper; None stores no such pairs.

    Raises:
      ValueError: tries or opa_every is below 1, or JAX has float64 off.

    Source: Ramzi et al., SHINE (ICLR 2022, arXiv 2106.00553), section 3; sizes as in their code.
    """
    _require(tries, "tries")
    require_float64()
    splits = [load_problem(seed, train_examples=113).train for seed in range(tries)]
    train = Data(*(np.stack(part) for part in zip(*splits, strict=True)))
    random = np.random.RandomState(0)
    starts, directions = random.normal(size=(2, tries, train.features.shape[-1]))
    cosine, norm_ratio = jax.device_get(_inversions(train, starts, directions, opa_every))
    return {
        name: Alignment(cosine[:, column], norm_ratio[:, column])
        for column, name in enumerate(DIRECTIONS)
    }


@functools.partial(jax.jit, static_argnames="opa_every")
def _inversions(
    train: Data,
    starts: Float[Array, "tries F"],
    directions: Float[Array, "tries F"],
    opa_every: int | None,
) -> tuple[Float[Array, "tries 3"], Float[Array, "tries 3"]]:
    """Return the cosines and the norm ratios of every try."""
    return jax.vmap(functools.partial(_inversion, opa_every=opa_every))(train, starts, directions)


def _inversion(
    train: Data, z: Float[Array, "F"], random: Float[Array, "F"], opa_every: int | None
) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    theta = jnp.zeros(())
    fit = solve_inner(train, theta, z, no_pairs(MEMORY, z), opa_every=opa_every)
    hessian = jax.jacfwd(lambda z: inner_gradient(z, theta, train))(fit.z)
    prescribed = penalty_direction(fit.z, theta, train)
    directions = jnp.stack([prescribed, hessian @ fit.pairs.s[-1], random])
    estimates = jax.vmap(lambda v: inverse_product(fit.pairs, v))(directions)
    truths = jnp.linalg.solve(hessian, directions.T).T
    norms, true_norms = (jnp.linalg.norm(rows, axis=1) for rows in (estimates, truths))
    cosines = jnp.sum(estimates * truths, axis=1) / (norms * true_norms)
    return cosines, norms / true_norms


def hypergradient_errors(method: Method, seeds: int, penalty: float) -> Float[np.ndarray, "seeds"]:
    """Return |estimate − exact| / |exact| of the hyper-gradient at the same fit, for each split.

    Raises:
      ValueError: seeds is below 1, the penalty is not positive, or JAX has float64 off.
    """
    _require(seeds, "seeds")
    require_float64()
    theta = jnp.asarray(log_penalty(penalty))
    errors = []
    for seed in range(seeds):
        problem = load_problem(seed)
        z = jnp.zeros(problem.train.features.shape[1])
        pairs = no_pairs(MEMORY, z)
        fit = solve_inner(problem.train, theta, z, pairs, opa_every=method.opa_every)
        estimate, truth = (
            hypergradient(problem, theta, fit.z, fit.pairs, inverse)
            for inverse in (method.inverse, exact)
        )
        errors.append(abs(float(estimate / truth) - 1))
    return np.array(errors)


def _require(value: int, name: str) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1.")
