"""The training pipeline of ImageNet against tf.data's, on the same JPEG files.

    python -m benchmarks.run loader

Both make random resized crops of 224×224, randomly mirrored, with twice as many threads as cores.
tf.data decodes only the crop of an image (`decode_and_crop_jpeg`). The files have about ImageNet's
mean size and are made from scikit-learn's photographs. The benchmark needs tensorflow-cpu
(requirements-prepare.txt).
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from benchmarks.timing import report
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import train_iterator

IMAGES = 512
SIZE = (224, 224)
# Most training images of ImageNet have this size; quality and noise give files of about 110 kB,
# ImageNet's mean.
SIDES = (375, 500)
QUALITY, NOISE = 90, 19
BATCHES = 8
THREADS_PER_CORE = 2


def main(batch: int = 128, rounds: int = 5) -> None:
    """Print the images per second of both pipelines.

    Args:
      batch: number of images in a batch.
      rounds: number of pairs of measurements.
    """
    cores = len(os.sched_getaffinity(0))
    threads = THREADS_PER_CORE * cores
    with tempfile.TemporaryDirectory() as root:
        mean_bytes = write_images(Path(root))
        loaders = {
            "ours": lambda: ours(root, batch, threads),
            "tf.data": lambda: tf_data(root, batch, threads),
        }
        speeds = {name: [] for name in loaders}
        for _ in range(rounds):
            for name, loader in loaders.items():
                speeds[name].append(images_per_second(loader, batch))
    pairs = zip(speeds["ours"], speeds["tf.data"], strict=True)
    rows = [
        {"loader": name, "images_per_second": statistics.median(values), "slowest": min(values)}
        for name, values in speeds.items()
    ]
    ratio = statistics.median(a / b for a, b in pairs)
    report("loader", rows, ratio=ratio, cores=cores, batch=batch, mean_bytes=mean_bytes)


def write_images(root: Path) -> float:
    """Write a folder of images in the layout of ImageFolder; return their mean size in bytes."""
    photos, sizes = load_sample_images().images, []
    for number in range(IMAGES):
        generator = np.random.default_rng(number)
        height, width = SIDES if number % 3 else SIDES[::-1]
        photo = photos[number % len(photos)]
        side = generator.integers(200, 400)
        top, left = (generator.integers(extent - side) for extent in photo.shape[:2])
        piece = photo[top : top + side, left : left + side]
        image = cv2.resize(piece, (width, height), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(image + generator.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
        _, encoded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        for split in ("train", "val"):
            path = root / split / f"class_{number % 4}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.tobytes())
        sizes.append(encoded.size)
    return statistics.mean(sizes)


def ours(root: str, batch: int, threads: int) -> Any:
    """Return an iterator over batches of the data set `folder`."""
    data = DataConfig(
        name="folder", root=root, batch_size=batch, image_size=SIZE, threads=threads, workers=0
    )
    return train_iterator(data, seed=0)


def tf_data(root: str, batch: int, threads: int) -> Iterator[Any]:
    """Return an iterator over batches of tf.data."""
    import tensorflow as tf

    def example(path: Any) -> Any:
        encoded = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            tf.zeros([0, 0, 4], tf.float32),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, SIZE))
        return tf.cast(image, tf.uint8)

    paths = sorted(str(path) for path in Path(root, "train").rglob("*.jpg"))
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    images = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    batches = images.map(example, num_parallel_calls=threads).batch(batch).prefetch(2)
    return batches.with_options(options).as_numpy_iterator()


def images_per_second(loader: Callable[[], Iterator[Any]], batch: int) -> float:
    """Return the speed of a loader that has just made its first batch."""
    batches: Any = loader()
    next(batches)
    started = time.perf_counter()
    for _ in islice(batches, BATCHES):
        pass
    seconds = time.perf_counter() - started
    if hasattr(batches, "close"):
        batches.close()  # its threads must not run beside the next loader's
    return batch * BATCHES / seconds
