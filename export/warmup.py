"""Requests that TF Serving answers to itself before it serves a new version.

The first call of a signature is slow, since kernels are chosen and memory is allocated. TF Serving
reads `assets.extra/tf_serving_warmup_requests` and makes these calls before it serves the version.
"""

import importlib
import os
import typing
from collections.abc import Iterator
from collections.abc import Sequence

import tensorflow as tf

from deeplab_tf.data import decoding
from deeplab_tf.errors import extra_for
from deeplab_tf.export import parity
from deeplab_tf.export import serving

if typing.TYPE_CHECKING:
    from tensorflow_serving.apis import predict_pb2

FILE = "assets.extra/tf_serving_warmup_requests"


def require_installed() -> None:
    """Raises a UserError unless the packages that this module needs are installed."""
    with extra_for("Writing warm-up requests for TF Serving", extra="serving"):
        importlib.import_module("tensorflow_serving")


def write(
    folder: str, size: tuple[int, int], batch_sizes: Sequence[int] = (), in_channels: int = 3
) -> None:
    """Adds the requests to a SavedModel: each signature with one image, and with each batch size.

    Args:
        folder: The SavedModel of a `serving.ServingModule`.
        size: Height and width of the images, the serving size.
        batch_sizes: Images in a request, besides 1.
        in_channels: Channels of the images.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    path = os.path.join(folder, FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as writer:
        for request in _requests(size, sorted({1, *batch_sizes}), in_channels):
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())


def _requests(
    size: tuple[int, int], batch_sizes: Sequence[int], in_channels: int
) -> "Iterator[predict_pb2.PredictRequest]":
    image = parity.draw_images((1, *size, in_channels), seed=0)[0]
    files = [decoding.encode_bands(image)]
    if in_channels == 3:
        files.insert(0, tf.io.encode_jpeg(image).numpy())
    takes = serving.images_spec(in_channels)
    for number in batch_sizes:
        # One value for all pixels: a tensor so written takes a few bytes in place of megabytes.
        grey = tf.make_tensor_proto(128, tf.uint8, [number, *size, in_channels])
        encoded = [files[index % len(files)] for index in range(number)]
        yield _request("serving_default", takes, grey)
        yield _request("serving_masks", takes, grey)
        yield _request("serving_bytes", serving.IMAGE_BYTES, tf.make_tensor_proto(encoded))
        serialized = [serialized_example(one) for one in encoded]
        yield _request("tf_example", serving.EXAMPLES, tf.make_tensor_proto(serialized))


def _request(signature: str, takes: tf.TensorSpec, tensor) -> "predict_pb2.PredictRequest":
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "deeplab"
    request.model_spec.signature_name = signature
    request.inputs[takes.name].CopyFrom(tensor)
    return request


def serialized_example(image_bytes: bytes) -> bytes:
    """Returns a JPEG or PNG file as the `tf.train.Example` that `tf_example` takes."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image_bytes]))
    features = tf.train.Features(feature={serving.EXAMPLE_KEY: feature})
    return tf.train.Example(features=features).SerializeToString()
