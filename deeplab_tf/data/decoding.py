"""Decodes what records hold: images (JPEG or PNG) to pixels, labels (PNG) to class ids.

Images of other than three channels are grey PNGs in which the bands lie one below the other: N
bands of H x W pixels are a PNG of N*H x W. Every decoder of PNGs reads that without loss, whatever
the number of bands, and each band is compressed by itself.

The ids of a label are what its file stores: the values of a grey PNG, whatever its number of bits,
and the indices of one with a palette. Decoders for viewing give something else: they spread 1, 2
and 4 bits over 0..255, cut 16 bits to 8, and turn palettes into colours.

Headers are checked before any pixel is decoded, so that a few bytes cannot ask for gigabytes. Each
function has a twin that is a TensorFlow graph, for the workers of a data service, which run no
Python; tests hold the two to each other.
"""

import struct
import zlib

import cv2
import numpy as np
import tensorflow as tf

from deeplab_tf.data import image_files
from deeplab_tf.data import transforms
from deeplab_tf.data.problems import DataProblem

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_OTHER_FORMATS = {
    b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"RIFF": "WebP",
    b"%PDF": "PDF", b"\x93NUMPY": "numpy",
}  # fmt: skip

# Of the header that opens every PNG: signature, length, "IHDR", 13 bytes of data, their checksum.
_PNG_HEADER = struct.Struct(">8s4x4sIIBBxxxI")
_COLOR_TYPE, _INTERLACE = 25, 28  # places of these bytes
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_GREY, _PALETTE = 0, 3
_COLOR_TYPES = {2: "RGB", 4: "grey with alpha", 6: "RGBA"}  # those that have no ids

_MAX_JPEG_SEGMENTS = 2000
_JPEG_STANDALONE = (0x01, *range(0xD0, 0xD8))  # segments without a length
_JPEG_FRAMES = tuple(marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC))

_TOO_LARGE = "has {}x{} pixels, more than the limit of {}"
_NOT_BANDS = (
    "is not a grey PNG of 8 bits with {} bands one below the other, as records of such images hold"
)
_DEEP_IMAGE = "has 16 bits per channel; images have 8"
_CMYK_IMAGE = "is a JPEG in CMYK; images are RGB or grey"
_NOT_AN_IMAGE = "is not a JPEG or PNG, or a damaged one"
_JPEG_LABEL = "is a JPEG; labels are PNGs, whose compression keeps every id"
_COLOR_LABEL = "is a colour image ({}); labels have one channel, whose values are class ids"
_NOT_A_LABEL = "is not a PNG, or a damaged one"


def decode_image(
    content: bytes, max_pixels: int = image_files.MAX_PIXELS, num_channels: int = 3
) -> np.ndarray:
    """Decodes a JPEG or PNG as stored: an EXIF orientation is not followed.

    Args:
        content: The JPEG or PNG.
        max_pixels: Larger images are refused before they are decoded.
        num_channels: 3 for RGB, other numbers for bands that lie one below the other.

    Returns:
        uint8 [H, W, num_channels]. In RGB, grey is repeated, palettes are looked up, alpha is
        dropped.

    Raises:
        DataProblem: It is damaged, too large, or an image of another kind.
    """
    check_image_header(content, max_pixels, num_channels)
    if num_channels != 3:
        image = _imdecode(content, cv2.IMREAD_UNCHANGED)
        if image is None or image.ndim != 2:
            raise DataProblem("image_damaged", "cannot be decoded to its end")
        return _as_channels(image, num_channels)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = _imdecode(content, flags)
    if image is None:
        raise DataProblem("image_damaged", "cannot be decoded to its end")
    return image


def encode_bands(image: np.ndarray) -> bytes:
    """Returns an image, uint8 [H, W, N], as the PNG that records hold: RGB for three bands."""
    if image.shape[-1] == 3:
        rows = image[..., ::-1]
    else:
        rows = np.moveaxis(image, -1, 0).reshape(-1, image.shape[1])
    return cv2.imencode(".png", np.ascontiguousarray(rows))[1].tobytes()


def decode_image_strictly(
    content: bytes, max_pixels: int = image_files.MAX_PIXELS, num_channels: int = 3
) -> np.ndarray:
    """Decodes an image as `decode_image`, to the same pixels, but refuses every damaged one.

    OpenCV, which is faster, fills in damaged parts of a JPEG and continues.
    """
    check_image_header(content, max_pixels, num_channels)
    try:
        return transforms.decode(content, num_channels).numpy()
    except tf.errors.OpError:
        raise DataProblem("image_damaged", "cannot be decoded to its end") from None


