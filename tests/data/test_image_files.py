"""Image files of any origin: what is found, read, converted and refused."""

import io
import os
import pathlib
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data import image_files
from deeplab_tf.errors import UserError


def drawn_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: pathlib.Path, pixels: np.ndarray) -> str:
    """Writes pixels of any type with OpenCV, which takes them in the order BGR."""
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return str(path)


def read(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    told = []
    return image_files.read_image(str(path), tell=told.append), told


@pytest.mark.parametrize(
    "images", ["nowhere/*.jpg", "nowhere/a.jpg", ".", ("notes.txt", "nowhere/a")]
)
def test_no_image_is_an_error_that_names_the_flag(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="--images="):
        image_files.find_images(images)


def test_a_folder_gives_every_format_and_counts_what_it_leaves_out(tmp_path, monkeypatch, capsys):
    taken = ["a.JPG", "b.tif", "c.tiff", "d.gif", "e.png"]
    for name in [*taken, "._a.JPG", ".DS_Store", "Thumbs.db", "f.psd", "g.psd", "README"]:
        (tmp_path / name).touch()
    assert [os.path.basename(path) for path in image_files.find_images(str(tmp_path))] == taken
    assert "files left out, by ending: 2 .psd, 1 without ending" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    found = image_files.find_images("~/*")
    assert [os.path.basename(path) for path in found] == sorted(
        [*taken, "f.psd", "g.psd", "README"]
    )


def test_8_bit_images_are_read_as_they_are(tmp_path):
    color = drawn_image(8, 9)
    grey = color[..., 0]
    alpha = np.full((8, 9, 1), 128, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.concatenate([color, alpha], axis=-1)).save(tmp_path / "alpha.png")
    Image.fromarray(color).save(tmp_path / "color.bmp")
    Image.fromarray(color).save(tmp_path / "color.tif")
    Image.fromarray(color).save(tmp_path / "color.webp", lossless=True)
    expected = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    np.testing.assert_array_equal(read(tmp_path / "grey.png")[0], expected)
    for name in ("alpha.png", "color.bmp", "color.tif", "color.webp"):
        pixels, told = read(tmp_path / name)
        np.testing.assert_array_equal(pixels, color)
        assert pixels.dtype == np.uint8 and told == []


RAMP = np.linspace(0, 1, 12 * 10).reshape(12, 10)
COLOR_RAMP = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


@pytest.mark.parametrize("ramp", [RAMP, COLOR_RAMP], ids=["grey", "color"])
@pytest.mark.parametrize(
    "name, dtype, white, says",
    [
        ("a.png", np.uint16, 65535, None),
        ("a.tif", np.uint16, 65535, None),
        ("a.tif", np.uint16, 16383, "14 bits"),
        ("a.tif", np.uint16, 4095, "12 bits"),
        ("a.png", np.uint16, 1023, "10 bits"),
        ("a.tif", np.uint16, 255, "8 bits"),
        ("a.tif", np.int32, 255, "0..255"),
        ("a.tif", np.float32, 255, "0..255"),
        ("a.tif", np.float32, 1, "0..1"),
        ("a.tif", np.float64, 1, "0..1"),
    ],
)
def test_deeper_pixels_are_scaled_by_a_printed_rule(tmp_path, ramp, name, dtype, white, says):
    stored = ramp * white if np.dtype(dtype).kind == "f" else np.round(ramp * white)
    pixels, told = read(save(tmp_path / name, stored.astype(dtype)))
    expected = np.round(ramp * 255) if ramp.ndim == 3 else np.round(ramp * 255)[..., np.newaxis]
    assert pixels.dtype == np.uint8 and pixels.shape == (12, 10, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), atol=1)
    assert (told == []) if says is None else (says in told[0] and "a." in told[0])


