"""Remove noise from images, or fill in a hidden box, with a trained model of the app "inverse".

    python -m mdeq_jax.commands.invert --checkpoint runs/inverse_digits --input IMAGES \\
        --task inpaint --output restored

--input is an image or a folder, and may be given several times. The images must be clean: the
command corrupts them itself, so that it can say how well they are restored. Their pixels are
turned to grey; an image of another size than the generator's is cut to its middle and scaled.

The output has OUTPUT/before/NAME.png, OUTPUT/corrupted/NAME.png and OUTPUT/after/NAME.png, all
three enlarged in OUTPUT/compared/NAME.png, and OUTPUT/psnr.csv, a row for each image with the peak
signal-to-noise ratios in dB (over the whole image, hidden or not) and the solver's statistics.
Pictures of noisy images are clipped to the range of grey; their ratio is not. The last line on
stdout is one JSON object with the means.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.commands.tables import Table
from mdeq_jax.images.files import find_images, read_image
from mdeq_jax.inverse.generation.config import Config
from mdeq_jax.inverse.generation.corruption import draw_corruption
from mdeq_jax.inverse.generation.experiment import Generation
from mdeq_jax.inverse.generation.metrics import mean_squared_errors, psnr
from mdeq_jax.inverse.generation.observations import Observation, observe
from mdeq_jax.inverse.generation.pictures import fit, side_by_side, to_grey
from mdeq_jax.training.evaluation import evaluation_layer, solver_statistics
from mdeq_jax.training.weights import Trained

Task = Literal["denoise", "inpaint"]
_COLUMNS = ("psnr_corrupted", "psnr_restored", "solver_steps", "residual", "converged")

Images = Mapping[str, np.ndarray]  # each (H, W, 1) in [0, 1], by name


@dataclasses.dataclass(frozen=True)
class Problem:
    """How images are corrupted.

    Attributes:
      task: "denoise" or "inpaint".
      noise: "denoise": standard deviation of the noise, above 0, for pixels in [0, 1].
      box: "inpaint": height and width of the hidden box.
      seed: seed of noise and places of boxes, at least 0.
    """

    task: Task
    noise: float
    box: tuple[int, int]
    seed: int = 0

    def __post_init__(self):
        """Check the noise; raises ValueError."""
        if not self.noise > 0:
            raise ValueError(f"--noise is {self.noise}; it must be a number above 0.")

    def observe(
        self, experiment: Generation, variables: Any, image: np.ndarray, number: int
    ) -> Observation:
        """Return what is seen of an image.

        Args:
          experiment: the experiment, for the prior of its latent codes.
          variables: the model's variables.
          image: the image.
          number: number of the image, on which its corruption depends.
        """
        noise, visible = draw_corruption(self.seed, number, image.shape, self.box)
        if self.task == "denoise":
            pixels = jnp.asarray(image + self.noise * noise)[None]
            return observe(pixels, experiment.prior_of_corrupted(variables, self.noise))
        pixels, shown = jnp.asarray(image * visible)[None], jnp.asarray(visible)[None]
        return Observation(pixels, shown, experiment.prior_of_corrupted(variables, 0.0))


def main(
    trained: Trained[Config],
    inputs: Sequence[str],
    output: Path,
    task: Task,
    *,
    noise: float | None = None,
    box: tuple[int, int] | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> dict[str, Any]:
    """Restore images, write pictures and a table, and return the means of the table.

    Args:
      trained: the trained model.
      inputs: images, and folders of images.
      output: folder for all files.
      task: "denoise" or "inpaint".
      noise: standard deviation of the noise; None is the first of config.evaluation.noise.
      box: height and width of the hidden box; None is config.evaluation.box.
      seed: seed of noise and places of boxes.
      steps: largest number of solver steps; None is config.solver.forward.max_steps.

    Raises:
      ValueError: an option does not fit, there is no image, or an image cannot be read.
    """
    options = trained.config.evaluation
    problem = Problem(task, options.noise[0] if noise is None else noise, box or options.box, seed)
    experiment = Generation(trained.config)
    images = _read(inputs, output, experiment.model.size)
    seen = {
        name: problem.observe(experiment, trained.variables, image, number)
        for number, (name, image) in enumerate(images.items())
    }
    restore = _compiled(experiment, trained, steps)
    output.mkdir(parents=True, exist_ok=True)
    table, rows = Table(output / "psnr.csv", ("image", *_COLUMNS)), []
    for name, image in images.items():
        after, row = restore(trained.variables, seen[name], image[None])
        _write(output, name, image, np.asarray(seen[name].pixels[0]), np.asarray(after[0]))
        rows.append({key: float(row[key][0]) for key in _COLUMNS})
        table.add({"image": name, **rows[-1]})
        before_db, after_db = (rows[-1][key] for key in _COLUMNS[:2])
        print(f"{name}  {before_db:.2f} dB corrupted  {after_db:.2f} dB restored", flush=True)
    return {
        "task": task,
        "images": len(rows),
        **{key: float(np.mean([row[key] for row in rows])) for key in _COLUMNS},
    }


def _read(inputs: Sequence[str], output: Path, size: tuple[int, int]) -> Images:
    """Return the images in the form of the generator's, with a notice if some are scaled."""
    read = {name: read_image(path) for name, path in find_images(inputs, output).items()}
    scaled = [name for name, image in read.items() if image.shape[:2] != size]
    if scaled:
        logging.warning(
            "%d of %d images are cut to their middle and scaled to %d×%d, the size that the model "
            "was trained on; the first is %s.",
            *(len(scaled), len(read), *size, scaled[0]),
        )
    return {name: fit(image, size) for name, image in read.items()}


