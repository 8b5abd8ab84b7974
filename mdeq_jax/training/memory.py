"""What a step takes of a device's memory, by estimate, and what would lower it.

Of n images, a training step takes fixed + n · max of its phases

    stem + H + w            the forward solve, H its history
    stem + H' + r + 3 s     the adjoint solve, H' its history
    φ kept + λ l + r        the gradient, r being in a loop (exact and Neumann; else φ r)
    φ (kept + K r) + λ l    the K applications of the warm-up

where s is the state, w what the cell works in, r what one application of it keeps for its
derivative, and kept what all the rest of the step does. They are counted on abstract shapes, as JAX
keeps them; XLA's fusion leaves φ of what is in no loop. For segmentation, l are the logits of every
pixel. Evaluation takes the larger of H + w and λ l. Compiled steps on CPU are within a quarter.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from mdeq_jax.training.objective import Draw, make_objective
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.vision.config import Config, SolverConfig
from mdeq_jax.vision.model import MDEQ, create_model
from mdeq_jax.vision.model.mdeq import cell_function
from mdeq_jax.vision.tasks import Batch

# φ; measured on CPU: 0.65 to 1.
_LEFT_BY_FUSION = 0.7
# λ of evaluation, and of training beside what is kept.
_LOGITS_IN_EVALUATION, _LOGITS_IN_TRAINING = 2.75, 2


class Sizes(NamedTuple):
    """What a number of images or of solver steps does not change, in bytes.

    Attributes:
      parameters: with the statistics of BatchNorm.
      optimizer: its state.
      state: shapes of the state of one image.
      stem: what the stem keeps of an image for its derivative.
      kept: what a training step keeps of an image beside one application of the cell, without any
        history.
      cell: r, of an image.
    """

    parameters: int
    optimizer: int
    state: PyTree[jax.ShapeDtypeStruct]
    stem: int
    kept: int
    cell: int


class StepMemory(NamedTuple):
    """Memory of a step on one device, in bytes.

    Attributes:
      fixed: whatever the batch is.
      image: of one image at the peak.
      images: that a device has at a time.
    """

    fixed: float
    image: float
    images: int

    @property
    def total(self) -> float:
        """Of the whole step."""
        return self.fixed + self.images * self.image


def measure(config: Config) -> Sizes:
    """Return the sizes of a config's training step; nothing is computed but shapes."""
    model = create_model(config.model, dtype=config.compute_dtype)
    images, key = _batch(config, 1)["image"], jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(model.init, key, images)
    state, _ = jax.eval_shape(_problem_of(model), variables["params"], variables, images, key)
    history = _history(config.solver.forward, state)
    optimizer = create_optimizer(config.optim, steps=1, steps_per_epoch=1)
    kept = _per_image(_kept_by_step, model, config, variables, key)
    return Sizes(
        parameters=tree_bytes(variables),
        optimizer=tree_bytes(jax.eval_shape(optimizer.init, variables["params"])),
        state=state,
        stem=_per_image(_kept_by_stem, model, config, variables, key),
        kept=kept - (history if config.adjoint.name == "shine" else 0),
        cell=_per_image(_kept_by_cell, model, config, variables, key),
    )


def training_memory(config: Config, sizes: Sizes, devices: int) -> StepMemory:
    """Return the memory of a training step.

    Args:
      config: of the run.
      sizes: of it, or of one that differs in batch and solver steps alone.
      devices: number of devices.
    """
    name, state = config.adjoint.name, tree_bytes(sizes.state)
    history = _history(config.solver.forward, sizes.state)
    # Phantom's own applications of the cell are in what is kept.
    share = {"exact": 1, "neumann": 1, "phantom": 0}.get(name, _LEFT_BY_FUSION)
    logits = _LOGITS_IN_TRAINING * _logits(config, config.data.image_size)
    gradient = _LEFT_BY_FUSION * sizes.kept + logits + share * sizes.cell
    phases = [
        sizes.stem + history + _working(config, state),
        gradient + (history if name == "shine" else 0),
    ]
    if name == "exact":
        adjoint_history = _history(config.solver.backward, sizes.state)
        phases.append(sizes.stem + adjoint_history + sizes.cell + 3 * state)
    if config.train.pretrain_steps > 0:
        applied = config.train.num_layers - (
            config.adjoint.phantom().steps if name == "phantom" else 0
        )
        unrolled = sizes.kept + applied * sizes.cell
        phases.append(_LEFT_BY_FUSION * unrolled + logits)
    images = config.data.batch_size // devices // config.train.accumulate_steps
    gradients = 1 if config.train.accumulate_steps == 1 else 2
    fixed = (1 + gradients) * sizes.parameters + sizes.optimizer
    return StepMemory(fixed, max(phases), images)


