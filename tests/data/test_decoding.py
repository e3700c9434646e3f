"""The bytes of records: every PNG that has ids gives them, in Python and in a graph alike."""

import contextlib
import io

import cv2
import numpy as np
import PIL.Image
import pngs
import pytest
import tensorflow as tf

from deeplab_tf.data import decoding
from deeplab_tf.data.problems import DataProblem

LIMIT = 10_000


def ids_of(bit_depth: int) -> np.ndarray:
    """All ids of a bit depth, or some of 16 bits, in a size that fills no byte evenly."""
    rng = np.random.default_rng(bit_depth)
    return rng.integers(0, 2**bit_depth, (21, 37))


LABELS = {
    "grey of 1 bit": (1, pngs.png(ids_of(1), 1)),
    "grey of 2 bits": (2, pngs.png(ids_of(2), 2)),
    "grey of 4 bits": (4, pngs.png(ids_of(4), 4)),
    "grey of 8 bits": (8, pngs.png(ids_of(8), 8)),
    "grey of 16 bits": (16, pngs.png(ids_of(16), 16)),
    "grey with a transparent level": (8, pngs.png(ids_of(8), 8, chunks=[(b"tRNS", b"\0\1")])),
    "grey with a gamma": (4, pngs.png(ids_of(4), 4, chunks=[(b"gAMA", b"\0\3\0\0")])),
    "interlaced grey": (8, pngs.png(ids_of(8), 8, interlaced=True)),
    "interlaced grey of 2 bits": (2, pngs.png(ids_of(2), 2, interlaced=True)),
    "palette of 1 bit": (1, pngs.palette_png(ids_of(1), 1)),
    "palette of 2 bits": (2, pngs.palette_png(ids_of(2), 2)),
    "palette of 4 bits": (4, pngs.palette_png(ids_of(4), 4)),
    "palette of 8 bits": (8, pngs.palette_png(ids_of(8), 8)),
    "palette with alpha": (8, pngs.palette_png(ids_of(8), 8, alpha=bytes([0, 128]))),
    "interlaced palette": (4, pngs.palette_png(ids_of(4), 4, interlaced=True)),
}


def in_graph(content: bytes) -> tuple[str, np.ndarray | None]:
    """What is wrong with a label, and its ids, from the twins in TensorFlow."""

    @tf.function
    def decode(content):
        problem = decoding.label_problem_in_graph(content, LIMIT)
        ids = tf.cond(
            problem == "",
            lambda: decoding.decode_label_in_graph(content),
            lambda: tf.zeros((0, 0), tf.int32),
        )
        return problem, ids

    problem, ids = decode(tf.constant(content))
    return problem.numpy().decode(), ids.numpy()


@pytest.mark.parametrize("kind", LABELS)
def test_a_label_gives_the_ids_that_its_file_stores(kind):
    bit_depth, content = LABELS[kind]
    label = decoding.decode_label(content, LIMIT)
    assert label.dtype == (np.uint16 if bit_depth == 16 else np.uint8)
    np.testing.assert_array_equal(label, ids_of(bit_depth))
    problem, ids = in_graph(content)
    assert problem == ""
    np.testing.assert_array_equal(ids, ids_of(bit_depth))


def jpeg(array) -> bytes:
    return cv2.imencode(".jpg", array)[1].tobytes()


GREY = ids_of(8)
COLORS = np.random.default_rng(0).integers(0, 256, (21, 37, 4))
NO_LABELS = {  # kind of problem, words of what is said
    "JPEG": (jpeg(GREY.astype(np.uint8)), "label_jpeg", "JPEG"),
    "RGB": (pngs.png(COLORS[..., :3], 8, pngs.RGB), "label_colors", "RGB"),
    "RGB of 16 bits": (pngs.png(COLORS[..., :3], 16, pngs.RGB), "label_colors", "RGB"),
    "RGBA": (pngs.png(COLORS, 8, pngs.RGBA), "label_colors", "RGBA"),
    "alpha": (pngs.png(COLORS[..., :2], 8, pngs.GREY_ALPHA), "label_colors", "alpha"),
    "GIF": (b"GIF89a....", "label_damaged", "GIF"),
    "nothing": (b"", "label_damaged", "not a PNG"),
    "text": (b"hello" * 20, "label_damaged", "not a PNG"),
    "a signature alone": (pngs.png(GREY)[:30], "label_damaged", "header"),
    "too large": (pngs.png(GREY, size=(30_000, 30_000)), "image_too_large", "30000x30000"),
    "of no size": (pngs.png(GREY, size=(0, 7)), "label_damaged", "header"),
    "cut": (pngs.png(GREY)[:-30], "label_damaged", "end"),
    "too few rows": (pngs.png(GREY[:9], size=(37, 21)), "label_damaged", "end"),
    "a palette too short of rows": (
        pngs.palette_png(ids_of(4)[:9], 4, size=(37, 21)), "label_damaged", "end",
    ),
}  # fmt: skip


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


for place, position in (("header", 20), ("pixels", 60), ("last checksum", -14)):
    for name, content in (("grey", pngs.png(GREY)), ("palette", pngs.palette_png(ids_of(8)))):
        start = content.index(b"IDAT") if position == 60 else 0
        damaged = flipped(content, (start + position) % len(content))
        NO_LABELS[f"a bit of the {place} of a {name} PNG"] = (damaged, "label_damaged", "")


