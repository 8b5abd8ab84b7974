"""Tiny data sets of random images in the layouts of the published ones."""

import cv2
import numpy as np

from mdeq_jax.flow.data.formats import write_flo, write_kitti, write_pfm

SIZE = (16, 24)
WRITERS = {".flo": write_flo, ".pfm": write_pfm, ".png": write_kitti}


def random_image(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def random_flow(seed, size=SIZE):
    """Return flow in steps of 1/64 pixel, which all formats hold exactly."""
    return np.random.default_rng(seed).integers(-640, 640, (*size, 2)).astype(np.float32) / 64


def random_valid(seed, size=SIZE):
    return np.random.default_rng(seed).uniform(size=size) < 0.3


def write_image(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), random_image(seed, size)[..., ::-1])


def write_flow(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    valid = [random_valid(seed, size)] if path.suffix == ".png" else []
    WRITERS[path.suffix](path, random_flow(seed, size), *valid)


def make_chairs(root, splits="11211"):
    data = root / "FlyingChairs_release" / "data"
    for pair in range(1, len(splits) + 1):
        write_image(data / f"{pair:05}_img1.ppm", 2 * pair)
        write_image(data / f"{pair:05}_img2.ppm", 2 * pair + 1)
        write_flow(data / f"{pair:05}_flow.flo", pair)
    (root / "chairs_split.txt").write_text("\n".join(splits) + "\n")


def make_things(root, scenes=("A/0000", "B/0003"), frames=3):
    top = root / "FlyingThings3D"
    for scene in scenes:
        for frame in range(6, 6 + frames):
            for render in ("cleanpass", "finalpass"):
                write_image(top / f"frames_{render}/TRAIN/{scene}/left/{frame:04}.png", frame)
            for way, seed in (("Future", frame), ("Past", 100 + frame)):
                folder = top / f"optical_flow/TRAIN/{scene}/into_{way.lower()}/left"
                write_flow(folder / f"OpticalFlowInto{way}_{frame:04}_L.pfm", seed)


def make_sintel(root, scenes=(("alley_1", 3), ("market_2", 2))):
    for split in ("training", "test"):
        for scene, frames in scenes:
            for frame in range(1, frames + 1):
                for render in ("clean", "final"):
                    path = f"Sintel/{split}/{render}/{scene}/frame_{frame:04}.png"
                    write_image(root / path, frame)
                if split == "training" and frame < frames:
                    write_flow(root / f"Sintel/training/flow/{scene}/frame_{frame:04}.flo", frame)


def make_kitti(root, pairs=2):
    for split in ("training", "testing"):
        for pair in range(pairs):
            for frame in (10, 11):
                write_image(root / f"KITTI/{split}/image_2/{pair:06}_{frame}.png", frame + pair)
            if split == "training":
                write_flow(root / f"KITTI/training/flow_occ/{pair:06}_10.png", pair)


def make_hd1k(root, films=(3, 2)):
    for film, frames in enumerate(films):
        for frame in range(frames):
            name = f"{film:06}_{frame:04}.png"
            write_image(root / "HD1k/hd1k_input/image_2" / name, 10 * film + frame)
            write_flow(root / "HD1k/hd1k_flow_gt/flow_occ" / name, 10 * film + frame)


def make_all(root):
    for make in (make_chairs, make_things, make_sintel, make_kitti, make_hd1k):
        make(root)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
