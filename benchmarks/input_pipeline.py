"""How fast training batches are made, beside the bare decoding of the same JPEGs in the same run.

    python benchmarks/input_pipeline.py

The bare decoding of picture and label is the limit of any pipeline that reads such records. The
pictures are drawn: 500x375, JPEG, in 4 shards; crops are 513x513 with the official augmentation.
"""

import os
import statistics
import tempfile
import time

import cv2
import tensorflow as tf

from deeplab_tf import images
from deeplab_tf import input_pipeline
from deeplab_tf import records
from deeplab_tf.datasets.shapes import drawing

NUM_PICTURES = 64
WIDTH, HEIGHT = 500, 375
CROP_SIZE = (513, 513)
BATCH_SIZE = 8
PICTURES_PER_RUN = 320
RUNS = 5


def write_records(folder: str) -> records.Records:
    """Writes drawn pictures, enlarged to VOC's size, as bare shards."""
    for shard in range(4):
        path = os.path.join(folder, f"train-{shard:05d}-of-00004.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for index in range(shard, NUM_PICTURES, 4):
                image, label = drawing.draw("benchmark", index)
                image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
                label = cv2.resize(label, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
                label_bytes = cv2.imencode(".png", label)[1].tobytes()
                features = {
                    "image/encoded": drawing.encode_jpeg(image),
                    "image/segmentation/class/encoded": label_bytes,
                }
                example = tf.train.Example()
                for key, value in features.items():
                    example.features.feature[key].bytes_list.value.append(value)
                writer.write(example.SerializeToString())
    return records.find_records(folder, num_classes=len(drawing.CLASS_NAMES))


def bare_decoding(source: records.Records) -> tf.data.Dataset:
    """Reads and decodes, and does nothing else."""

    def decode(serialized):
        record = records.parse_example(serialized)
        image = tf.io.decode_jpeg(record["image_bytes"], channels=3)
        return image, tf.io.decode_png(record["label_bytes"], channels=1)

    dataset = tf.data.TFRecordDataset(source.shards("train")).repeat()
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def training_batches(source: records.Records) -> tf.data.Dataset:
    """The pipeline that `train` reads."""
    augmentation = images.official_augmentation(CROP_SIZE, source.info.ignore_label)
    return input_pipeline.training_batches(source, "train", BATCH_SIZE, augmentation)


def pictures_per_second(batches) -> float:
    start = time.perf_counter()
    for _ in range(PICTURES_PER_RUN // BATCH_SIZE):
        next(batches)
    return PICTURES_PER_RUN / (time.perf_counter() - start)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = write_records(folder)
        pipelines = {
            "bare decoding": iter(bare_decoding(source)),
            "training batches": iter(training_batches(source)),
        }
        for batches in pipelines.values():  # warm-up
            pictures_per_second(batches)
        speeds = {name: [] for name in pipelines}
        for _ in range(RUNS):  # in turn, so that a change of the machine's speed meets both
            for name, batches in pipelines.items():
                speeds[name].append(pictures_per_second(batches))
    print(f"{os.cpu_count()} CPU cores, TensorFlow {tf.__version__}, medians of {RUNS} runs")
    for name, values in speeds.items():
        print(f"{name:<16}  {statistics.median(values):7.1f} pictures/s")
    ratios = [ours / bare for bare, ours in zip(*speeds.values(), strict=True)]
    print(f"training batches / bare decoding: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
