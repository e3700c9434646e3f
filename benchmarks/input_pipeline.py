"""How fast training batches are made, beside the bare decoding of the same records in one run.

    python benchmarks/input_pipeline.py

The bare decoding of image and label is the limit of any pipeline that reads such records. A plain
tf.data pipeline of the same augmentation, as it is usually written, stands beside ours, and so do
ours as a TensorFlow graph (what runs without numba) and the decoding of the JPEGs alone. The
images are drawn: 500x375, JPEG, in 4 shards; crops are 513x513 with the official augmentation.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock

import cv2
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import record_order
from deeplab_tf.data import record_reading
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.datasets.shapes import drawing

NUM_IMAGES = 64
REPETITIONS = 8  # of every image: an epoch is to be longer than what is in flight
WIDTH, HEIGHT = 500, 375
CROP_SIZE = (513, 513)
BATCH_SIZE = 8
WARM_UP = 160  # images
IMAGES_PER_RUN = 320
RUNS = 3


def write_records(folder: str) -> records.Records:
    """Writes drawn images, enlarged to VOC's size, as bare shards."""
    for shard in range(4):
        path = os.path.join(folder, f"train-{shard:05d}-of-00004.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for index in range(shard, NUM_IMAGES, 4):
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
                for _ in range(REPETITIONS):
                    writer.write(example.SerializeToString())
    return records.find_records(folder, num_classes=len(drawing.CLASS_NAMES))


def bare_decoding(source: records.Records) -> tf.data.Dataset:
    """Reads and decodes, and does nothing else."""

    def decode(serialized):
        record = record_reading.parse_record_in_graph(serialized)
        image = tf.io.decode_jpeg(record["image_bytes"], channels=3)
        return image, tf.io.decode_png(record["label_bytes"], channels=1)

    dataset = tf.data.TFRecordDataset(source.shards("train")).repeat()
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def bare_jpeg_decoding(source: records.Records) -> tf.data.Dataset:
    """Reads, and decodes the image alone."""
    dataset = tf.data.TFRecordDataset(source.shards("train")).repeat()
    dataset = dataset.map(
        lambda serialized: tf.io.decode_jpeg(
            record_reading.parse_record_in_graph(serialized)["image_bytes"]
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def plain_batches(source: records.Records) -> tf.data.Dataset:
    """The official augmentation as it is usually written: whole images, tf.image, float32."""
    height, width = CROP_SIZE

    def augment(serialized):
        record = record_reading.parse_record_in_graph(serialized)
        image = tf.io.decode_jpeg(record["image_bytes"], channels=3)
        label = tf.io.decode_png(record["label_bytes"], channels=1)
        scale = tf.random.shuffle(tf.range(0.5, 2.01, 0.25))[0]
        size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
        image = tf.image.resize(image, size)
        label = tf.image.resize(label, size, method="nearest")
        bottom = tf.maximum(height - size[0], 0)
        right = tf.maximum(width - size[1], 0)
        paddings = [[0, bottom], [0, right], [0, 0]]
        image = tf.pad(image - 127.5, paddings) + 127.5
        label = tf.pad(tf.cast(label, tf.int32), paddings, constant_values=255)
        both = tf.concat([image, tf.cast(label, tf.float32)], -1)
        both = tf.image.random_flip_left_right(tf.image.random_crop(both, [height, width, 4]))
        return both[..., :3], tf.cast(both[..., 3], tf.int32)

    dataset = tf.data.TFRecordDataset(source.shards("train")).repeat().shuffle(100)
    dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def graph_batches(source: records.Records) -> tf.data.Dataset:
    """What `train` reads where numba is not installed."""
    with unittest.mock.patch.object(fast, "load", return_value=None):
        return training_batches(source)


def training_batches(source: records.Records) -> tf.data.Dataset:
    """The pipeline that `train` reads."""
    crop = transforms.TrainingCrop(CROP_SIZE, source.info.ignore_label)
    training_set = record_order.TrainingSet([source], "train")
    return input_pipeline.training_batches(training_set, crop, batch_size=BATCH_SIZE)


def images_per_second(dataset: tf.data.Dataset) -> float:
    """Measures a pipeline while no other is alive: those that wait fill their buffers meanwhile."""
    batches = iter(dataset)
    for _ in range(WARM_UP // BATCH_SIZE):
        next(batches)
    start = time.perf_counter()
    for _ in range(IMAGES_PER_RUN // BATCH_SIZE):
        next(batches)
    return IMAGES_PER_RUN / (time.perf_counter() - start)


def peak_memory() -> int:
    """Returns the peak of this process' resident memory in MiB, TensorFlow's own included."""
    # Not getrusage: a child's figure begins with its parent's.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def main() -> None:
    if len(sys.argv) > 1:  # one of the pipelines alone, for its memory
        with tempfile.TemporaryDirectory() as folder:
            images_per_second(PIPELINES[sys.argv[1]](write_records(folder)))
        print(peak_memory())
        return
    with tempfile.TemporaryDirectory() as folder:
        source = write_records(folder)
        datasets = {name: make(source) for name, make in PIPELINES.items()}
        speeds = {name: [] for name in PIPELINES}
        for _ in range(RUNS):  # in turn, so that a change of the machine's speed meets all
            for name, dataset in datasets.items():
                speeds[name].append(images_per_second(dataset))
    print(f"{os.cpu_count()} CPU cores, TensorFlow {tf.__version__}, medians of {RUNS} runs")
    for name, values in speeds.items():
        ratios = [ours / bare for ours, bare in zip(values, speeds["bare decoding"], strict=True)]
        memory = subprocess.run(
            [sys.executable, __file__, name], capture_output=True, text=True, check=True
        ).stdout
        print(
            f"{name:<34} {statistics.median(values):7.1f} images/s, "
            f"{statistics.median(ratios):5.2f} of bare decoding, peak {int(memory)} MiB"
        )


PIPELINES = {
    "bare decoding": bare_decoding,
    "bare decoding of the JPEGs alone": bare_jpeg_decoding,
    "plain tf.data": plain_batches,
    "training batches without numba": graph_batches,
    "training batches": training_batches,
}

if __name__ == "__main__":
    main()