def test_16_bit_values_up_to_800_are_not_black(tmp_path):
    pixels, told = read(save(tmp_path / "a.tif", np.uint16(100 + 700 * RAMP)))
    assert (pixels.min(), pixels.max()) == (25, 199)
    assert "uint16 values 100..800 are read as ones of 10 bits" in told[0]


@pytest.mark.parametrize(
    "pixels",
    [
        np.int32(RAMP * 70000),
        np.int32(RAMP * 255 - 20),
        np.float32(RAMP * 7),
        np.float32(RAMP * 1000),
        np.float32(np.where(RAMP < 0.1, np.nan, RAMP)),
    ],
    ids=["int32 over 255", "int32 below 0", "floats up to 7", "floats up to 1000", "NaN"],
)
def test_an_unclear_range_is_refused_with_a_remedy(tmp_path, pixels):
    path = save(tmp_path / "a.tif", pixels)
    with pytest.raises(image_files.ImageFileError, match=r"a\.tif holds .*scale them to 8 bits"):
        image_files.read_image(path)


@pytest.mark.parametrize("name, bits", [("a.png", 8), ("a.tif", 8), ("a.png", 16), ("a.tif", 16)])
def test_exif_rotation_is_applied(tmp_path, name, bits):
    shown = np.rot90(drawn_image(8, 16), k=-1)  # orientation 6: turned clockwise to be shown
    path = tmp_path / name
    if bits == 8:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(drawn_image(8, 16)).save(path, exif=exif)
    else:
        save(path, drawn_image(8, 16).astype(np.uint16) * 257)
        _add_orientation(path)
    np.testing.assert_array_equal(read(path)[0], shown)


