"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from mdeq_jax.config import DataConfig
from mdeq_jax.data import embedded
from mdeq_jax.data.dataset import Dataset, Example

TEST_EXAMPLES = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of scikit-learn's copy of the UCI optical digits test set."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels, 0 (background) to 16.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "index": np.int64,  # row in scikit-learn's order
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            disable_shuffling=True,  # the test split keeps the order of its definition
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, Example]]]:
        from sklearn.datasets import load_digits  # needed only to prepare

        pixels, labels = load_digits(return_X_y=True)
        images = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)
        order = np.random.RandomState(0).permutation(len(labels))
        return {
            "train": self._generate_examples(images, labels, order[:-TEST_EXAMPLES]),
            "test": self._generate_examples(images, labels, order[-TEST_EXAMPLES:]),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, Example]]:
        for position, row in enumerate(rows):
            yield position, {"image": images[row], "label": labels[row], "index": row}


def _open_split(data: DataConfig, split: str) -> Sequence[Example]:
    return list(embedded.open_split(Digits, data.dir, split))  # 115 kB: held in memory


def _normalise(image: UInt8[np.ndarray, "8 8 1"]) -> Float[np.ndarray, "8 8 3"]:
    return np.repeat((image / 16 - 0.3) / 0.38, 3, axis=-1).astype(np.float32)


def _shift(
    image: UInt8[np.ndarray, "8 8 1"], generator: np.random.Generator
) -> UInt8[np.ndarray, "8 8 1"]:
    """Shifts by -1, 0 or 1 pixel along each axis, uniformly, over background."""
    framed = np.zeros((10, 10, 1), np.uint8)  # np.pad takes eight times as long
    framed[1:9, 1:9] = image
    top, left = generator.integers(0, 3, size=2)
    return framed[top : top + 8, left : left + 8]


def _eval_transform(example: Example) -> Example:
    return {"image": _normalise(example["image"]), "label": np.int32(example["label"])}


def _train_transform(example: Example, generator: np.random.Generator) -> Example:
    return _eval_transform({**example, "image": _shift(example["image"], generator)})


DIGITS = Dataset(
    train_split="train",
    eval_split="test",
    image_shape=(8, 8, 3),
    num_classes=10,
    open_split=_open_split,
    train_transform=_train_transform,
    eval_transform=_eval_transform,
)
