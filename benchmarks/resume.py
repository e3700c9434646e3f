"""How long a training waits for its first batch, at the beginning and when it resumes late.

    python benchmarks/resume.py
    python benchmarks/resume.py --images=10000000

The shards are made up: as many records as asked for, the same small image in each. The first start
makes the index of the records, which is kept beside the shards.
"""

import argparse
import pathlib
import struct
import tempfile
import time

import tensorflow as tf

from deeplab_tf.data import checksum
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import record_order
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.datasets.shapes import drawing

NUM_SHARDS = 8
BATCH_SIZE = 16
RECORDS_AT_ONCE = 1000


def write_shards(folder: str, num_images: int) -> None:
    """Writes shards whose records are all alike."""
    image = tf.zeros([8, 8, 3], tf.uint8)
    features = {
        "image/encoded": tf.io.encode_png(image).numpy(),
        "image/segmentation/class/encoded": tf.io.encode_png(image[..., :1]).numpy(),
    }
    example = tf.train.Example()
    for key, value in features.items():
        example.features.feature[key].bytes_list.value.append(value)
    serialized = example.SerializeToString()
    length = struct.pack("<Q", len(serialized))
    sums = [struct.pack("<I", checksum.masked_crc32c(part)) for part in (length, serialized)]
    framed = length + sums[0] + serialized + sums[1]
    for shard in range(NUM_SHARDS):
        path = pathlib.Path(folder, f"train-{shard:05d}-of-{NUM_SHARDS:05d}")
        count = num_images // NUM_SHARDS
        with path.open("wb") as file:
            for first in range(0, count, RECORDS_AT_ONCE):
                file.write(framed * min(RECORDS_AT_ONCE, count - first))


def seconds_to_first_batch(source: records.Records, step: int) -> float:
    start = time.perf_counter()
    batches = input_pipeline.training_batches(
        record_order.TrainingSet([source], "train"),
        transforms.TrainingCrop((33, 33), source.info.ignore_label),
        batch_size=BATCH_SIZE,
        start_step=step,
    )
    next(iter(batches))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=118_000, help="records to make up")
    parser.add_argument("--step", type=int, default=1_000_000, help="step to resume at")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, arguments.images)
        start = time.perf_counter()
        source = records.find_records(folder, num_classes=len(drawing.CLASS_NAMES))
        print(
            f"{arguments.images} records found and counted in {time.perf_counter() - start:.1f} s"
        )
        for text, step in (
            ("first start, makes the index", 0),
            ("start", 0),
            (f"resumes at step {arguments.step}", arguments.step),
        ):
            print(f"{text:<34} {seconds_to_first_batch(source, step):5.1f} s to the first batch")


if __name__ == "__main__":
    main()
