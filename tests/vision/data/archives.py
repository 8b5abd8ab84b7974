"""Images of all modes, and the archives of CIFAR-10 and ImageNet in their genuine layouts."""

import io
import tarfile

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mdeq_jax.vision.data.imagenet2012 import class_names

ROTATED = 6  # EXIF: to be turned by a quarter


def photograph(seed, size):
    """A smooth random image, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def jpeg(pixels, mode="RGB", **options):
    """The bytes of a JPEG file of an RGB image."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format="jpeg", **options)
    return file.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    return exif


MODES = {
    "rgb": {},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "progressive": {"progressive": True},
    "rotated": {"exif": rotated()},
}


def imagenet_files(train=240, val=60, classes=1000):
    """{"train": {synset: {file name: bytes}}, "val": {file name: bytes}}, modes in turn."""
    synsets, modes, rng = class_names(), list(MODES.values()), np.random.default_rng(0)
    found = {"train": {synset: {} for synset in synsets[:classes]}, "val": {}}
    for number in range(train + val):
        size = tuple(int(side) for side in rng.integers(40, 90, 2))
        content = jpeg(photograph(number, size), **modes[number % len(modes)])
        if number < train:
            synset = synsets[number % classes]
            found["train"][synset][f"{synset}_{number}.JPEG"] = content
        else:
            found["val"][f"ILSVRC2012_val_{number - train + 1:08d}.JPEG"] = content
    return found


def tar(files, mode="w"):
    """The bytes of a tar archive of {name: bytes}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write_imagenet_archives(folder, files):
    """A tar of a tar for each synset, and a tar of validation images."""
    folder.mkdir(parents=True, exist_ok=True)
    synsets = {f"{synset}.tar": tar(images) for synset, images in files["train"].items()}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(synsets))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(files["val"]))


def cifar_images(count, seed):
    """Images uint8 (count, 32, 32, 3) and labels uint8 (count,)."""
    labels = np.random.default_rng(seed).integers(0, 10, count, np.uint8)
    images = np.stack([photograph((seed, number), (32, 32)) for number in range(count)])
    return images, labels


def write_cifar_archive(folder, per_file=60):
    """`cifar-10-binary.tar.gz`: five files to train on and one to test on, of few images."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = {}
    for seed, name in enumerate(names):
        images, labels = cifar_images(per_file, seed)
        planes = images.transpose(0, 3, 1, 2).reshape(per_file, -1)
        files[name] = np.concatenate([labels[:, None], planes], axis=1).tobytes()
    files["batches.meta.txt"] = "\n".join(
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    ).encode()
    content = tar({f"cifar-10-batches-bin/{name}": data for name, data in files.items()}, "w:gz")
    (folder / "cifar-10-binary.tar.gz").write_bytes(content)


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes without TensorFlow what the stock builder writes, which stays the one that reads."""

    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=class_names()),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        files, synsets = imagenet_files(), class_names()
        train = [
            (name, content, synset)
            for synset, images in files["train"].items()
            for name, content in images.items()
        ]
        val = [
            (name, content, synsets[number])
            for number, (name, content) in enumerate(files["val"].items())
        ]
        return {"train": self._generate_examples(train), "validation": self._generate_examples(val)}

    def _generate_examples(self, images):
        for name, content, label in images:
            yield name, {"image": io.BytesIO(content), "label": label, "file_name": name}


class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Likewise for CIFAR-10."""

    VERSION = tfds.core.Version("3.0.2")

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples("train", range(5)),
            "test": self._generate_examples("test", (5,)),
        }

    def _generate_examples(self, split, seeds):
        number = 0
        for seed in seeds:
            for image, label in zip(*cifar_images(60, seed), strict=True):
                png = io.BytesIO()
                Image.fromarray(image).save(png, format="png")
                png.seek(0)
                yield number, {"id": f"{split}_{number:05d}", "image": png, "label": label}
                number += 1


def prepare_without_tensorflow(builder, data_dir):
    builder(data_dir=data_dir).download_and_prepare(file_format="array_record")