def _compiled(
    experiment: Generation, trained: Trained[Config], steps: int | None
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Return (variables, what is seen, images) ↦ the restored images, and their row."""
    layer = evaluation_layer(trained.config, trained.config.train.unrolled_at(trained.step))
    if steps is not None:
        solver = dataclasses.replace(layer.solver, max_steps=steps)
        layer = dataclasses.replace(layer, solver=solver)

    def restore(
        variables: Any, seen: Observation, images: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        optimum = experiment.inversion.restore(variables, seen, layer)
        restored = experiment.inversion.image(variables, optimum.z)
        return restored, {
            **solver_statistics(trained.config, optimum.solution),
            "psnr_corrupted": psnr(mean_squared_errors(seen.pixels, images)),
            "psnr_restored": psnr(mean_squared_errors(restored, images)),
        }

    return jax.jit(restore)


def _write(
    output: Path, name: str, before: np.ndarray, corrupted: np.ndarray, after: np.ndarray
) -> None:
    """Write the pictures of one image."""
    pictures = {
        "before": to_grey(before),
        "corrupted": to_grey(corrupted),
        "after": to_grey(after),
        "compared": side_by_side(before, corrupted, after),
    }
    for folder, picture in pictures.items():
        path = output / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def _box(sides: Sequence[str] | None) -> tuple[int, int] | None:
    """Return the value of --box.

    Raises:
      ValueError: it is not two whole numbers.
    """
    if sides is None:
        return None
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--box is {','.join(sides)}; give height and width, such as --box=3,4.")
    return int(sides[0]), int(sides[1])


def run() -> None:
    """Run the command under the flags of the process."""
    checkpoint = flags.DEFINE_string("checkpoint", None, cli.CHECKPOINT, required=True)
    output = flags.DEFINE_string("output", None, "Folder for the pictures.", required=True)
    inputs = flags.DEFINE_multi_string(
        "input", None, "A clean image or a folder of images.", required=True
    )
    task: Any = flags.DEFINE_enum(
        "task", None, ["denoise", "inpaint"], "What to restore.", required=True
    )
    noise = flags.DEFINE_float(
        "noise", None, "Deviation of the noise; by default the first of config.evaluation.noise."
    )
    box = flags.DEFINE_list(
        "box", None, "Height and width of the hidden box; by default config.evaluation.box."
    )
    seed = flags.DEFINE_integer("seed", 0, "Seed of the noise and the place of the box.", 0)
    steps = flags.DEFINE_integer(
        "steps", None, "Largest number of solver steps; by default the config's.", 1
    )
    cli.run(
        __doc__,
        lambda: main(
            applications.load_trained_as("inverse", checkpoint.value),
            inputs.value,
            Path(output.value),
            task.value,
            noise=noise.value,
            box=_box(box.value),
            seed=seed.value,
            steps=steps.value,
        ),
    )


if __name__ == "__main__":
    run()
