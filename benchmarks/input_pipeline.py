"""How fast training batches are made, beside the bare decoding of the same records in one run.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --size=64x48 --crop=65
    python benchmarks/input_pipeline.py --workers=1,2,4

The bare decoding of image and label is the limit of any pipeline that reads such records. A plain
tf.data pipeline of the same augmentation, as it is usually written, stands beside ours, and so do
ours as a TensorFlow graph (what runs without numba) and the decoding of the JPEGs alone. The
images are drawn: JPEG, in 4 shards; crops have the official augmentation. Beside images per second
stands the time of all cores per image, which other programs on the machine disturb less. The later
epochs are those of records that all fit into --decoded_cache_mib at its default.

--workers prints what the input of one of several workers costs instead: each makes its own part of
a batch of 32 images.
"""

import argparse
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

from deeplab_tf import config
from deeplab_tf import fast
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import record_order
from deeplab_tf.data import record_reading
from deeplab_tf.data import record_writing
from deeplab_tf.data import records
from deeplab_tf.data import transforms
from deeplab_tf.datasets.shapes import drawing

NUM_IMAGES = 64
REPETITIONS = 8  # of every image: an epoch is to be longer than what is in flight
BATCH_SIZE = 8
BATCH_OF_WORKERS = 32
WARM_UP = NUM_IMAGES * REPETITIONS  # images: an epoch
IMAGES_PER_RUN = 320
TINY = 100 * 100  # pixels; of images below it, ten times as many are measured
RUNS = 3

Size = tuple[int, int]


