"""An equilibrium as it forms: the state of each resolution against solver steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mdeq_jax.solvers import solve
from mdeq_jax.solvers.stopping import relative_residual
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.model import create_model
from mdeq_jax.viz.style import COLOUR_MAP, COLOURS, finish, new_figure, save

_COLUMNS = 7
_FRAME_MS, _LAST_FRAME_MS = 350, 2500
_MEANING = "first principal component of the channels"


class Formation(NamedTuple):
    """The solve of one image, step by step.

    Attributes:
      image: the solved image, scaled to [0, 1].
      states: for each resolution an array (steps + 1, H, W, C), the best iterate after 0, 1, ...
        steps.
      residuals: ‖f(z)_i − z_i‖ / ‖f(z)_i‖ of each state z and resolution i.
    """

    image: Float[np.ndarray, "H W 3"]
    states: Sequence[Float[np.ndarray, "steps+1 h w c"]]
    residuals: Float[np.ndarray, "resolutions steps+1"]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.residuals.shape[1] - 1


def observe_formation(
    config: Config, variables: PyTree, image: Float[np.ndarray, "H W 3"]
) -> Formation:
    """Return how the equilibrium of an image forms, up to the step at which its solve stops.

    Args:
      config: config with the model and the forward solver.
      variables: variables of the model.
      image: normalised image.
    """
    model = create_model(config.model, dtype=config.compute_dtype)
    solver = config.solver.forward.build()

    @jax.jit
    def run(variables: PyTree, images: Array) -> tuple[PyTree, Array, Array]:
        problem: Any = model.apply(variables, images, method="problem")
        f, z0, args = problem
        result = solve(f, z0, args, solver, sample_at=tuple(range(1, solver.max_steps + 1)))
        states = jax.tree.map(lambda z, rows: jnp.concatenate([z[None], rows]), z0, result.states)

        def residuals(z: PyTree) -> Array:
            # How far f still moves each resolution.
            pairs = zip(f(z, args), z, strict=True)
            return jnp.stack([relative_residual(fz - z, z)[0] for fz, z in pairs])

        return states, jax.lax.map(residuals, states), result.steps[0]

    states, residuals, steps = jax.device_get(run(variables, image[None]))
    low, high = image.min(), image.max()
    return Formation(
        image=(image - low) / (high - low if high > low else 1),
        states=[rows[: steps + 1, 0] for rows in states],
        residuals=residuals[: steps + 1].T,
    )


def plot_formation(formation: Formation, path: Path) -> None:
    """Draw the state of each resolution after some steps, and the residuals below.

    Args:
      formation: the solve to draw.
      path: path of the picture to write.
    """
    shown = _spread(formation.steps)
    rows = len(formation.states)
    figure = new_figure(1.35 * (len(shown) + 1), 1.45 * rows + 2.4)
    grid = figure.add_gridspec(rows + 1, len(shown) + 1, height_ratios=[1.0] * rows + [1.6])
    _show(figure.add_subplot(grid[0, 0]), formation.image, "image")
    for row, states in enumerate(formation.states):
        components = principal_component(states)
        for column, step in enumerate(shown, start=1):
            axes = figure.add_subplot(grid[row, column])
            _show(axes, components[step], f"step {step}" if row == 0 else "", components[-1])
            if column == 1:
                axes.set_ylabel("{}×{}".format(*states.shape[1:3]), color=COLOURS[row])
    _draw_residuals(figure.add_subplot(grid[rows, :]), formation, formation.steps)
    figure.suptitle(f"The equilibrium of one image forms ({_MEANING})", fontsize=11)
    save(figure, path)


def animate_formation(formation: Formation, path: Path) -> None:
    """Write a GIF with one frame per step: the state of each resolution, and the residuals so far.

    Args:
      formation: the solve to draw.
      path: path of the GIF to write.
    """
    components = [principal_component(states) for states in formation.states]
    frames = [_frame(formation, components, step) for step in range(formation.steps + 1)]
    durations = [_FRAME_MS] * formation.steps + [_LAST_FRAME_MS]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def principal_component(
    states: Float[np.ndarray, "steps+1 h w c"],
) -> Float[np.ndarray, "steps+1 h w"]:
    """Return the states along the direction in which the channels of the last state vary most."""
    last = states[-1].reshape(-1, states.shape[-1])
    mean = last.mean(axis=0)
    direction = np.linalg.svd(last - mean, full_matrices=False)[2][0]
    # The sign of a singular vector is arbitrary; this choice makes pictures of one run comparable.
    direction = direction * np.sign(direction[np.abs(direction).argmax()])
    return (states - mean) @ direction


def _spread(steps: int) -> list[int]:
    """Return step numbers up to the last one, dense at the start, where the state changes most."""
    return sorted({round(step) for step in np.geomspace(1, steps, _COLUMNS)}) if steps else [0]


def _size(states: Float[np.ndarray, "steps+1 h w c"]) -> str:
    return "{}×{}, {} channels".format(*states.shape[1:])


def _frame(
    formation: Formation, components: Sequence[Float[np.ndarray, "steps+1 h w"]], step: int
) -> Image.Image:
    figure, count = new_figure(8, 3), len(components)
    panels = figure.subplots(1, count + 2, width_ratios=[1.0] * (count + 1) + [2.2])
    _show(panels[0], formation.image, "image")
    for axes, states, values, colour in zip(
        panels[1:], formation.states, components, COLOURS, strict=False
    ):
        _show(axes, values[step], _size(states), values[-1])
        axes.title.set(color=colour, fontsize=9)
    _draw_residuals(panels[-1], formation, step)
    figure.suptitle(f"step {step} of {formation.steps}", fontsize=11)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _show(axes: Axes, pixels: np.ndarray, title: str, scale: np.ndarray | None = None) -> None:
    """Draw pixels without ticks; the colours span the range of `scale`."""
    low, high = (None, None) if scale is None else (scale.min(), scale.max())
    axes.imshow(pixels, cmap=COLOUR_MAP, vmin=low, vmax=high)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def _draw_residuals(axes: Axes, formation: Formation, until: int) -> None:
    """Draw the residuals up to a step, on axes with room for all steps."""
    everything = formation.residuals[formation.residuals > 0]
    steps = np.arange(until + 1)
    for colour, states, residuals in zip(
        COLOURS, formation.states, formation.residuals, strict=False
    ):
        axes.semilogy(steps, residuals[: until + 1], marker=".", color=colour, label=_size(states))
    axes.set_xlim(-0.5, formation.steps + 0.5)
    axes.set_ylim(everything.min() / 2, everything.max() * 2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes, "", x="solver steps", y="relative residual")
    axes.legend(fontsize="small")
