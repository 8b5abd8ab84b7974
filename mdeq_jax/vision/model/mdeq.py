"""The model: stem, equilibrium of the cell, head."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from mdeq_jax.implicit import DEQ, Adjoint, FixedPointProblem, Solution
from mdeq_jax.implicit.unrolled import unroll
from mdeq_jax.layers import weight_norm
from mdeq_jax.layers.multiscale import Masks, MDEQCell, State, init_cell
from mdeq_jax.solvers import Broyden, Solver, SolverResult
from mdeq_jax.solvers.norms import vary_together
from mdeq_jax.vision.model.config import ModelConfig
from mdeq_jax.vision.model.dropout import dropout_masks
from mdeq_jax.vision.model.heads import HEADS, make_extra_heads
from mdeq_jax.vision.model.stem import LowerInjections, Stem

# Logits. With extra heads, a dict from head name to logits; the main head's key is the task name.
Logits = Float[Array, "B *pixels num_classes"] | dict[str, Float[Array, "B *pixels num_classes"]]


class CellArgs(NamedTuple):
    """The arguments of the cell that gradients are taken with respect to.

    Attributes:
      params: the cell's parameters with plain kernels.
      x: the injection into the highest resolution.
      masks: masks of dropout, or None.
      lower: the injections into the other resolutions; () unless config.injection is "all".
    """

    params: PyTree
    x: Float[Array, "B H W C"]
    masks: Masks | None
    lower: State = ()


Layer = Callable[[Callable[[State, CellArgs], State], State, CellArgs], Solution]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model returns beside its logits.

    Attributes:
      solution: what the equilibrium layer returned.
    """

    solution: Solution

    @property
    def solver(self) -> SolverResult:
        """The result of the forward solve, or of the unrolled applications."""
        return self.solution.result

    @property
    def z(self) -> State:
        """The equilibrium, from which the logits are computed; one array per branch."""
        return self.solution.z

    @property
    def sampled(self) -> tuple[State, ...]:
        """The states that were sampled during the solve, each like z, with a phantom gradient."""
        return self.solution.sampled


class MDEQ(nn.Module):
    """A multiscale deep equilibrium model (arXiv 2006.08656).

    Attributes:
      config: the architecture.
      axis_name: mesh axis over which a training step under `shard_map` averages BatchNorm's
        statistics.
      dtype: dtype in which stem, cell and head compute; None is the dtype of images and parameters.
    """

    config: ModelConfig
    axis_name: str | None = None
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        self.stem = Stem(self.config, self.axis_name)
        self.cell = self.param("cell", init_cell, self.config)
        self.head = HEADS[self.config.task](self.config, self.axis_name)
        self.extra_heads = make_extra_heads(self.config, self.axis_name)
        if self.config.injection == "all":
            self.lower_injections = LowerInjections(self.config)

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        *,
        deq: Layer | None = None,
        solver: Solver | None = None,
        adjoint: Adjoint | None = None,
        z0: State | None = None,
        tol: Float[Array, ""] | float | None = None,
        step_limit: Int[Array, ""] | int | None = None,
        train: bool = False,
    ) -> tuple[Logits, ModelInfo]:
        """Return the logits, and the equilibrium that they are computed from.

        Args:
          images: floating point, normalised; sides divisible by config.size_divisor.
          deq: the equilibrium layer: a `DEQ`, or a `DEQ` with options bound by `functools.partial`.
            It finds and differentiates the equilibrium, and samples states for further losses.
          solver: the solver of the layer, if `deq` is not given; `Broyden()` by default.
          adjoint: the adjoint of the layer, if `deq` is not given; `Exact(solver)` by default.
          z0: where the solve starts, one array per branch like `ModelInfo.z`; zeros by default.
          tol: replaces the tolerance of the solver; may be traced.
          step_limit: bounds the solve below the solver's max_steps; may be traced.
          train: whether BatchNorm uses the statistics of the batch, which needs
            ``mutable=["batch_stats"]``, and dropout is on, which needs ``rngs={"dropout": key}``.

        Raises:
          ValueError: images or z0 do not fit, or deq is given beside solver or adjoint; at trace
            time.
        """
        layer = _layer(deq, solver, adjoint, tol, step_limit)
        f, start, args = self.problem(images, z0=z0, train=train)
        if self.is_initializing():  # the cell's parameters are created without an application
            solution = Solution(start, unroll(f, start, args, 0), (), args, f)
        else:
            solution = layer(f, start, args)
        return self.predict(solution.z, train=train), ModelInfo(solution)

    def problem(
        self, images: Float[Array, "B H W 3"], *, z0: State | None = None, train: bool = False
    ) -> FixedPointProblem:
        """Return the fixed-point problem of some images.

        Args:
          images: floating point, normalised; sides divisible by config.size_divisor.
          z0: where the solve starts, one array per branch; zeros by default.
          train: whether BatchNorm uses the statistics of the batch and dropout is on.

        Raises:
          ValueError: images or z0 do not fit; at trace time.
        """
        _check_images(self.config, images)
        x = self.stem(_in_dtype(images, self.dtype), train)
        params = weight_norm.merge(self.cell)
        dtype = jnp.result_type(x, *jax.tree.leaves(params))
        zeros = _zeros(self.config, x.shape, dtype)
        masks = None
        if train and self.config.dropout > 0:
            key = self.make_rng("dropout")
            masks = dropout_masks(key, self.config, x.shape[0], dtype, self.axis_name)
        start = vary_together(zeros if z0 is None else _check_state(z0, zeros), like=x)
        lower = self.lower_injections(x) if self.config.injection == "all" else ()
        args = CellArgs(params, x, masks, lower)
        return FixedPointProblem(cell_function(self.config, self.dtype), start, args)

    def predict(self, z: State, *, train: bool = False) -> Logits:
        """Return the logits of an equilibrium.

        With config.extra_heads they are a dict: the logits of the main head under the task's name,
        "segmentation", and the logits of each extra head under the head's name.

        Args:
          z: the equilibrium, one array per branch.
          train: whether BatchNorm uses the statistics of the batch.
        """
        z = _in_dtype(z, self.dtype)
        logits = self.head(z, train)
        if not self.extra_heads:
            return logits
        extra = {name: head(z, train) for name, head in self.extra_heads.items()}
        return {self.config.task: logits, **extra}


