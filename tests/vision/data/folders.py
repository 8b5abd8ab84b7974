"""Small folders and archives of images and labels in their genuine layouts."""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

CITIES = {"train": ("aachen", "zurich"), "val": ("frankfurt",), "test": ("berlin",)}
COUNTS = {"train": 4, "val": 2, "test": 2}


def encode(pixels, format="png", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=format, **options)
    return file.getvalue()


def text_chunk(length=2_000_000, *, compressed=True):
    """An option of `encode`: a long text in a PNG file, as editors write it."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("comment", "x" * length, zip=compressed)
    return {"pnginfo": info}


def grey_png(height, width, rows):
    """A black PNG file that says its size, and has as many rows as given."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows), level=1)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def random_pair(generator, size, num_classes):
    """An image, and ids of which each of 4×4 pixels is 255 or one of the classes."""
    image = generator.integers(0, 256, (*size, 3), np.uint8)
    grid = generator.choice([*range(num_classes), 255], (size[0] // 4, size[1] // 4))
    return image, np.kron(grid, np.ones((4, 4))).astype(np.uint8)


def write_seg_folder(root, sizes=((32, 48), (48, 32)), num_classes=3, train=8):
    """A folder for seg_folder; returns {split: {name: (image, ids)}}."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("".join(f"class {k}\n" for k in range(num_classes)))
    generator, pairs = np.random.default_rng(0), {"train": {}, "val": {}}
    for split, count in (("train", train), ("val", 3)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = f"street_{number}"
            pair = random_pair(generator, sizes[number % len(sizes)], num_classes)
            (root / split / "images" / f"{name}.png").write_bytes(encode(pair[0]))
            (root / split / "labels" / f"{name}.png").write_bytes(encode(pair[1]))
            pairs[split][name] = pair
    return pairs


def cityscapes_files(size=(32, 64)):
    """The files of both archives, {name in the archive: bytes}: images, and what is annotated."""
    generator, images, annotations = np.random.default_rng(0), {}, {}
    for split, cities in CITIES.items():
        for city in cities:
            for number in range(2):
                stem = f"{split}/{city}/{city}_{number:06d}_000019"
                image, ids = random_pair(generator, size, 34)
                images[f"leftImg8bit/{stem}_leftImg8bit.png"] = encode(image)
                annotations[f"gtFine/{stem}_gtFine_labelIds.png"] = encode(ids)
                annotations[f"gtFine/{stem}_gtFine_instanceIds.png"] = encode(ids.astype("uint16"))
                annotations[f"gtFine/{stem}_gtFine_color.png"] = encode(image)
                annotations[f"gtFine/{stem}_gtFine_polygons.json"] = b"{}"
    return images, annotations


def write_archives(folder, images, annotations):
    """The two official archives, with these files in them."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = {"leftImg8bit_trainvaltest": images, "gtFine_trainvaltest": annotations}
    for name, files in archives.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for path, content in {"README": b"-", "license.txt": b"-", **files}.items():
                archive.writestr(path, content)


def write_extracted(root, images, annotations):
    """What `data.root` names: the extracted archives, and the originals' lists."""
    for path, content in {**images, **annotations}.items():
        (root / "cityscapes" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "cityscapes" / path).write_bytes(content)
    (root / "list" / "cityscapes").mkdir(parents=True)
    for split in ("train", "val"):
        lines = [
            f"{image}\t{label}\n"
            for image, label in zip(images, label_names(images), strict=True)
            if f"/{split}/" in image
        ]
        (root / "list" / "cityscapes" / f"{split}.lst").write_text("".join(lines))


def label_names(images):
    """The label files of images, by the official naming."""
    return [
        name.replace("leftImg8bit/", "gtFine/").replace("_leftImg8bit.", "_gtFine_labelIds.")
        for name in images
    ]
