"""The dense prediction cell: an encoder head found by search, described by the original's JSON.

Reference: Searching for Efficient Multi-Scale Architectures for Dense Image Prediction,
arXiv:1809.04184.
"""

import json

import keras

from deeplab_tf import layers
from deeplab_tf.errors import UserError

_SCOPE = "meta_architecture"
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
        where = f"{where}={cell_json}"
        try:
            with open(cell_json, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where} cannot be read: {error}.") from error
    try:
        branches = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}. {_FORMAT}") from error
    if not isinstance(branches, list) or not branches:
        raise UserError(f"{where} is not a list of branches. {_FORMAT}")
    try:
        return [_read_branch(branch, index) for index, branch in enumerate(branches)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {error!s} in {branches}. {_FORMAT}") from error


def cell_to_text(cell_json: str) -> str:
    """Returns the JSON of a cell on one line, from a file or from the JSON itself."""
    return json.dumps(read_cell(cell_json))


def _read_branch(branch: dict, index: int) -> dict:
    """Returns a branch with its values checked and in one form."""
    operation, source = branch["op"], int(branch["input"])
    if source >= index:
        raise ValueError(f"branch {index} has input {source}, which is not an earlier branch")
    if operation == "pyramid_pooling":
        return {"op": operation, "input": source, "grid_size": _pair(branch["grid_size"])}
    if operation != "conv":
        raise ValueError(f"branch {index} has the unknown op {operation!r}")
    kernel = _pair(branch["kernel"])
    if kernel not in ((1, 1), (3, 3)):
        raise ValueError(f"branch {index} has a kernel of {kernel}, neither 1 nor 3")
    rate = _pair(branch.get("rate", 1))
    return {"op": operation, "input": source, "kernel": kernel[0], "rate": rate}


def _pair(value: int | list[int]) -> tuple[int, int]:
    """Returns height and width, each 1 or more, from a pair or from one number for both."""
    height, width = value if isinstance(value, list) else (value, value)
    if min(height, width) < 1:
        raise ValueError(f"{value} is below 1")
    return height, width