def create_model(
    config: ModelConfig, axis_name: str | None = None, dtype: str | None = None
) -> MDEQ:
    """Return the model of an architecture.

    Args:
      config: the architecture.
      axis_name: mesh axis over which BatchNorm averages, for training under `shard_map`.
      dtype: dtype in which stem, cell and head compute, "bfloat16" or None. Parameters, the
        statistics of all norms, the states of the solve and the layers that return the logits stay
        in float32. None is the dtype of images and parameters.

    Raises:
      ValueError: config is not a `ModelConfig`.

    Examples:
      >>> import jax, mdeq_jax as mx
      >>> model = mx.create_model(mx.ModelConfig(num_classes=7))
      >>> images = jax.numpy.zeros((2, 16, 16, 3))  # floating point, normalised
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> logits, info = jax.eval_shape(model.apply, variables, images)  # only shapes
      >>> logits.shape, info.solver.steps.shape, [z.shape for z in info.z]
      ((2, 7), (2,), [(2, 16, 16, 24), (2, 8, 8, 24)])
    """
    if not isinstance(config, ModelConfig):
        raise ValueError(f"config is a {type(config).__name__}; it must be a ModelConfig.")
    return MDEQ(config, axis_name, dtype)


@functools.cache  # one function per cell, as it is part of a `Solution`'s structure
def cell_function(
    config: ModelConfig, dtype: str | None = None
) -> Callable[[State, CellArgs], State]:
    """Return the cell as a pure function (z, args) -> z.

    Args:
      config: the architecture.
      dtype: dtype in which the cell computes; None is the dtype of state and parameters.
    """
    cell = MDEQCell(config, parent=None)

    def f(z: State, args: CellArgs) -> State:
        inputs = _in_dtype((z, args.x, args.masks, args.lower), dtype)
        new = cast(State, cell.apply({"params": args.params}, *inputs))
        return new if dtype is None else jax.tree.map(lambda x, z: x.astype(z.dtype), new, z)

    return f


def _in_dtype(tree: PyTree, dtype: str | None) -> PyTree:
    return tree if dtype is None else jax.tree.map(lambda x: x.astype(dtype), tree)


def _layer(
    deq: Layer | None,
    solver: Solver | None,
    adjoint: Adjoint | None,
    tol: Float[Array, ""] | float | None,
    step_limit: Int[Array, ""] | int | None,
) -> Layer:
    if deq is None:
        deq = DEQ(Broyden() if solver is None else solver, adjoint)
    elif solver is not None or adjoint is not None:
        raise ValueError(
            f"deq is {deq}, beside solver {solver} and adjoint {adjoint}; give deq alone, which "
            "has both."
        )
    limits = {"tol": tol, "step_limit": step_limit}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return functools.partial(deq, **given) if given else deq


def _check_images(config: ModelConfig, images: Array) -> None:
    shape = images.shape
    if len(shape) != 4 or shape[-1] != 3 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype}{list(shape)}; give floating-point images of shape "
            "(batch, height, width, 3), normalised."
        )
    divisor = config.size_divisor
    fitting = [-(-side // divisor) * divisor for side in shape[1:3]]
    if fitting != list(shape[1:3]):
        raise ValueError(
            f"images are {shape[1]}×{shape[2]}, but with downsample_times "
            f"{config.downsample_times} and {config.num_branches} branches both sides must be "
            f"divisible by {divisor}; the next sizes that fit are {fitting[0]}×{fitting[1]}."
        )


def _zeros(config: ModelConfig, injected: tuple[int, ...], dtype: jax.typing.DTypeLike) -> State:
    batch, height, width, _ = injected
    return tuple(
        jnp.zeros((batch, height >> i, width >> i, channels), dtype)
        for i, channels in enumerate(config.branch_channels)
    )


def _check_state(z0: State, like: State) -> State:
    given, wanted = ([x.shape for x in z] for z in (z0, like))
    if given != wanted:
        raise ValueError(f"z0 has the shapes {given}; for these images it must have {wanted}.")
    return tuple(x.astype(like.dtype) for x, like in zip(z0, like, strict=True))