def decode_label(content: bytes, max_pixels: int = image_files.MAX_PIXELS) -> np.ndarray:
    """Decodes a PNG to the class ids that it stores.

    Args:
        content: The PNG: grey of 1, 2, 4, 8 or 16 bits, or a palette.
        max_pixels: Larger labels are refused before they are decoded.

    Returns:
        uint8 [H, W], or uint16 of a PNG with 16 bits.

    Raises:
        DataProblem: It is damaged, too large, or its kind of image has no ids.
    """
    bit_depth, color_type = _check_label_header(content, max_pixels)
    if (bit_depth, color_type) == (8, _GREY):  # read as it is, for speed
        label = _unfiltered_rows(content)
        if label is None:
            label = _imdecode(content, cv2.IMREAD_UNCHANGED)
        if label is not None and label.ndim == 2:
            return label
    label = _imdecode(_as_grey_png(content), cv2.IMREAD_UNCHANGED)
    if label is None or label.ndim != 2:
        raise DataProblem("label_damaged", "cannot be decoded to its end", subject="label")
    return label // _step(bit_depth)


def label_encoding(content: bytes) -> str:
    """Returns how a label that was decoded stores its ids: "palette" or "grey"."""
    return "palette" if content[_COLOR_TYPE] == _PALETTE else "grey"


def check_png_is_whole(content: bytes) -> None:
    """Raises a `DataProblem` if a label, a PNG of any kind, is damaged.

    Pillow accepts a PNG without its last rows, and does not verify checksums.
    """
    _read_png_header(content, "label")
    if _imdecode(content, cv2.IMREAD_UNCHANGED) is None:
        raise DataProblem("label_damaged", "cannot be decoded to its end", subject="label")


def check_image_header(
    content: bytes, max_pixels: int = image_files.MAX_PIXELS, num_channels: int = 3
) -> str:
    """Checks an image by its header, and returns its format: "jpeg" or "png".

    Raises:
        DataProblem: It is too large, or an image of another kind.
    """
    if num_channels != 3:
        _check_bands_header(content, max_pixels, num_channels)
        return "png"
    if content.startswith(_JPEG):
        width, height, channels = _read_jpeg_header(content)
        if channels not in (1, 3):
            raise DataProblem("image_format", _CMYK_IMAGE)
        image_format = "jpeg"
    elif content.startswith(_PNG):
        width, height, bit_depth, _ = _read_png_header(content, "image")
        if bit_depth == 16:
            raise DataProblem("image_format", _DEEP_IMAGE)
        image_format = "png"
    else:
        raise _unknown(content, "image", _NOT_AN_IMAGE)
    _check_size(width, height, max_pixels, "image")
    return image_format


