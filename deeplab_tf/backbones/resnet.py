"""ResNet v1 with strides at the ends of its blocks, and optionally with copies of its last block.

References: ResNet, arXiv:1512.03385, table 1; DeepLabv3, arXiv:1706.05587, sections 3.1 and 3.2.
"""

from collections.abc import Sequence

import keras

from deeplab_tf import layers
from deeplab_tf.backbones import pixels
from deeplab_tf.backbones.atrous import check_multi_grid
from deeplab_tf.backbones.atrous import check_output_stride
from deeplab_tf.backbones.atrous import strides_and_rates
from deeplab_tf.backbones.features import Features
from deeplab_tf.errors import UserError
from deeplab_tf.weights import Weights

# Units of block1 to block4; table 1.
UNITS = {"resnet_v1_50": (3, 4, 6, 3), "resnet_v1_101": (3, 4, 23, 3)}
FILTERS = 64  # of the bottlenecks of block1; each later block has twice as many, up to block4
_LAST_BLOCKS = (4, 5, 6, 7)


def ResNetV1_50(
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
    last_block: int = 4,
    in_channels: int = 3,
    batch_norm_decay: float = 0.95,
    weights: Weights = None,
) -> keras.Model:
    return _resnet(
        "resnet_v1_50",
        output_stride=output_stride,
        multi_grid=multi_grid,
        last_block=last_block,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


def ResNetV1_101(
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
    last_block: int = 4,
    in_channels: int = 3,
    batch_norm_decay: float = 0.95,
    weights: Weights = None,
) -> keras.Model:
    return _resnet(
        "resnet_v1_101",
        output_stride=output_stride,
        multi_grid=multi_grid,
        last_block=last_block,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


def ResNetV1_50Beta(
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
    last_block: int = 4,
    in_channels: int = 3,
    batch_norm_decay: float = 0.95,
    weights: Weights = None,
) -> keras.Model:
    return _resnet(
        "resnet_v1_50_beta",
        output_stride=output_stride,
        multi_grid=multi_grid,
        last_block=last_block,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


def ResNetV1_101Beta(
    output_stride: int = 16,
    multi_grid: Sequence[int] = (1, 1, 1),
    last_block: int = 4,
    in_channels: int = 3,
    batch_norm_decay: float = 0.95,
    weights: Weights = None,
) -> keras.Model:
    return _resnet(
        "resnet_v1_101_beta",
        output_stride=output_stride,
        multi_grid=multi_grid,
        last_block=last_block,
        in_channels=in_channels,
        batch_norm_decay=batch_norm_decay,
        weights=weights,
    )


_STEMS = {
    "": "begins with a 7x7 convolution",
    "Beta": "begins with three 3x3 convolutions (beta)",
}
for _function in (ResNetV1_50, ResNetV1_101, ResNetV1_50Beta, ResNetV1_101Beta):
    _layers, _suffix = _function.__name__.removeprefix("ResNetV1_").partition("Beta")[:2]
    _function.__doc__ = f"""Builds a ResNet of {_layers} layers that {_STEMS[_suffix]}.

    Args:
        output_stride: Input size over the size of the last features: 4, 8, 16 or 32.
        multi_grid: Multipliers of the atrous rates of the three units of block4 and its copies. The
            paper's v3 uses 1, 2, 4.
        last_block: 4, or 5 to 7 for copies of block4 after it (the cascade of v3).
        in_channels: Channels of the images; the first three are R, G and B.
        batch_norm_decay: Decay of the moving statistics of all batch norms.
        weights: Name of released weights (see `deeplab_tf.zoo`), path of a TensorFlow 1 checkpoint
            of the original, or "imagenet" for those of an ImageNet classifier; None for
            random weights.

    Returns:
        A `keras.Model` from pixels 0..255, uint8 or float `[B, H, W, in_channels]`, to a dict of
        float features: `features`, `[B, H/output_stride, W/output_stride, 2048]`, and for decoders
        those of `stride_4`, `stride_8` and `stride_16` that are not above the output stride. Sizes
        are rounded up.

    Raises:
        UserError: If an argument has a wrong value, or the checkpoint does not fit.

    Reference: ResNet, arXiv:1512.03385, table 1; DeepLabv3, arXiv:1706.05587, sections 3.1 and 3.2.

    Example:

    >>> from deeplab_tf import backbones
    >>> model = backbones.{_function.__name__}(output_stride=8, multi_grid=(1, 2, 4))
    >>> model.compute_output_shape((1, 257, 257, 3))["features"]
    (1, 33, 33, 2048)
    """


def _resnet(
    variant: str,
    *,
    output_stride: int,
    multi_grid: Sequence[int],
    last_block: int,
    in_channels: int,
    batch_norm_decay: float,
    weights: Weights,
) -> keras.Model:
    check_output_stride(output_stride)
    check_multi_grid(multi_grid)
    if last_block not in _LAST_BLOCKS:
        raise UserError(f"last_block is {last_block!r}; it must be 4, 5, 6 or 7.")
    scope = variant.removesuffix("_beta")
    # v3's cascade: block5 to block7 repeat block4.
    counts = (*UNITS[scope], *UNITS[scope][3:] * (last_block - 4))
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
    blocks = layers.ConvBlocks(batch_norm_decay, epsilon=1e-5, padding="symmetric")

    image = pixels.image_input(in_channels)
    x = _stem(image, variant, blocks)
    outputs = Features(output_stride)
    for (block, unit, _), (stride, rate) in zip(units, strides):
        name = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
        filters = FILTERS * 2 ** (min(block, 4) - 1)
        if block >= 4:
            rate *= multi_grid[unit - 1]
        residual = layers.call_in_order(_branch(filters, name, blocks, stride, rate), x)
        outputs.offer(residual, decoder_strides.get((block, unit)))
        shortcut = _shortcut(x, 4 * filters, f"{name}/shortcut", blocks, stride)
        x = keras.layers.Add(name=layers.layer_name(f"{name}/add"))([shortcut, residual])
        x = keras.layers.Activation("relu", name=layers.layer_name(f"{name}/relu"))(x)
    return outputs.to_model(image, x, scope, weights, variant)


def _stem(image, variant: str, blocks: layers.ConvBlocks):
    """Normalizes pixels and brings them to stride 4."""
    scope = variant.removesuffix("_beta")
    if variant.endswith("_beta"):
        x = pixels.to_unit_range(image)
        convs = [
            *blocks.conv(64, 3, f"{scope}/conv1_1", strides=2),
            *blocks.conv(64, 3, f"{scope}/conv1_2"),
            *blocks.conv(128, 3, f"{scope}/conv1_3"),
        ]
    else:
        x = pixels.subtract_mean(image, pixels.IMAGENET_MEAN)
        convs = blocks.conv(64, 7, f"{scope}/conv1", strides=2)
    # "same", unlike the convolutions around it: even sizes are padded at one end only.
    pool_name = layers.layer_name(f"{scope}/pool1")
    pool = keras.layers.MaxPooling2D(
        3, strides=2, padding="same", data_format="channels_last", name=pool_name
    )
    return layers.call_in_order([*convs, pool], x)


def _branch(filters: int, name: str, blocks: layers.ConvBlocks, stride: int, rate: int):
    """Returns the layers of a bottleneck's branch."""
    return [
        *blocks.conv(filters, 1, f"{name}/conv1"),
        *blocks.conv(filters, 3, f"{name}/conv2", strides=stride, rate=rate),
        *blocks.conv(4 * filters, 1, f"{name}/conv3", activation=None),
    ]


def _shortcut(x, filters: int, name: str, blocks: layers.ConvBlocks, stride: int):
    """Returns the shortcut of a unit: its input, projected or subsampled if necessary."""
    if x.shape[-1] != filters:
        return layers.call_in_order(blocks.conv(filters, 1, name, None, strides=stride), x)
    if stride == 1:
        return x
    # A window of a single pixel keeps every second pixel.
    return keras.layers.MaxPooling2D(
        1, strides=stride, data_format="channels_last", name=layers.layer_name(name)
    )(x)
