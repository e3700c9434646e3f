"""What is written into a `.tflite` file, read back by the numbers of MediaPipe's schemas."""

import dataclasses
import io
import zipfile

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from flatbuffers import number_types

from deeplab_tf.data import bands
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.data.records import default_colors
from deeplab_tf.export import metadata

DATASET = DatasetInfo("zoo", ("background", "gnu", "Känguru"), default_colors(3), ignore_label=255)


class Table:
    """A table of a flatbuffer, whose fields have numbers."""

    def __init__(self, buffer: bytes, position: int):
        self._table = flatbuffers.table.Table(buffer, position)

    @classmethod
    def root(cls, buffer: bytes) -> "Table":
        return cls(buffer, int.from_bytes(buffer[:4], "little"))

    def _offset(self, number: int) -> int:
        offset = self._table.Offset(4 + 2 * number)
        return offset and offset + self._table.Pos

    def has(self, number: int) -> bool:
        return self._offset(number) != 0

    def text(self, number: int) -> str:
        return self._table.String(self._offset(number)).decode()

    def integer(self, number: int, bits: int = 8) -> int:
        flags = {8: number_types.Int8Flags, 32: number_types.Int32Flags}[bits]
        return self._table.Get(flags, self._offset(number))

    def table(self, number: int) -> "Table":
        return Table(self._table.Bytes, self._table.Indirect(self._offset(number)))

    def tables(self, number: int) -> list["Table"]:
        offset = self._offset(number) - self._table.Pos
        start = self._table.Vector(offset)
        return [
            Table(self._table.Bytes, self._table.Indirect(start + 4 * index))
            for index in range(self._table.VectorLen(offset))
        ]

    def array(self, number: int, flags=number_types.Float32Flags) -> list:
        offset = self._offset(number) - self._table.Pos
        return self._table.GetVectorAsNumpy(flags, offset).tolist()


@pytest.fixture(scope="module")
def tflite() -> bytes:
    """A model that scores pixels by three of their own numbers."""
    module = tf.Module()
    module.scores = tf.function(
        lambda images: 2 * images,
        input_signature=[tf.TensorSpec([1, 4, 6, 3], tf.float32)],
        autograph=False,
    )
    function = module.scores.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()


def model_metadata(tflite: bytes) -> Table:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    buffer = bytes(model.buffers[entry.buffer].data)
    assert buffer[4:8] == b"M001"
    return Table.root(buffer)


def test_a_model_with_metadata_computes_what_it_did(tflite):
    image = np.random.default_rng(0).uniform(0, 255, [1, 4, 6, 3]).astype(np.float32)
    results = []
    for content in (tflite, metadata.add(tflite, DATASET, "scores")):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(results[0], 2 * image)
    np.testing.assert_array_equal(results[1], 2 * image)


def test_the_class_names_are_in_an_uncompressed_zip_archive_at_its_end(tflite):
    # Uncompressed, since the readers on phones take nothing else.
    with zipfile.ZipFile(io.BytesIO(metadata.add(tflite, DATASET, "scores"))) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED
        assert archive.read("labels.txt").decode() == "background\ngnu\nKänguru\n"


def test_equal_models_are_equal_files(tflite):
    assert metadata.add(tflite, DATASET, "labels") == metadata.add(tflite, DATASET, "labels")


def test_images_are_described_as_rgb_pixels_that_need_no_normalisation(tflite):
    root = model_metadata(metadata.add(tflite, DATASET, "scores"))
    assert "zoo" in root.text(0)
    (subgraph,) = root.tables(3)
    (image,) = subgraph.tables(2)
    content = image.table(3)
    assert content.integer(0) == 2  # ImageProperties
    assert content.table(1).integer(0) == 1  # RGB
    (unit,) = image.tables(4)
    assert unit.integer(0) == 1  # NormalizationOptions
    assert (unit.table(1).array(0), unit.table(1).array(1)) == ([0.0], [1.0])  # mean, std
    assert (image.table(5).array(0), image.table(5).array(1)) == ([255.0], [0.0])  # max, min


def test_three_bands_are_not_described_as_rgb(tflite):
    infrared = tuple(bands.Band(number, f"B{number}", 0, 3000) for number in (8, 4, 3))
    dataset = dataclasses.replace(DATASET, bands=infrared, rgb_bands=(1, 2, 3))
    (subgraph,) = model_metadata(metadata.add(tflite, dataset, "scores")).tables(3)
    (image,) = subgraph.tables(2)
    assert "B8 (0 to 3000), B4 (0 to 3000)" in image.text(1)
    assert not image.table(3).table(1).has(0)  # the colour space is unknown, which is 0


def test_scores_have_class_names_along_their_axis_and_want_a_softmax(tflite):
    root = model_metadata(metadata.add(tflite, DATASET, "scores"))
    (subgraph,) = root.tables(3)
    (scores,) = subgraph.tables(3)
    (file,) = scores.tables(6)
    assert (file.text(0), file.integer(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
    dimensions = scores.table(3).table(2)
    assert (dimensions.integer(0, bits=32), dimensions.integer(1, bits=32)) == (1, 2)
    (custom,) = subgraph.tables(9)
    assert custom.text(0) == "SEGMENTER_METADATA"
    options = bytes(custom.array(1, number_types.Uint8Flags))
    assert options[4:8] == b"V001"
    assert Table.root(options).integer(0) == 2  # SOFTMAX
    assert root.text(7) == "1.5.0"  # the first parsers that know custom metadata


def test_labels_have_class_names_for_their_values_and_no_activation(tflite):
    root = model_metadata(metadata.add(tflite, DATASET, "labels"))
    (subgraph,) = root.tables(3)
    (labels,) = subgraph.tables(3)
    (file,) = labels.tables(6)
    assert (file.text(0), file.integer(2)) == ("labels.txt", 3)  # TENSOR_VALUE_LABELS
    assert not subgraph.has(9)
    assert root.text(7) == "1.0.0"