def write_records(folder: str, size: Size) -> records.Records:
    """Writes drawn images, scaled to a width and height, as bare shards."""
    for shard in range(4):
        path = os.path.join(folder, f"train-{shard:05d}-of-00004.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for index in range(shard, NUM_IMAGES, 4):
                image, label = drawing.draw("benchmark", index)
                image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
                label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
                label_bytes = record_writing.encode_label(label)
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


def bare_decoding(source: records.Records, crop_size: Size) -> tf.data.Dataset:
    """Reads and decodes, and does nothing else."""

    def decode(serialized):
        record = record_reading.parse_record_in_graph(serialized)
        image = tf.io.decode_jpeg(record["image_bytes"], channels=3)
        return image, tf.io.decode_png(record["label_bytes"], channels=1)

    dataset = tf.data.TFRecordDataset(source.shards("train")).repeat()
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def bare_jpeg_decoding(source: records.Records, crop_size: Size) -> tf.data.Dataset:
    """Reads, and decodes the image alone."""
    dataset = tf.data.TFRecordDataset(source.shards("train")).repeat()
    dataset = dataset.map(
        lambda serialized: tf.io.decode_jpeg(
            record_reading.parse_record_in_graph(serialized)["image_bytes"]
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def plain_batches(source: records.Records, crop_size: Size) -> tf.data.Dataset:
    """The official augmentation as it is usually written: whole images, tf.image, float32."""
    height, width = crop_size

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


def graph_batches(source: records.Records, crop_size: Size) -> tf.data.Dataset:
    """What `train` reads where numba is not installed."""
    with unittest.mock.patch.object(fast, "load", return_value=None):
        return training_batches(source, crop_size)


def training_batches(
    source: records.Records, crop_size: Size, batch_size: int = BATCH_SIZE, **options
) -> tf.data.Dataset:
    """The pipeline that `train` reads, without its cache unless the options give it."""
    crop = transforms.TrainingCrop(crop_size, source.info.ignore_label)
    training_set = record_order.TrainingSet([source], "train")
    return input_pipeline.training_batches(training_set, crop, batch_size=batch_size, **options)


def later_batches(source: records.Records, crop_size: Size) -> tf.data.Dataset:
    """The pipeline that `train` reads, with its cache."""
    cache_bytes = config.DataConfig(data_dir=source.folder).decoded_cache_mib * 2**20
    return training_batches(source, crop_size, cache_bytes=cache_bytes)


def measure(
    dataset: tf.data.Dataset, num_images: int, batch_size: int = BATCH_SIZE
) -> tuple[float, float]:
    """Measures a pipeline while no other is alive: those that wait fill their buffers meanwhile.

    Returns:
        Seconds of the clock and of all cores together, for each image of a batch.
    """
    batches = iter(dataset)
    for _ in range(WARM_UP // batch_size):
        next(batches)
    clock, cores = time.perf_counter(), time.process_time()
    for _ in range(num_images // batch_size):
        next(batches)
    return (time.perf_counter() - clock) / num_images, (time.process_time() - cores) / num_images


def peak_memory() -> int:
    """Returns the peak of this process' resident memory in MiB, TensorFlow's own included."""
    # Not getrusage: a child's figure begins with its parent's.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def print_pipelines(size: Size, crop_size: Size) -> None:
    """Compares all pipelines."""
    num_images = IMAGES_PER_RUN * (10 if size[0] * size[1] < TINY else 1)
    with tempfile.TemporaryDirectory() as folder:
        source = write_records(folder, size)
        datasets = {name: make(source, crop_size) for name, make in PIPELINES.items()}
        times = {name: [] for name in PIPELINES}
        for _ in range(RUNS):  # in turn, so that a change of the machine's speed meets all
            for name, dataset in datasets.items():
                times[name].append(measure(dataset, num_images))
    bare = times["bare decoding"]
    for name, values in times.items():
        ratios, ratios_of_cores = (
            statistics.median(of_bare[which] / ours[which] for ours, of_bare in zip(values, bare))
            for which in (0, 1)
        )
        arguments = [f"--size={size[0]}x{size[1]}", f"--crop={crop_size[0]}", f"--alone={name}"]
        memory = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
        ).stdout
        seconds, seconds_of_cores = (statistics.median(column) for column in zip(*values))
        print(
            f"{name:<34} {1 / seconds:7.1f} images/s, {ratios:5.2f} of bare decoding; "
            f"{1000 * seconds_of_cores:6.2f} ms of all cores per image, {ratios_of_cores:5.2f}; "
            f"peak {int(memory)} MiB"
        )


def print_workers(counts: list[int], size: Size, crop_size: Size) -> None:
    """Shows what a batch costs one of several workers."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_records(folder, size)
        datasets = {
            count: training_batches(source, crop_size, BATCH_OF_WORKERS, part=(count - 1, count))
            for count in counts
        }
        times = {count: [] for count in counts}
        for _ in range(RUNS):
            for count, dataset in datasets.items():
                times[count].append(measure(dataset, IMAGES_PER_RUN, BATCH_OF_WORKERS)[1])
    first = statistics.median(times[counts[0]])
    for count, values in times.items():
        cost = statistics.median(values)
        print(
            f"{count} workers: {1000 * BATCH_OF_WORKERS * cost:7.1f} ms of all cores of a worker "
            f"per batch of {BATCH_OF_WORKERS}, {cost / first:4.2f} of that of {counts[0]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="500x375", help="width and height of the images")
    parser.add_argument("--crop", type=int, default=513, help="side of the crops")
    parser.add_argument("--workers", default="", help="numbers of workers to compare, as 1,2,4")
    parser.add_argument("--alone", choices=PIPELINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    size, crop_size = (width, height), (arguments.crop, arguments.crop)
    if arguments.alone:  # one of the pipelines, for its memory
        with tempfile.TemporaryDirectory() as folder:
            source = write_records(folder, size)
            measure(PIPELINES[arguments.alone](source, crop_size), IMAGES_PER_RUN)
        print(peak_memory())
        return
    print(f"{os.cpu_count()} CPU cores, TensorFlow {tf.__version__}, medians of {RUNS} runs")
    if arguments.workers:
        print_workers([int(count) for count in arguments.workers.split(",")], size, crop_size)
    else:
        print_pipelines(size, crop_size)


PIPELINES = {
    "bare decoding": bare_decoding,
    "bare decoding of the JPEGs alone": bare_jpeg_decoding,
    "plain tf.data": plain_batches,
    "training batches without numba": graph_batches,
    "training batches": training_batches,
    "training batches of later epochs": later_batches,
}

if __name__ == "__main__":
    main()
