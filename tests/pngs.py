"""PNGs that no library writes: of any bit depth and colour type, whole or damaged."""

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    values: np.ndarray, bit_depth: int = 8, color_type: int = GREY, *, chunks=(), interlaced=False,
    size=None,
) -> bytes:  # fmt: skip
    """Writes values [H, W] or [H, W, C] as they are.

    Args:
        values: Below 2 ** bit_depth.
        bit_depth: 1, 2, 4, 8 or 16.
        color_type: One of those above.
        chunks: Further chunks (kind, data), behind the header.
        interlaced: In seven passes (Adam7).
        size: Width and height that the header states; by default those of the values.
    """
    height, width = values.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:  # first row and column, and their steps
        passes = [
            (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]  # fmt: skip
    rows = b"".join(
        b"\0" + _packed(row, bit_depth)
        for top, left, down, right in passes
        for row in values[top::down, left::right]
        if row.size
    )
    header = struct.pack(
        ">IIBBBBB", *(size or (width, height)), bit_depth, color_type, 0, 0, interlaced
    )
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in body)


def palette_png(ids: np.ndarray, bit_depth: int = 8, *, alpha: bytes = b"", **options) -> bytes:
    """Writes ids as the indices of a palette of random colours."""
    colors = np.random.default_rng(0).integers(0, 256, 3 * 2**bit_depth, dtype=np.uint8).tobytes()
    chunks = [(b"PLTE", colors)] + ([(b"tRNS", alpha)] if alpha else [])
    return png(ids, bit_depth, PALETTE, chunks=chunks, **options)


def _packed(row: np.ndarray, bit_depth: int) -> bytes:
    if bit_depth >= 8:
        return row.astype(">u2" if bit_depth == 16 else np.uint8).tobytes()
    bits = (row[..., np.newaxis] >> np.arange(bit_depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
