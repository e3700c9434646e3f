"""TFLite Metadata: what a `.tflite` file tells phone task libraries about its pixels and classes.

Every interpreter still reads the file. It gains a buffer named TFLITE_METADATA, itself a
flatbuffer, and at its end a zip archive with the class names: `unzip -l FILE.tflite` lists it.

The packages that write such metadata cannot be installed beside today's TensorFlow (tflite-support)
or bring a second OpenCV (mediapipe). There are a dozen tables to write.

Reference: https://ai.google.dev/edge/litert/conversion/tensorflow/metadata; the schemas
`metadata_schema.fbs` (file identifier M001) and `image_segmenter_metadata_schema.fbs` (V001) of
MediaPipe Tasks.
"""

import io
import zipfile

import flatbuffers
import numpy as np

from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.export import asset_files

_ENTRY = "TFLITE_METADATA"

# The fields of each table in the schema's order, up to the last that is written. A union is two.
_FIELDS = {
    "ModelMetadata": (
        "name",
        "description",
        "version",
        "subgraph_metadata",
        "author",
        "license",
        "associated_files",
        "min_parser_version",
    ),
    "SubGraphMetadata": (
        "name",
        "description",
        "input_tensor_metadata",
        "output_tensor_metadata",
        "associated_files",
        "input_process_units",
        "output_process_units",
        "input_tensor_groups",
        "output_tensor_groups",
        "custom_metadata",
    ),
    "TensorMetadata": (
        "name",
        "description",
        "dimension_names",
        "content",
        "process_units",
        "stats",
        "associated_files",
    ),
    "Content": ("content_properties_type", "content_properties", "range"),
    "ImageProperties": ("color_space", "default_size"),
    "ValueRange": ("min", "max"),
    "ProcessUnit": ("options_type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "Stats": ("max", "min"),
    "AssociatedFile": ("name", "description", "type"),
    "CustomMetadata": ("name", "data"),
    "ImageSegmenterOptions": ("activation",),
}
# Values of the schema's enumerations and unions.
_IMAGE_PROPERTIES = np.uint8(2)
_NORMALIZATION_OPTIONS = np.uint8(1)
_UNKNOWN, _RGB, _GRAYSCALE = np.int8(0), np.int8(1), np.int8(2)
_TENSOR_AXIS_LABELS, _TENSOR_VALUE_LABELS = np.int8(2), np.int8(3)
_SOFTMAX = np.int8(2)


def add(tflite: bytes, dataset: DatasetInfo, result: str) -> bytes:
    """Adds metadata to a model that takes one image and returns its scores or labels.

    Scores are described as the ImageSegmenter of MediaPipe Tasks and the one of the TFLite Task
    Library take them, with a softmax to be applied. Neither takes a model that returns labels (the
    former misreads it, the latter refuses it); its metadata is for other readers.

    Args:
        tflite: A model without metadata whose input is pixels 0..255, float32 or quantised,
            [1, H, W, channels], and whose only output is scores [1, h, w, num_classes] or class ids
            [1, h, w].
        dataset: Names the classes, in the order of the ids.
        result: "scores" or "labels".

    Returns:
        The model with its metadata, and at its end a zip archive of `labels.txt`, with a class name
        on each line.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(tflite))
    entry = schema.MetadataT()
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    model.metadata = (model.metadata or []) + [entry]
    buffer = schema.BufferT()
    buffer.data = _model_metadata(dataset, result)
    model.buffers.append(buffer)
    file = io.BytesIO(flatbuffer_utils.convert_object_to_bytearray(model))
    with zipfile.ZipFile(file, "a") as archive:
        # A ZipInfo carries no time, so that equal models are equal files.
        archive.writestr(zipfile.ZipInfo(asset_files.LABELS), "\n".join(dataset.class_names) + "\n")
    return file.getvalue()


def _model_metadata(dataset: DatasetInfo, result: str) -> np.ndarray:
    has_scores = result == "scores"
    subgraph = _table(
        "SubGraphMetadata",
        input_tensor_metadata=[_image_metadata(dataset)],
        output_tensor_metadata=[_scores_metadata() if has_scores else _labels_metadata()],
        custom_metadata=[_segmenter_metadata()] if has_scores else None,
    )
    return _flatbuffer(
        _table(
            "ModelMetadata",
            name=f"DeepLab for {dataset.name}",
            description="Semantic segmentation: assigns a class to every pixel of an image.",
            subgraph_metadata=[subgraph],
            min_parser_version="1.5.0" if has_scores else "1.0.0",  # of custom_metadata
        ),
        identifier=b"M001",
    )


def _image_metadata(dataset: DatasetInfo) -> dict:
    description, color_space = "Red, green and blue of every pixel, 0 to 255.", _RGB
    if dataset.bands:
        ranges = ", ".join(f"{one.name} ({one.low:g} to {one.high:g})" for one in dataset.bands)
        description = f"The bands {ranges} of every pixel, each scaled from its range to 0 to 255."
        color_space = _UNKNOWN
    # Normalisation is inside the network. Without this unit a float input is refused.
    no_normalisation = _table(
        "ProcessUnit",
        options_type=_NORMALIZATION_OPTIONS,
        options=_table("NormalizationOptions", mean=_floats(0), std=_floats(1)),
    )
    return _table(
        "TensorMetadata",
        name="image",
        description=description,
        content=_image(color_space=color_space),
        process_units=[no_normalisation],
        stats=_table("Stats", max=_floats(255), min=_floats(0)),
    )


def _scores_metadata() -> dict:
    return _result_metadata(
        "scores", "The score of every class at every pixel, before softmax.", _TENSOR_AXIS_LABELS
    )


def _labels_metadata() -> dict:
    return _result_metadata("labels", "The class id of every pixel.", _TENSOR_VALUE_LABELS)


def _result_metadata(name: str, description: str, kind_of_names: np.int8) -> dict:
    class_names = _table(
        "AssociatedFile",
        name=asset_files.LABELS,
        description="The names of the classes, in the order of their ids.",
        type=kind_of_names,
    )
    return _table(
        "TensorMetadata",
        name=name,
        description=description,
        content=_image(color_space=_GRAYSCALE, range=_dimensions(1, 2)),
        associated_files=[class_names],
    )


def _segmenter_metadata() -> dict:
    options = _table("ImageSegmenterOptions", activation=_SOFTMAX)
    return _table(
        "CustomMetadata", name="SEGMENTER_METADATA", data=_flatbuffer(options, identifier=b"V001")
    )


def _image(color_space: np.int8, **fields) -> dict:
    return _table(
        "Content",
        content_properties_type=_IMAGE_PROPERTIES,
        content_properties=_table("ImageProperties", color_space=color_space),
        **fields,
    )


def _dimensions(first: int, last: int) -> dict:
    return _table("ValueRange", min=np.int32(first), max=np.int32(last))


def _floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _table(table: str, /, **fields) -> dict:
    """Returns a table as a dict from the number of each field to its value, without None."""
    numbers = {field: number for number, field in enumerate(_FIELDS[table])}
    return {numbers[field]: value for field, value in fields.items() if value is not None}


def _flatbuffer(root: dict, identifier: bytes) -> np.ndarray:
    builder = flatbuffers.Builder()
    builder.Finish(_write(builder, root), file_identifier=identifier)
    return np.frombuffer(builder.Output(), np.uint8)


def _write(builder: flatbuffers.Builder, value) -> int:
    """Writes a text, an array, a list of tables or a table; returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, np.ndarray):
        return builder.CreateNumpyVector(value)
    if isinstance(value, list):
        offsets = [_write(builder, item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    # Only numbers lie in the table itself. Flatbuffers are written from the leaves up.
    places = {
        number: _write(builder, field)
        for number, field in value.items()
        if not isinstance(field, np.generic)
    }
    builder.StartObject(max(value) + 1)
    for number, field in value.items():
        if number in places:
            builder.PrependUOffsetTRelativeSlot(number, places[number], 0)
        else:
            prepend = {
                np.int8: builder.PrependInt8Slot,
                np.uint8: builder.PrependUint8Slot,
                np.int32: builder.PrependInt32Slot,
            }[type(field)]
            prepend(number, field.item(), 0)
    return builder.EndObject()
