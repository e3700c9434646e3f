"""Decoded records that stay in memory for later epochs."""

import threading

from deeplab_tf.data.record_reading import DecodedRecord


class DecodedCache:
    """Keeps decoded records, by their numbers, as long as there is room.

    What was kept is not dropped for another record: an epoch needs every record once, so that none
    is worth more than another. Several threads may use it at a time.

    Args:
        max_bytes: The room.
    """

    def __init__(self, max_bytes: int):
        self._room = max_bytes
        self._kept: dict[int, DecodedRecord] = {}
        self._lock = threading.Lock()

    def get(self, number: int) -> DecodedRecord | None:
        """Returns a record; None if it is not kept."""
        return self._kept.get(number)

    def add(self, number: int, record: DecodedRecord) -> None:
        """Keeps a record if there is room. Nobody may change its arrays afterwards."""
        size = record.image.nbytes + record.label.nbytes
        with self._lock:
            if number not in self._kept and size <= self._room:
                self._room -= size
                self._kept[number] = record