def evaluation_memory(config: Config, sizes: Sizes, devices: int) -> StepMemory:
    """Return the memory of a step of evaluation; arguments as of `training_memory`."""
    state = tree_bytes(sizes.state)
    height, width = config.data.eval_image_size or config.data.image_size
    grown = height * width / (config.data.image_size[0] * config.data.image_size[1])
    history = _history(config.solver.forward, sizes.state)
    phases = [
        grown * (history + _working(config, state)),
        _LOGITS_IN_EVALUATION * _logits(config, (height, width)),
    ]
    return StepMemory(sizes.parameters, max(phases), config.data.eval_batch_size // devices)


def _logits(config: Config, size: tuple[int, ...]) -> int:
    """The logits of every pixel of an image, in float32; none for classification."""
    pixels = size[0] * size[1] if config.model.task == "segmentation" else 0
    return 4 * pixels * config.model.num_classes


def _working(config: Config, state: int) -> float:
    """What the solve of an image works in beside its history: widened branches, and states."""
    widened = config.model.expansion * state * (1 if config.compute_dtype is None else 0.5)
    return 2 * widened + 2 * state


def _history(solver: SolverConfig, state: PyTree) -> int:
    """What a solver remembers of a state of these shapes."""
    history = tree_bytes(jax.eval_shape(solver.build().init, state, state))
    return 2 * history if solver.name == "anderson" else history  # its rows are written anew


def tree_bytes(tree: PyTree) -> int:
    """Return the bytes of all arrays in a tree, or of arrays of such shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _per_image(kept: Callable[..., PyTree], model: MDEQ, config: Config, *given: PyTree) -> int:
    """Bytes that a second image adds to what is kept of one."""
    of_batch = functools.partial(jax.eval_shape, functools.partial(kept, model, config), *given)
    return tree_bytes(of_batch(_batch(config, 2))) - tree_bytes(of_batch(_batch(config, 1)))


def _kept_by_step(model: MDEQ, config: Config, variables: PyTree, key: Any, batch: Batch) -> Any:
    """What a training step keeps for its backward pass, which solves the adjoint equation."""
    objective = make_objective(model, config, unrolled=None)
    draw = Draw(key, jnp.ones(()) if config.jacobian.probability > 0 else None)
    probe = jnp.zeros((len(batch["label"]), 2))

    def value(params: PyTree) -> Any:
        return objective(params, probe, variables["batch_stats"], batch, draw)

    return jax.vjp(value, variables["params"], has_aux=True)[1]


def _kept_by_stem(model: MDEQ, _: Config, variables: PyTree, key: Any, batch: Batch) -> Any:
    def problem(params: PyTree) -> tuple[Any, Any]:
        return _problem_of(model)(params, variables, batch["image"], key)

    return jax.vjp(problem, variables["params"])[1]


def _kept_by_cell(model: MDEQ, config: Config, variables: PyTree, key: Any, batch: Batch) -> Any:
    z0, args = _problem_of(model)(variables["params"], variables, batch["image"], key)
    return jax.vjp(cell_function(config.model, model.dtype), z0, args)[1]


def _problem_of(model: MDEQ) -> Callable[..., tuple[Any, Any]]:
    """Return the start and the arguments of the fixed-point problem in training."""

    def problem(params: PyTree, variables: PyTree, images: Any, key: Any) -> tuple[Any, Any]:
        (_, z0, args), _ = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            method="problem",
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return z0, args

    return problem


def _batch(config: Config, n: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of n images with their labels."""
    size = config.data.image_size
    pixels = size if config.model.task == "segmentation" else ()
    return {
        "image": jax.ShapeDtypeStruct((n, *size, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((n, *pixels), jnp.int32),
        "image_label": jax.ShapeDtypeStruct((n,), jnp.int32),
    }
