"""Fits images to a network, and brings its results back to the images' own size."""

import dataclasses
import typing

import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import transforms


class ResizeRange(typing.NamedTuple):
    """The range of sizes that images are resized to, see `transforms.resize_to_range_size`."""

    min_size: int
    max_size: int | None
    factor: int | None


class Placement(typing.NamedTuple):
    """Where an image lies in the padded image that the network sees: at the top left.

    Attributes:
        own_size: Height and width of the image itself in pixels, int32 [2].
        seen_size: Height and width of the resized image, without the padding, int32 [2].
    """

    own_size: tf.Tensor
    seen_size: tf.Tensor


@dataclasses.dataclass(frozen=True)
class ImageFitter:
    """Resizes and pads images for a network; resizes and crops its results in return.

    An image is resized to the run's range of sizes, if there is one. It is then shrunk, never
    enlarged, to fit into `size`, if the network takes one size only. The padding lies at the bottom
    and right. All methods work eagerly and in graphs.

    Attributes:
        pad_pixel: Colour of the padding, a value in 0..255 for each channel.
        output_stride: Pads to a multiple of it plus 1. Only at such sizes do the first and the last
            features lie on the first and the last pixels, as resizing with aligned corners assumes;
            at an even size the labels of a MobileNet move up and left by up to half an output
            stride. None for no such padding.
        resize_range: The range of sizes that the network was trained on; None for any size.
        size: Height and width in pixels, where the network takes one size only; None for any size.
        antialias: Shrinks with an antialiasing filter, and without aligned corners. For photos
            many times as large as `size`, most pixels of which would count for nothing otherwise.
    """

    pad_pixel: tuple[float, ...]
    output_stride: int | None = None
    resize_range: ResizeRange | None = None
    size: tuple[int, int] | None = None
    antialias: bool = False

    def fit(self, images: tf.Tensor) -> tuple[tf.Tensor, Placement]:
        """Resizes and pads images.

        Args:
            images: Pixels 0..255, uint8 or float, [N, H, W, C].

        Returns:
            The padded images, float32 [N, h, w, C], and what `undo` needs.
        """
        images = tf.cast(images, tf.float32)
        own_size = seen_size = tf.shape(images)[1:3]
        for seen_size in self._sizes(own_size):
            images = self._resize(images, seen_size)
        if self._pads:
            paddings = [*self._paddings(seen_size), [0, 0]]
            images = tf.pad(images - self.pad_pixel, paddings) + self.pad_pixel
        if self.size is not None:
            images = tf.ensure_shape(images, [None, *self.size, len(self.pad_pixel)])
        return images, Placement(own_size, seen_size)

    def fit_labels(self, labels: tf.Tensor, ignore_label: int) -> tf.Tensor:
        """Resizes and pads label maps as `fit` does their images.

        Args:
            labels: Class ids, integer [N, H, W].
            ignore_label: Label of the padding.

        Returns:
            Class ids of the same dtype, [N, h, w].
        """
        labels = tf.convert_to_tensor(labels)
        own_size = seen_size = tf.shape(labels)[1:3]
        for seen_size in self._sizes(own_size):
            labels = self._resize(labels, seen_size)
        if not self._pads:
            return labels
        return tf.pad(labels, self._paddings(seen_size), constant_values=ignore_label)

    def undo(self, values: tf.Tensor, placement: Placement) -> tf.Tensor:
        """Brings the results for padded images back to the images' own size.

        Args:
            values: Class ids, integer [N, h, w], or scores of the classes, float
                [N, h, w, num_classes]; of the size that `fit` returned.
            placement: What `fit` returned.

        Returns:
            The same at the images' own size: class ids of the nearest pixel, or scores
            interpolated.
        """
        values = tf.convert_to_tensor(values)
        height, width = tf.unstack(placement.seen_size)
        values = values[:, :height, :width]
        if self.resize_range is None and self.size is None:
            return values
        return self._resize(values, placement.own_size)

    @property
    def _pads(self) -> bool:
        return self.size is not None or self.output_stride is not None

    def _sizes(self, own_size: tf.Tensor) -> list[tf.Tensor]:
        """The sizes that an image is resized to, one after the other."""
        sizes = []
        if self.resize_range is not None:
            height, width = tf.unstack(own_size)
            own_size = transforms.resize_to_range_size(height, width, *self.resize_range)
            sizes.append(own_size)
        if self.size is not None:
            sizes.append(self._size_within(own_size))
        return sizes

    def _size_within(self, own_size: tf.Tensor) -> tf.Tensor:
        """The largest size with the image's aspect ratio that fits, but not above its own."""
        sides = tf.cast(own_size, tf.float64)
        scale = tf.minimum(tf.reduce_min(tf.cast(self.size, tf.float64) / sides), 1)
        round_sides = tf.round if self.antialias else tf.floor
        size = tf.cast(round_sides(sides * scale), tf.int32)
        return tf.clip_by_value(size, 1, self.size)

    def _paddings(self, seen_size: tf.Tensor) -> list:
        """The padding of [N, H, W] as `tf.pad` takes it."""
        if self.size is not None:
            padding = self.size - seen_size
        else:
            padding = (1 - seen_size) % self.output_stride
        return [[0, 0], *([0, side] for side in tf.unstack(padding))]

    def _resize(self, values: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Resizes float [N, H, W, C] by interpolation, integer [N, H, W] to the nearest pixel."""
        is_float = values.dtype.is_floating
        if not self.antialias:
            resize = transforms.resize_bilinear if is_float else transforms.resize_nearest
            return resize(values, size)
        if is_float:
            return tf.image.resize(values, size, antialias=True)
        return tf.image.resize(values[..., tf.newaxis], size, method="nearest")[..., 0]


def image_fitter(
    model_config: ModelConfig, data_config: DataConfig, size: tuple[int, int] | None = None
) -> ImageFitter:
    """Returns how a run's images are fitted to its network.

    Args:
        model_config: The run's; its `backbone`, `in_channels` and `output_stride` count.
        data_config: The run's; its `min_resize_value`, `max_resize_value` and `resize_factor`
            count.
        size: Height and width in pixels of all that the network takes; None for any size.
    """
    resize_range = None
    if data_config.min_resize_value:
        resize_range = ResizeRange(
            data_config.min_resize_value, data_config.max_resize_value, data_config.resize_factor
        )
    pad_pixel = backbones.pad_pixel(model_config.backbone, model_config.in_channels)
    return ImageFitter(pad_pixel, model_config.output_stride, resize_range, size)
