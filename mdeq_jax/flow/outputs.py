"""The flow of a film as files, in memory that does not grow with the film's length."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mdeq_jax.flow.data.formats import FlowField, as_flow_map, read_flow, write_flo
from mdeq_jax.flow.pictures import draw_flow, save_animation
from mdeq_jax.images.decoding import Pixels

# Bounds of the animation: number of pictures, and pixels of the longer side of a frame.
_MOST_PICTURES, _LONGEST_SIDE = 200, 320


class FilmFiles:
    """Files of the flow of each frame, and pictures of them with one scale for the whole film."""

    def __init__(self, folder: Path, max_flow: float | None = None):
        """Start without frames.

        Args:
          folder: folder for all files.
          max_flow: length of flow in pixels, above 0, that has the full saturation; None is the
            longest flow of the film.

        Raises:
          ValueError: `max_flow` is not above 0.
        """
        if max_flow is not None and not max_flow > 0:
            raise ValueError(f"the largest flow of the pictures is {max_flow!r}; give it above 0.")
        self._folder, self._max_flow = folder, max_flow
        self._names: list[str] = []
        self._longest = 0.0
        # Every `_stride`-th frame, made smaller.
        self._thumbnails: dict[str, Pixels] = {}
        self._stride = 1
        self._size: tuple[int, int] | None = None

    def add(self, name: str, frame: Pixels, flow: FlowField) -> None:
        """Write flow/NAME.flo.

        Args:
          name: name of the frame, which may contain folders.
          frame: the frame.
          flow: its flow in pixels.
        """
        write_flo(_place(self._folder / "flow" / f"{name}.flo"), flow)
        lengths = np.linalg.norm(as_flow_map(flow).flow, axis=-1)
        self._longest = max(self._longest, float(lengths.max()))
        if len(self._names) % self._stride == 0:
            self._thumbnails[name] = self._shrunk(frame)
        self._names.append(name)
        if len(self._thumbnails) > _MOST_PICTURES:
            self._thumbnails = dict(list(self._thumbnails.items())[::2])
            self._stride *= 2

    def draw(self) -> None:
        """Write colour/NAME.png for every frame, and flow.gif with frames beside their flow."""
        largest, pictures = self._max_flow or self._longest or 1.0, []
        for name in self._names:
            flow = read_flow(self._folder / "flow" / f"{name}.flo").flow
            picture = draw_flow(flow, largest)
            Image.fromarray(picture).save(_place(self._folder / "colour" / f"{name}.png"))
            if name in self._thumbnails:
                pictures.append(np.hstack([self._thumbnails[name], self._shrunk(picture)]))
        save_animation(self._folder / "flow.gif", pictures)

    def _shrunk(self, picture: Pixels) -> Pixels:
        """Return a picture in the size of the animation, which the first frame determines."""
        image = Image.fromarray(picture)
        if self._size is None:
            scale = min(1, _LONGEST_SIDE / max(image.size))
            width, height = (max(1, round(scale * side)) for side in image.size)
            self._size = width, height
        return np.asarray(ImageOps.pad(image, self._size))


def _place(path: Path) -> Path:
    """Return the path of a file after its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