def _add_orientation(path: pathlib.Path) -> None:
    """Adds orientation 6 to a PNG or a little-endian TIFF of one page."""
    content = path.read_bytes()
    entry = struct.pack("<HHII", 0x0112, 3, 1, 6)
    if path.suffix == ".png":
        exif = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
        chunk = b"eXIf" + exif
        chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(content[:33] + chunk + content[33:])
        return
    (start,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[start : start + 2])
    entries = [content[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = [old for old in entries if old[:2] != entry[:2]] + [entry]
    entries.sort(key=lambda old: struct.unpack("<H", old[:2]))
    moved = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(content[:4] + struct.pack("<I", len(content)) + content[8:] + moved)


def test_the_first_frame_is_read_and_said_except_of_phone_photos(tmp_path):
    frames = [Image.fromarray(np.full((8, 9, 3), 60 * number, np.uint8)) for number in (1, 2)]
    for name in ("a.gif", "a.tif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        pixels, told = read(tmp_path / name)
        assert np.all(pixels == 60) and "first of several" in told[0]
    frames[0].save(tmp_path / "b.jpg", format="MPO", save_all=True, append_images=frames[1:])
    pixels, told = read(tmp_path / "b.jpg")
    np.testing.assert_allclose(pixels, 60, atol=1)
    assert told == []


def png_of(width: int, height: int, bits: int = 8, color_type: int = 0) -> bytes:
    """A PNG of the size that its header says, of zeros, compressed; huge ones have no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    row = bytes(1 + width)
    data = b"" if width > 20000 else zlib.compress(row * height, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def forged(format: str, width: int, height: int) -> bytes:
    """A small image whose header says that it is large."""
    buffer = io.BytesIO()
    Image.fromarray(drawn_image(8, 9)).save(buffer, format=format)
    content = buffer.getvalue()
    if format == "JPEG":
        at = content.index(b"\xff\xc0") + 5
        return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]
    if format == "BMP":
        return content[:18] + struct.pack("<ii", width, height) + content[26:]
    if format == "GIF":
        return content[:6] + struct.pack("<HH", width, height) + content[10:]
    raise KeyError(format)


@pytest.mark.parametrize(
    "content",
    [
        png_of(13000, 13000),
        png_of(900_000, 900_000),
        png_of(900_000, 900_000, bits=16, color_type=2),
        forged("JPEG", 65000, 65000),
        forged("BMP", 65000, 65000),
        forged("GIF", 65000, 65000),
    ],
    ids=["png", "png header", "deep png header", "jpeg", "bmp", "gif"],
)
def test_size_is_checked_before_pixels_are_decoded(content):
    tracemalloc.start()
    with pytest.raises(
        image_files.ImageFileError, match=r"x has \d+x\d+ pixels.*--max_image_pixels=\d+"
    ):
        image_files.read_image(content, name="x")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_raised_limit_lets_a_large_image_pass():
    content = png_of(90, 80)
    with pytest.raises(image_files.ImageFileError, match="--max_image_pixels=7200"):
        image_files.read_image(content, max_pixels=7199)
    assert image_files.read_image(content, max_pixels=7200).shape == (80, 90, 3)
    limit = Image.MAX_IMAGE_PIXELS
    with image_files.open_image(png_of(20000, 20000), max_pixels=2**29) as image:
        assert image.size == (20000, 20000)  # over Pillow's own limit, which stays as it was
    assert limit == Image.MAX_IMAGE_PIXELS


def png_with_junk_exif() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn_image(8, 9)).save(buffer, format="PNG", exif=b"Exif\0\0" + b"junk" * 5)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        png_with_junk_exif(),
        png_of(30, 30)[:-30],
        png_of(30, 30, bits=16, color_type=2),
        png_of(30, 30, bits=16, color_type=2).replace(b"\0\0\0", b"\x7f\xff\xff", 3),
        b"II*\0\x08\0\0\0",
        b"MM\0+" + bytes(30),
    ],
    ids=[
        "empty",
        "text",
        "eps",
        "exif",
        "cut",
        "wrong depth",
        "chunk",
        "tiff header",
        "big tiff header",
    ],
)
def test_damaged_files_are_one_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(image_files.ImageFileError, match=r"photo\.jpg"):
        image_files.read_image(path)


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(image_files.ImageFileError, match=r"a\.png cannot be read: No such file"):
        image_files.read_image(tmp_path / "a.png")


def every_format() -> dict[str, bytes]:
    """A small image in every format that is read, and in the depths that are decoded apart."""
    image = Image.fromarray(drawn_image(17, 19))
    contents = {}
    for name in image_files.FORMATS:
        if name not in Image.registered_extensions().values() or name not in Image.SAVE:
            continue
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(buffer, format=name, **({"exif": exif} if name in ("JPEG", "PNG") else {}))
        contents[name] = buffer.getvalue()
    deep = drawn_image(17, 19).astype(np.uint16) * 257
    for ending, pixels in ((".png", deep), (".tif", deep), (".tiff", np.float32(deep / 65535))):
        contents[f"deep {ending}"] = cv2.imencode(ending, pixels)[1].tobytes()
    return contents


@pytest.mark.parametrize("name, content", every_format().items(), ids=lambda value: str(value)[:12])
def test_a_damaged_file_is_an_image_or_one_error(name, content):
    """Seeded damage to every format: bytes changed, cut off, overwritten or put in."""
    generator = np.random.default_rng(len(content))
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(generator.integers(1, 3)):
            # Most damage goes to the first bytes, which say what the file is and how large.
            place = int(len(damaged) * generator.random() ** 3)
            kind = generator.integers(4)
            if kind == 0:
                damaged[place : place + 1] = generator.bytes(1)
            elif kind == 1:
                del damaged[max(place, 8) :]
            elif kind == 2:
                damaged[place : place + 4] = b"\xff\xff\xff\x7f"
            else:
                damaged[place:place] = damaged[: generator.integers(20)]
        try:
            pixels = image_files.read_image(bytes(damaged), name=name, tell=lambda line: None)
        except image_files.ImageFileError as error:
            assert name in str(error)
            outcomes.add("refused")
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            outcomes.add("read")
    assert "refused" in outcomes
