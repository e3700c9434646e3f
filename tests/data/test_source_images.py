"""Images of any format become upright 8-bit JPEGs or PNGs, and their label maps turn with them."""

import io

import cv2
import numpy as np
import PIL.Image
import pytest

from deeplab_tf.data import image_files
from deeplab_tf.data import source_images
from deeplab_tf.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def encoded(pixels: np.ndarray, image_format: str, **options) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, image_format, **options)
    return stream.getvalue()


def decoded(image: source_images.SourceImage) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(image.content)).convert("RGB"))


RGBA = np.dstack([PIXELS, PIXELS[..., :1]])


@pytest.mark.parametrize(
    "content, image_format",
    [
        (encoded(PIXELS, "JPEG"), "jpeg"),
        (encoded(PIXELS[..., 0], "JPEG"), "jpeg"),
        (encoded(PIXELS, "PNG"), "png"),
        (encoded(RGBA, "PNG"), "png"),
        (encoded(PIXELS[..., 0] > 99, "PNG"), "png"),
    ],
)
def test_the_bytes_of_upright_8_bit_files_stay(content, image_format):
    image = source_images.read_source_image(content, "a")
    assert (image.content, image.format, image.size) == (content, image_format, (9, 6))


@pytest.mark.parametrize("image_format", ["TIFF", "BMP", "WEBP", "PPM"])
def test_other_formats_become_pngs(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    image = source_images.read_source_image(encoded(PIXELS, image_format, **options), "a")
    assert image.format == "png"
    np.testing.assert_array_equal(decoded(image), PIXELS)


def test_16_bits_are_scaled_to_8_and_said():
    lines = []
    values = PIXELS[..., 0].astype(np.uint16) * 16
    content = cv2.imencode(".png", values)[1].tobytes()
    image = source_images.read_source_image(content, "a", tell=lines.append)
    np.testing.assert_array_equal(decoded(image)[..., 0], np.round(values / 4095 * 255))
    assert "12 bits" in lines[0]


def test_heic_is_read_with_its_extra():
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    smooth = cv2.resize(PIXELS[:2, :3], (96, 64))
    pillow_heif.from_pillow(PIL.Image.fromarray(smooth)).save(stream, quality=95)
    image = source_images.read_source_image(stream.getvalue(), "a.heic")
    assert np.abs(decoded(image).astype(int) - smooth).mean() < 6


@pytest.mark.parametrize("orientation", range(10))
def test_image_and_label_map_are_turned_alike(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = encoded(PIXELS, "PNG", exif=exif)
    image = source_images.read_source_image(content, "a")
    upright = image_files.read_image(content)
    np.testing.assert_array_equal(decoded(image), upright)
    assert image.size == upright.shape[1::-1]
    np.testing.assert_array_equal(image.upright(PIXELS[..., 0]), upright[..., 0])
    if image.size != (9, 6):  # a label map that was drawn upright
        np.testing.assert_array_equal(image.upright(upright[..., 0]), upright[..., 0])
    assert (image.content == content) == (orientation in (0, 1, 9))


@pytest.mark.parametrize(
    "content", [b"", b"x" * 99, encoded(PIXELS, "PNG")[:-60], encoded(PIXELS, "JPEG")[:-60]]
)
def test_a_damaged_file_is_named(content):
    with pytest.raises(UserError, match=r"^(image )?photo\.png"):
        source_images.read_source_image(content, "photo.png")


def test_a_file_that_is_too_large_is_refused_by_its_header():
    with pytest.raises(UserError, match="--max_image_pixels"):
        source_images.read_source_image(encoded(PIXELS, "PNG"), "a", max_pixels=53)
