"""ResNet v1, as DeepLab has it: with its strides at the ends of blocks, and maybe longer.

References: ResNet, arXiv:1512.03385, table 1; DeepLabv3, arXiv:1706.05587, sections 3.1 and 3.2.
"""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import strides_and_rates

# Units of block1 to block4; table 1.
_UNITS = {"resnet_v1_50": (3, 4, 6, 3), "resnet_v1_101": (3, 4, 23, 3)}


def resnet_v1(
    variant: str,
    output_stride: int,
    in_channels: int = 3,
    multi_grid: Sequence[int] = (1, 1, 1),
    last_block: int = 4,
    batch_norm_decay: float = 0.95,
) -> keras.Model:
    """Builds a ResNet backbone; see `build_backbone`.

    The beta variants begin with three 3x3 convolutions in place of the 7x7 one.
    """
    is_beta = variant.endswith("_beta")
    scope = variant.removesuffix("_beta")
    batch_norm = {"momentum": batch_norm_decay, "epsilon": 1e-5}
    # v3's cascade: block5 to block7 repeat block4.
    counts = (*_UNITS[scope], *_UNITS[scope][3:] * (last_block - 4))
    # The stride is in the last unit of a block, and the last block has none.
    units = [
        (block, unit, 2 if unit == count and block < last_block else 1)
        for block, count in enumerate(counts, start=1)
        for unit in range(1, count + 1)
    ]
    # A decoder gets the branch of the unit before a stride.
    decoder_strides = {(block, counts[block - 1] - 1): 2 ** (block + 1) for block in (1, 2, 3)}
    # The stem has stride 4 at any output stride.
    strides = strides_and_rates([stride for *_, stride in units], output_stride // 4)

    image = pixels.image_input(in_channels)
    if is_beta:
        x = pixels.to_unit_range(image)
        x = layers.conv_batch_norm(
            x, 64, 3, f"{scope}/conv1_1", batch_norm, strides=2, padding="symmetric"
        )
        x = layers.conv_batch_norm(x, 64, 3, f"{scope}/conv1_2", batch_norm)
        x = layers.conv_batch_norm(x, 128, 3, f"{scope}/conv1_3", batch_norm)
    else:
        x = pixels.subtract_mean(image, pixels.IMAGENET_MEAN)
        x = layers.conv_batch_norm(
            x, 64, 7, f"{scope}/conv1", batch_norm, strides=2, padding="symmetric"
        )
    # "same", unlike the convolutions around it: even sizes are padded at one end only.
    pool_name = layers.layer_name(f"{scope}/pool1")
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=pool_name)(x)
    outputs = {}
    for (block, unit, _), (stride, rate) in zip(units, strides):
        name = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
        filters = 64 * 2 ** (min(block, 4) - 1)
        if block >= 4:
            rate *= multi_grid[unit - 1]
        branch = layers.conv_batch_norm(x, filters, 1, f"{name}/conv1", batch_norm)
        branch = layers.conv_batch_norm(
            branch,
            filters,
            3,
            f"{name}/conv2",
            batch_norm,
            strides=stride,
            rate=rate,
            padding="symmetric",
        )
        branch = layers.conv_batch_norm(
            branch, 4 * filters, 1, f"{name}/conv3", batch_norm, activation=None
        )
        if decoder_strides.get((block, unit), output_stride + 1) <= output_stride:
            outputs[f"stride_{decoder_strides[block, unit]}"] = branch
        shortcut = _shortcut(x, 4 * filters, f"{name}/shortcut", batch_norm, stride)
        x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([shortcut, branch])
        x = keras.layers.Activation("relu", name=layers.layer_name(f"{name}/relu"))(x)
    return keras.Model(image, {**outputs, "features": x}, name=scope)


def _shortcut(inputs, filters: int, name: str, batch_norm: dict, stride: int):
    """What a bottleneck's branch is added to: its input, projected or subsampled where needed."""
    if inputs.shape[-1] != filters:
        return layers.conv_batch_norm(
            inputs, filters, 1, name, batch_norm, activation=None, strides=stride
        )
    if stride == 1:
        return inputs
    # A window of a single pixel: every second one stays.
    return keras.layers.MaxPooling2D(1, strides=stride, name=layers.layer_name(name))(inputs)
