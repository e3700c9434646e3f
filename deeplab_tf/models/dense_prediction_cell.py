"""The dense prediction cell: an encoder head found by search, described by the original's JSON.

Reference: Searching for Efficient Multi-Scale Architectures for Dense Image Prediction,
arXiv:1809.04184.
"""

import json
from typing import Any

import keras

from deeplab_tf import files
from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.errors import shortened

_SCOPE = "meta_architecture"
_MAX_BYTES = 2**20
_MAX_BRANCHES = 100
_MAX_SIDE = 1000  # of rates and of grids
_FORMAT = (
    "A cell is a list of branches such as "
    '{"op": "conv", "kernel": 3, "rate": [6, 3], "input": -1} or '
    '{"op": "pyramid_pooling", "grid_size": [2, 2], "input": 0}; input is the number of an earlier '
    "branch, or -1 for the features."
)


def dense_prediction_cell(
    features, cell_json: str, output_stride: int, batch_norm_decay: float, filters: int = 256
):
    """Runs the branches of a cell one after another, and projects them all together.

    Args:
        features: `[B, H, W, C]`, H and W at the output stride.
        cell_json: Path of the cell's JSON, or the JSON itself.
        output_stride: Output stride of the features; the rates of a cell are for 16.
        batch_norm_decay: Decay of the moving statistics.
        filters: Channels of every branch and of the result.

    Returns:
        `[B, H, W, filters]`.

    Raises:
        UserError: If the file or its content is not a cell.

    Reference: arXiv:1809.04184, section 3.2 and figure 5.
    """
    blocks = layers.ConvBlocks(batch_norm_decay)
    branches = []
    for index, branch in enumerate(read_cell(cell_json)):
        x = features if branch["input"] < 0 else branches[branch["input"]]
        name = f"{_SCOPE}.branch{index}"
        if branch["op"] == "pyramid_pooling":
            pool = layers.ImagePooling(grid_size=branch["grid_size"], name=f"{name}.mean")
            x = layers.call_in_order([pool, *blocks.conv(filters, 1, name)], x)
            x = layers.ResizeLike(name=f"{name}.resize")(x, features)
        elif branch["kernel"] == 1:
            x = layers.call_in_order(blocks.conv(filters, 1, name), x)
        else:
            # A multiplier of whole numbers, as the original's: 1 at 16 and 2 at 8.
            rate = tuple(side * max(16 // output_stride, 1) for side in branch["rate"])
            x = layers.AtrousSeparableConv2D(
                filters, dilation_rate=rate, batch_norm_momentum=batch_norm_decay, name=name
            )(x)
        branches.append(x)
    x = branches[0]
    if len(branches) > 1:
        x = keras.layers.Concatenate(name=f"{_SCOPE}.concat")(branches)
    dropout = keras.layers.Dropout(0.1, name=f"{_SCOPE}.concat_projection.dropout")
    projection = blocks.conv(filters, 1, f"{_SCOPE}.concat_projection")
    return layers.call_in_order([dropout, *projection], x)


def read_cell(cell_json: str) -> list[dict]:
    """Reads a cell's branches from a file, or from the JSON itself.

    Returns:
        A dict for each branch: `op`, `input`, and `grid_size`, or `kernel` and `rate`.

    Raises:
        UserError: If the file or its content is not a cell.
    """
    where = "dense_prediction_cell_json"
    text = cell_json
    if not text.lstrip().startswith("["):
        where = f"{where}={shortened(cell_json)}"
        text = files.read_text(cell_json, "dense prediction cell", max_bytes=_MAX_BYTES)
    try:
        branches = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}. {_FORMAT}") from error
    if not isinstance(branches, list) or not 1 <= len(branches) <= _MAX_BRANCHES:
        raise UserError(f"{where} is not a list of 1 to {_MAX_BRANCHES} branches. {_FORMAT}")
    try:
        return [_read_branch(branch, index) for index, branch in enumerate(branches)]
    except ValueError as error:
        raise UserError(f"{where}: {error!s}. {_FORMAT}") from error


def cell_to_text(cell_json: str) -> str:
    """Returns the JSON of a cell on one line, from a file or from the JSON itself."""
    return json.dumps(read_cell(cell_json))


def _read_branch(branch: Any, index: int) -> dict:
    """Returns a branch with its values checked and in one form.

    Raises:
        ValueError: A value is missing or wrong.
    """
    if not isinstance(branch, dict):
        raise ValueError(f"branch {index} is {shortened(repr(branch))}, not an object")
    operation: Any = branch.get("op")
    source: Any = branch.get("input")
    if not _is_whole(source) or not -1 <= source < index:
        raise ValueError(
            f"branch {index} has the input {shortened(repr(source))}, which is not an earlier "
            "branch or -1"
        )

    def pair(name: str, default=None) -> tuple[int, int]:
        """Height and width, each 1 or more, from a pair or from one number for both."""
        value = branch.get(name, default)
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) != 2 or not all(_is_whole(side) and 1 <= side <= _MAX_SIDE for side in sides):
            raise ValueError(
                f"branch {index} has the {name} {shortened(repr(value))}, which is not one or two "
                f"whole numbers between 1 and {_MAX_SIDE}"
            )
        return sides[0], sides[1]

    if operation == "pyramid_pooling":
        return {"op": operation, "input": source, "grid_size": pair("grid_size")}
    if operation != "conv":
        raise ValueError(f"branch {index} has the unknown op {shortened(repr(operation))}")
    kernel = pair("kernel")
    if kernel not in ((1, 1), (3, 3)):
        raise ValueError(f"branch {index} has a kernel of {kernel}, neither 1 nor 3")
    return {"op": operation, "input": source, "kernel": kernel[0], "rate": pair("rate", 1)}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
