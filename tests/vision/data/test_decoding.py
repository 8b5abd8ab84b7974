"""Images of every mode against Pillow, at reduced sizes, and broken ones."""

import io
import pickle

import numpy as np
import pytest
from archives import MODES, jpeg, photograph
from folders import encode, grey_png, text_chunk
from PIL import Image

from mdeq_jax.images.decoding import decode, decode_label, size_of
from mdeq_jax.training.reader import BadRecordError

PHOTO = photograph(0, (90, 123))


def pillow(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def png(mode):
    file = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize("mode", MODES)
def test_jpegs_are_what_pillow_reads(mode):
    """To a unit for CMYK, which each converts in its own way; and a note to rotate is ignored."""
    encoded = jpeg(PHOTO, **MODES[mode])
    found = decode(encoded, "name")
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, pillow(encoded).astype(int), atol=1 if mode == "cmyk" else 0)
    assert size_of(encoded, "name") == (90, 123)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pngs_are_what_pillow_reads(mode):
    np.testing.assert_array_equal(decode(png(mode), "name"), pillow(png(mode)))
    assert size_of(png(mode), "name") == (90, 123)


def test_colours_are_red_green_blue():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    assert np.abs(decode(jpeg(red), "name").astype(int) - [255, 0, 0]).max() < 5


@pytest.mark.parametrize(
    ("at_least", "shape"),
    [
        (None, (400, 600)),
        ((201, 100), (400, 600)),  # not a half
        ((200, 300), (200, 300)),
        ((100, 100), (100, 150)),
        ((1, 1), (50, 75)),  # an eighth, the smallest there is
    ],
)
def test_reduced_sizes(at_least, shape):
    image = photograph(0, (400, 600))
    found = decode(jpeg(image, quality=95), "name", at_least)
    assert found.shape[:2] == shape
    expected = Image.fromarray(image).resize(shape[::-1], Image.Resampling.BOX)
    assert np.abs(found - np.asarray(expected).astype(int)).mean() < 3


@pytest.mark.parametrize("make", [jpeg, lambda _: png("RGB")])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.98])
def test_what_breaks_off(make, share):
    encoded = make(PHOTO)
    with pytest.raises(BadRecordError, match="street is not an image, or breaks off"):
        decode(encoded[: int(share * len(encoded))], "street")


def test_what_is_no_image():
    for read in (decode, size_of):
        with pytest.raises(BadRecordError, match=r"notes\.txt is not an image"):
            read(b"not an image", "notes.txt")


@pytest.mark.parametrize(
    "options",
    [
        text_chunk(),
        text_chunk(9_000_000, compressed=False),
        {"icc_profile": bytes(2_000_000)},
        {"exif": b"Exif\0\0" + bytes(9_000_000)},
    ],
    ids=["compressed text", "text", "profile", "exif"],
)
def test_a_large_annotation_of_a_png_is_no_fault(options):
    encoded, grey = encode(PHOTO, **options), encode(PHOTO[..., 0], **options)
    np.testing.assert_array_equal(decode(encoded, "name"), PHOTO)
    assert size_of(encoded, "name") == (90, 123)
    np.testing.assert_array_equal(decode_label(grey, "name"), PHOTO[..., 0])


def test_images_of_many_pixels():
    """More than Pillow opens by default."""
    encoded = grey_png(10_000, 20_000, rows=10_000)
    assert size_of(encoded, "name") == (10_000, 20_000)
    assert decode(encoded, "name").shape == (10_000, 20_000, 3)
    assert decode_label(encoded, "name").shape == (10_000, 20_000)


@pytest.mark.parametrize("read", [decode, size_of, decode_label])
@pytest.mark.parametrize("size", [(60_000, 60_000), (2, 2**21), (0, 5)])
def test_sizes_that_are_refused(read, size):
    with pytest.raises(BadRecordError, match=r"^street\.png is .*save it again"):
        read(grey_png(*size, rows=1), "street.png")


@pytest.mark.parametrize("read", [decode, size_of, decode_label])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "bmp", "tiff", "gif"])
def test_a_file_that_is_cut_inside_its_header(read, format):
    encoded = encode(PHOTO, format)
    for length in range(24):
        with pytest.raises(BadRecordError, match=r"^street is .*save it again"):
            read(encoded[:length], "street")


@pytest.mark.parametrize("format", ["webp", "bmp", "tiff", "gif"])
def test_other_formats(format):
    options = {"lossless": True} if format == "webp" else {}
    encoded = encode(PHOTO, format, **options)
    np.testing.assert_array_equal(decode(encoded, "name"), pillow(encoded))
    assert size_of(encoded, "name") == (90, 123)


def test_a_palette_with_transparency_keeps_its_colours():
    encoded = io.BytesIO()
    Image.fromarray(PHOTO).convert("P").save(encoded, "png", transparency=bytes(range(256)))
    encoded = encoded.getvalue()
    expected = Image.open(io.BytesIO(encoded)).convert("RGBA").convert("RGB")
    np.testing.assert_array_equal(decode(encoded, "name"), expected)


def test_16_bits_are_reduced_to_8():
    deep = encode(PHOTO[..., 0].astype(np.uint16) * 257)
    expected = np.repeat(PHOTO[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(decode(deep, "name"), expected)


def test_the_error_crosses_processes():
    error = pickle.loads(pickle.dumps(BadRecordError("a.jpg", "is bad.")))
    assert (error.name, str(error)) == ("a.jpg", "a.jpg is bad.")
