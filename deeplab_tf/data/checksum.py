"""The checksum of TFRecord files, in numba."""

import numpy as np

from deeplab_tf import fast

compiled = fast.compiled()

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, reflected


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
    """What a byte does to the checksum, [8, 256]: at once, and when up to 7 more bytes follow."""
    tables = np.zeros((8, 256), np.uint32)
    tables[0] = np.arange(256)
    for _ in range(8):
        tables[0] = tables[0] >> 1 ^ _POLYNOMIAL * (tables[0] & 1)
    for number in range(1, 8):
        before = tables[number - 1]
        tables[number] = before >> 8 ^ tables[0][before & 255]
    return tables


_TABLES = _tables()


@compiled
def _crc32c(data, tables):
    """The CRC-32C, eight bytes at a time."""
    crc = np.uint32(0xFFFFFFFF)
    whole = len(data) // 8 * 8
    byte = np.uint32(255)
    for i in range(0, whole, 8):
        low = (
            crc
            ^ np.uint32(data[i])
            ^ np.uint32(data[i + 1]) << np.uint32(8)
            ^ np.uint32(data[i + 2]) << np.uint32(16)
            ^ np.uint32(data[i + 3]) << np.uint32(24)
        )
        crc = (
            tables[7, low & byte]
            ^ tables[6, low >> np.uint32(8) & byte]
            ^ tables[5, low >> np.uint32(16) & byte]
            ^ tables[4, low >> np.uint32(24)]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
    for i in range(whole, len(data)):
        crc = np.uint32(tables[0, (crc ^ np.uint32(data[i])) & byte] ^ crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)