def image_problem_in_graph(content: tf.Tensor, max_pixels: int, num_channels: int = 3) -> tf.Tensor:
    """Returns what `check_image_header` would raise, a string scalar; empty if nothing.

    A JPEG with a damaged header is an error when the graph runs.
    """
    if num_channels != 3:
        is_png, (width, height, bit_depth, color_type) = _png_header_in_graph(content)
        is_stack = (bit_depth == 8) & (color_type == _GREY) & (height % num_channels == 0)
        return first_problem(
            (~is_png | ~is_stack, _NOT_BANDS.format(num_channels)),
            (_is_too_large(width, height // num_channels, max_pixels), "is too large"),
        )

    def of_jpeg():
        height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(content))
        is_cmyk = (channels != 1) & (channels != 3)
        return first_problem(
            (is_cmyk, _CMYK_IMAGE), (_is_too_large(width, height, max_pixels), "is too large")
        )

    def of_others():
        is_png, header = _png_header_in_graph(content)
        width, height, bit_depth, _ = header
        return first_problem(
            (~is_png, _NOT_AN_IMAGE),
            (bit_depth == 16, _DEEP_IMAGE),
            (_is_too_large(width, height, max_pixels), "is too large"),
        )

    return tf.cond(tf.io.is_jpeg(content), of_jpeg, of_others)


def label_problem_in_graph(content: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns what `decode_label` would raise of the header, a string scalar; empty if nothing."""
    is_png, (width, height, _, color_type) = _png_header_in_graph(content)
    return first_problem(
        (tf.strings.substr(content, 0, 2) == _JPEG, _JPEG_LABEL),
        (~is_png, _NOT_A_LABEL),
        (_is_too_large(width, height, max_pixels), "is too large"),
        *(
            (color_type == number, _COLOR_LABEL.format(name))
            for number, name in _COLOR_TYPES.items()
        ),
    )


def decode_label_in_graph(content: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG in which `label_problem_in_graph` found nothing to its class ids.

    Returns:
        int32 [H, W].
    """
    _, (_, _, bit_depth, color_type) = _png_header_in_graph(content)
    png = tf.cond(color_type == _PALETTE, lambda: _as_grey_png_in_graph(content), lambda: content)

    def decode(dtype):
        return tf.cast(tf.io.decode_png(png, channels=1, dtype=dtype)[..., 0], tf.int32)

    label = tf.cond(bit_depth == 16, lambda: decode(tf.uint16), lambda: decode(tf.uint8))
    step = tf.gather([_step(depth) for depth in range(17)], bit_depth)
    return label // step


def _unfiltered_rows(content: bytes) -> np.ndarray | None:
    """Decodes a grey PNG of 8 bits in two thirds of OpenCV's time, if all its rows lack a filter.

    `record_writing.encode_label` makes such PNGs.

    Returns:
        uint8 [H, W]; None for any other PNG, or a damaged one.
    """
    position, parts = _PNG_HEADER.size, []
    while content[position + 4 : position + 8] == b"IDAT":
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        checksum = zlib.crc32(content[position + 4 : end])
        if content[end : end + 4] != checksum.to_bytes(4, "big"):
            return None
        parts.append(content[position + 8 : end])
        position = end + 4
    if content[position:] != _PNG_END or content[_INTERLACE]:
        return None
    width, height = struct.unpack_from(">II", content, 16)
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(b"".join(parts), height * (1 + width) + 1)
    except zlib.error:
        return None
    if len(rows) != height * (1 + width) or not inflate.eof or inflate.unused_data:
        return None
    values = np.frombuffer(rows, np.uint8).reshape(height, 1 + width)
    return None if values[:, 0].any() else np.ascontiguousarray(values[:, 1:])


def _as_channels(rows: np.ndarray, num_channels: int) -> np.ndarray:
    """Bands that lie one below the other, [N*H, W], as the channels of an image [H, W, N]."""
    bands = rows.reshape(num_channels, -1, rows.shape[1])
    return np.ascontiguousarray(np.moveaxis(bands, 0, -1))


def _check_bands_header(content: bytes, max_pixels: int, num_channels: int) -> None:
    if not content.startswith(_PNG):
        raise DataProblem("image_format", _NOT_BANDS.format(num_channels))
    width, height, bit_depth, color_type = _read_png_header(content, "image")
    if (bit_depth, color_type) != (8, _GREY) or height % num_channels:
        raise DataProblem("image_format", _NOT_BANDS.format(num_channels))
    _check_size(width, height // num_channels, max_pixels, "image")


def _imdecode(content: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # of a size that OpenCV itself refuses
        return None


def _step(bit_depth: int) -> int:
    """Returns the value that decoders give id 1: they spread fewer bits than 8 over 0..255."""
    return 255 // (2**bit_depth - 1) if bit_depth in (1, 2, 4) else 1


def _check_label_header(content: bytes, max_pixels: int) -> tuple[int, int]:
    """Returns bit depth and colour type of a label that has ids."""
    if content.startswith(_JPEG):
        raise DataProblem("label_jpeg", _JPEG_LABEL, subject="label")
    if not content.startswith(_PNG):
        raise _unknown(content, "label", _NOT_A_LABEL)
    width, height, bit_depth, color_type = _read_png_header(content, "label")
    if color_type not in (_GREY, _PALETTE):
        name = _COLOR_TYPES.get(color_type, "an unknown kind")
        raise DataProblem("label_colors", _COLOR_LABEL.format(name), subject="label")
    _check_size(width, height, max_pixels, "label")
    return bit_depth, color_type


def _unknown(content: bytes, subject: str, phrase: str) -> DataProblem:
    for magic, name in _OTHER_FORMATS.items():
        if content.startswith(magic):
            wanted = "images are JPEG or PNG" if subject == "image" else "labels are PNGs"
            kind = "image_format" if subject == "image" else "label_damaged"
            return DataProblem(kind, f"is a {name} file; {wanted}", subject=subject)
    return DataProblem(f"{subject}_damaged", phrase, subject=subject)


def _check_size(width: int, height: int, max_pixels: int, subject: str) -> None:
    if width * height > max_pixels:
        detail = _TOO_LARGE.format(width, height, max_pixels)
        raise DataProblem("image_too_large", detail, subject=subject)


def _read_png_header(content: bytes, subject: str) -> tuple[int, int, int, int]:
    """Returns width, height, bit depth and colour type."""
    if len(content) > _PNG_HEADER.size:
        _, kind, width, height, bit_depth, color_type, checksum = _PNG_HEADER.unpack_from(content)
        if kind == b"IHDR" and zlib.crc32(content[12:29]) == checksum and width and height:
            return width, height, bit_depth, color_type
    raise DataProblem(f"{subject}_damaged", "has a damaged header", subject=subject)


def _read_jpeg_header(content: bytes) -> tuple[int, int, int]:
    """Returns width, height and the number of channels."""
    position = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        start = content.find(b"\xff", position)
        while content[start + 1 : start + 2] == b"\xff":  # fill bytes
            start += 1
        if start < 0 or start + 10 > len(content):
            break
        marker = content[start + 1]
        if marker in _JPEG_FRAMES:
            height, width, channels = struct.unpack_from(">HHB", content, start + 5)
            if width and height:
                return width, height, channels
            break
        is_standalone = marker in _JPEG_STANDALONE
        length = 0 if is_standalone else int.from_bytes(content[start + 2 : start + 4], "big")
        position = start + 2 + length
    raise DataProblem("image_damaged", "has a damaged header")


def _as_grey_png(content: bytes) -> bytes:
    """Returns the PNG with the same stored values, but as grey levels: no palette, no extras.

    So decoders return the indices of a palette. libpng, which they use, reports damage.
    """
    header = content[12:_COLOR_TYPE] + bytes([_GREY]) + content[_COLOR_TYPE + 1 : 29]
    parts = [content[:12], header, struct.pack(">I", zlib.crc32(header))]
    position = _PNG_HEADER.size
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if kind in (b"IDAT", b"IEND"):
            parts.append(content[position:end])
        position = end
    return b"".join(parts)


# CRC-32 is linear: the same change of a header changes its checksum in the same bits.
_FROM_PALETTE_TO_GREY = np.frombuffer(
    struct.pack(
        ">I",
        zlib.crc32(bytes(17))
        ^ zlib.crc32(bytes(_COLOR_TYPE - 12) + bytes([_PALETTE ^ _GREY]) + bytes(3)),
    ),
    np.uint8,
)
_BYTES = [bytes([value]) for value in range(256)]


def _as_grey_png_in_graph(content: tf.Tensor) -> tf.Tensor:
    """Returns `_as_grey_png` of a palette; what it leaves out, TensorFlow ignores in a grey PNG."""
    checksum = tf.io.decode_raw(tf.strings.substr(content, 29, 4), tf.uint8)
    checksum = tf.bitwise.bitwise_xor(checksum, _FROM_PALETTE_TO_GREY)
    return tf.strings.join(
        [
            tf.strings.substr(content, 0, _COLOR_TYPE),
            tf.constant(bytes([_GREY])),
            tf.strings.substr(content, _COLOR_TYPE + 1, 29 - _COLOR_TYPE - 1),
            tf.strings.reduce_join(tf.gather(_BYTES, tf.cast(checksum, tf.int32))),
            tf.strings.substr(content, 33, -1),
        ]
    )


def _png_header_in_graph(content: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Returns whether it is a PNG; and width, height (int64), bit depth, colour type (int32)."""
    has_header = tf.strings.length(content) > _PNG_HEADER.size
    start = tf.cond(
        has_header, lambda: tf.strings.substr(content, 0, 33), lambda: tf.constant(bytes(33))
    )
    is_png = (tf.strings.substr(start, 0, 8) == _PNG) & (tf.strings.substr(start, 12, 4) == b"IHDR")
    values = tf.ensure_shape(tf.io.decode_raw(start, tf.uint8), [33])
    place_values = tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64)
    width = tf.reduce_sum(tf.cast(values[16:20], tf.int64) * place_values)
    height = tf.reduce_sum(tf.cast(values[20:24], tf.int64) * place_values)
    bit_depth, color_type = tf.unstack(tf.cast(values[24:26], tf.int32))
    return is_png, (width, height, bit_depth, color_type)


def _is_too_large(width: tf.Tensor, height: tf.Tensor, max_pixels: int) -> tf.Tensor:
    # As floats: the product of two forged sides may exceed int64.
    return tf.cast(width, tf.float64) * tf.cast(height, tf.float64) > max_pixels


def first_problem(*problems: tuple[tf.Tensor, str]) -> tf.Tensor:
    """Returns the text of the first condition that holds, or an empty one."""
    text = tf.constant("")
    for condition, problem in reversed(problems):
        text = tf.where(condition, problem, text)
    return text
