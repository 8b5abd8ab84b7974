"""Write the frames of a camera that moves over a photograph, to predict from warm starts.

    python -m benchmarks.camera_pan --output runs/pan --step 4
    python -m mdeq_jax.commands.predict --config configs/digit_scenes.py \\
        --checkpoint runs/digit_scenes --input runs/pan --output runs/pan_predicted --warm-start
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from sklearn.datasets import load_sample_images


def camera_pan(
    photo: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], step: int, frames: int
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield windows of a photograph that move to the right and back, half-way up.

    Args:
      photo: the photograph, RGB.
      size: (h, w) of a window.
      step: pixels from one window to the next.
      frames: number of windows.

    Raises:
      ValueError: the photograph is smaller than a window.
    """
    spare = [have - want for have, want in zip(photo.shape, size, strict=False)]
    if min(spare) < 0:
        raise ValueError(
            f"frames are of size {size}, but the photograph is {photo.shape[:2]}; use a smaller"
            " --size."
        )
    top, reach = spare[0] // 2, max(spare[1], 1)
    for k in range(frames):
        left = min(spare[1], abs((k * step + reach) % (2 * reach) - reach))
        yield photo[top : top + size[0], left : left + size[1]]


def main() -> None:
    """Parse the command line and write the frames."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.camera_pan")
    parser.add_argument("--output", type=Path, required=True, help="folder for the frames")
    parser.add_argument("--photo", type=int, default=0, choices=(0, 1), help="of scikit-learn's")
    parser.add_argument("--frames", type=int, default=16, help="how many (16)")
    parser.add_argument("--step", type=int, default=4, help="pixels from frame to frame (4)")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), help="height and width")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    photo = load_sample_images().images[options.photo]
    pan = camera_pan(photo, tuple(options.size), options.step, options.frames)
    for k, frame in enumerate(pan):
        cv2.imwrite(str(options.output / f"{k:04}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
