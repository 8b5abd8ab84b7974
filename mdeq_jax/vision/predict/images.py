"""Turn the pixels of an image into a model's input."""

import numpy as np
from jaxtyping import Float, UInt8

from mdeq_jax.vision.data import Dataset


def model_input(
    image: UInt8[np.ndarray, "H W 3"], task: str, dataset: Dataset
) -> Float[np.ndarray, "height width 3"]:
    """Return an image as input of a model that was trained on a data set.

    A segmentation model takes the image at its own size. A classifier takes it as in evaluation.

    Args:
      image: the image, RGB.
      task: task of the model, "classification" or "segmentation".
      dataset: data set that the model was trained on.
    """
    return dataset.normalise(dataset.fit(image) if task == "classification" else image)