def with_wrong_checksum_of_pixels(content: bytes) -> bytes:
    """Returns a PNG whose pixels lack their checksum; those of its chunks are right."""
    head, tail = content.split(b"IDAT")
    length = int.from_bytes(head[-4:], "big")
    return head[:-4] + pngs.chunk(b"IDAT", flipped(tail[:length], length - 1)) + tail[length + 4 :]


NO_LABELS["a wrong checksum of the pixels"] = (
    with_wrong_checksum_of_pixels(pngs.png(GREY)), "label_damaged", "end",
)  # fmt: skip


@pytest.mark.parametrize("what", NO_LABELS)
def test_what_has_no_ids_is_refused_before_a_number_comes_of_it(what):
    content, kind, words = NO_LABELS[what]
    with pytest.raises(DataProblem) as problem:
        decoding.decode_label(content, LIMIT)
    assert problem.value.kind == kind and words in problem.value.detail
    with contextlib.suppress(tf.errors.InvalidArgumentError):  # seen while decoding
        assert in_graph(content)[0] != ""


def encoded(array, mode: str, kind: str, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).convert(mode).save(file, kind, **options)
    return file.getvalue()


PHOTO = cv2.resize(np.random.default_rng(1).integers(0, 256, (9, 12, 3)).astype(np.uint8), (60, 45))
IMAGES = {
    "JPEG": encoded(PHOTO, "RGB", "JPEG"),
    "progressive JPEG": encoded(PHOTO, "RGB", "JPEG", progressive=True),
    "grey JPEG": encoded(PHOTO, "L", "JPEG"),
    "JPEG of a phone, with a preview behind": encoded(
        PHOTO, "RGB", "MPO", save_all=True, append_images=[PIL.Image.fromarray(PHOTO[::3, ::3])]
    ),
    **{
        f"PNG of mode {mode}": encoded(PHOTO, mode, "PNG")
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA")
    },
}


@pytest.mark.parametrize("kind", IMAGES)
def test_the_fast_and_the_strict_decoder_give_the_same_pixels(kind):
    image = decoding.decode_image(IMAGES[kind], LIMIT)
    assert image.dtype == np.uint8 and image.shape == (*PHOTO.shape[:2], 3)
    np.testing.assert_array_equal(image, decoding.decode_image_strictly(IMAGES[kind], LIMIT))
    assert decoding.image_problem_in_graph(tf.constant(IMAGES[kind]), LIMIT) == ""


def with_forged_size(content: bytes, size: bytes) -> bytes:
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + size + content[start + 4 :]


NO_IMAGES = {
    "cut JPEG": (IMAGES["JPEG"][:-200], "image_damaged", "end"),
    "JPEG without a frame": (IMAGES["JPEG"][:30], "image_damaged", "header"),
    "JPEG of forged size": (
        with_forged_size(IMAGES["JPEG"], b"\xff\xdc\xff\xdc"), "image_too_large", "65500x65500",
    ),
    "JPEG of no size": (with_forged_size(IMAGES["JPEG"], bytes(4)), "image_damaged", "header"),
    "CMYK": (encoded(PHOTO, "CMYK", "JPEG"), "image_format", "CMYK"),
    "PNG of forged size": (
        pngs.png(COLORS[..., :3], 8, pngs.RGB, size=(2**31 - 1, 2**31 - 1)),
        "image_too_large", "2147483647x2147483647",
    ),
    "PNG of 16 bits": (pngs.png(COLORS[..., :3], 16, pngs.RGB), "image_format", "16 bits"),
    "cut PNG": (IMAGES["PNG of mode RGB"][:-100], "image_damaged", "end"),
    "PNG with too few rows": (
        pngs.png(COLORS[:9, :, :3], 8, pngs.RGB, size=(37, 21)), "image_damaged", "end",
    ),
    "BMP": (encoded(PHOTO, "RGB", "BMP"), "image_format", "BMP"),
    "GIF": (encoded(PHOTO, "L", "GIF"), "image_format", "GIF"),
    "text": (b"%!PS-Adobe-3.0 EPSF-3.0", "image_damaged", "not a JPEG or PNG"),
    "nothing": (b"", "image_damaged", "not a JPEG or PNG"),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_IMAGES)
def test_images_that_are_damaged_too_large_or_of_other_kinds_are_refused(what):
    content, kind, words = NO_IMAGES[what]
    for decode in (decoding.decode_image, decoding.decode_image_strictly):
        with pytest.raises(DataProblem) as problem:
            decode(content, LIMIT)
        assert problem.value.kind == kind and words in problem.value.detail
    try:
        told = decoding.image_problem_in_graph(tf.constant(content), LIMIT).numpy().decode()
    except tf.errors.InvalidArgumentError:
        told = "seen while decoding"
    assert told or kind == "image_damaged"


def test_a_jpeg_of_endless_segments_is_refused_at_once():
    content = b"\xff\xd8" + b"\xff\xe1\0\2" * 1_000_000
    with pytest.raises(DataProblem, match="header"):
        decoding.decode_image(content)
