"""The checksum of TFRecord files, in numba."""

import numpy as np

from deeplab_tf import fast

compiled = fast.compiled()

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, reflected
_AT_ONCE = 16  # bytes


def try_out() -> None:
    """Calls every compiled function once: numba compiles them, or raises."""
    masked_crc32c(b"1234567890")


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC-32C of some bytes, masked as TFRecord files have it.

    Reference: `masked_crc32_of_data` in TensorFlow's description of the TFRecord format.
    """
    crc = int(_crc32c(np.frombuffer(data, np.uint8), _TABLES))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _tables() -> np.ndarray:
    """What a byte does to the checksum, [16, 256]: at once, and when 1 to 15 more bytes follow."""
    tables = np.zeros((_AT_ONCE, 256), np.uint32)
    tables[0] = np.arange(256)
    for _ in range(8):
        tables[0] = tables[0] >> 1 ^ _POLYNOMIAL * (tables[0] & 1)
    for number in range(1, _AT_ONCE):
        before = tables[number - 1]
        tables[number] = before >> 8 ^ tables[0][before & 255]
    return tables


_TABLES = _tables()


@compiled
def _crc32c(data, tables):
    """The CRC-32C, sixteen bytes at a time."""
    crc = np.uint32(0xFFFFFFFF)
    whole = len(data) // _AT_ONCE * _AT_ONCE
    byte = np.uint32(255)
    for i in range(0, whole, _AT_ONCE):
        # Twelve of the bytes do not wait for those before them.
        following = tables[11, data[i + 4]]
        for k in range(5, _AT_ONCE):
            following ^= tables[_AT_ONCE - 1 - k, data[i + k]]
        low = (
            crc
            ^ np.uint32(data[i])
            ^ np.uint32(data[i + 1]) << np.uint32(8)
            ^ np.uint32(data[i + 2]) << np.uint32(16)
            ^ np.uint32(data[i + 3]) << np.uint32(24)
        )
        crc = (
            tables[15, low & byte]
            ^ tables[14, low >> np.uint32(8) & byte]
            ^ tables[13, low >> np.uint32(16) & byte]
            ^ tables[12, low >> np.uint32(24)]
            ^ following
        )
    for i in range(whole, len(data)):
        crc = np.uint32(tables[0, (crc ^ np.uint32(data[i])) & byte] ^ crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)
