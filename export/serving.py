"""What is served: labels and masks of images, or of image files of any sizes."""

import json
import os

import keras
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf.crf.graph import dense_crf_graph
from deeplab_tf.data import bands
from deeplab_tf.data import decoding
from deeplab_tf.data import transforms
from deeplab_tf.evaluation.fitting import ImageFitter
from deeplab_tf.evaluation.fitting import Placement
from deeplab_tf.evaluation.prediction import predict_logits
from deeplab_tf.export import asset_files
from deeplab_tf.export.config import LABELS_ALONE
from deeplab_tf.export.config import ServingConfig
from deeplab_tf.runs import run_dir as run_dirs

IMAGE_BYTES = tf.TensorSpec([None], tf.string, name="image_bytes")
EXAMPLES = tf.TensorSpec([None], tf.string, name="examples")

# The key of a serialized tf.train.Example that holds the JPEG or PNG, as in the records.
EXAMPLE_KEY = "image/encoded"


def images_spec(in_channels: int) -> tf.TensorSpec:
    """Returns what `serving_default` and `serving_masks` take: pixels [N, H, W, in_channels]."""
    return tf.TensorSpec([None, None, None, in_channels], tf.uint8, name="images")


# An image of 12 megapixels takes 60 MB while it is decoded and shrunk, and its mask twice 12 MB.
_IMAGES_AT_A_TIME = 4


def serving_size(run: run_dirs.Run, config: ServingConfig = LABELS_ALONE) -> tuple[int, int]:
    """Returns the height and width in pixels that the signatures of image files work at.

    They are rounded up to a multiple of the output stride plus 1, to which the network would pad.
    """
    stride = run.model_config.output_stride
    assert stride is not None  # a run's config has it
    height, width = (
        side + (1 - side) % stride for side in config.serving_size or run.data_config.exported_size
    )
    return height, width


class ServingModule(tf.Module):
    """A segmentation model as a program that needs no Python.

    Attributes:
        signatures: The functions that are served, by name.
        labels_file: Asset with a class name on each line, in the order of the ids.
        palette_file: Asset with the RGB colour of each class and the ignore label, as JSON.
    """

    def __init__(
        self,
        model: keras.Model,
        run: run_dirs.Run,
        assets_folder: str,
        crf_parameters: dict | None = None,
        config: ServingConfig = LABELS_ALONE,
    ):
        """Wraps a model.

        Args:
            model: The run's model.
            run: The run, for how images are fitted to the network, and its class names and colours.
            assets_folder: Where the assets are written; saving the module copies them from there.
            crf_parameters: Arguments of `dense_crf`, which then refines the served labels; None
                for no CRF.
            config: What is served besides labels, and at which size.
        """
        super().__init__(name="deeplab")
        # The model is hidden in a function, so that its variables are saved but not its layers.
        self._predict_logits = lambda images: predict_logits(
            model, images, run.model_config, run.data_config
        )
        self._crf_parameters = crf_parameters
        self._config = config
        self._dataset = dataset = run.dataset
        self._in_channels = dataset.num_channels
        pad_pixel = backbones.pad_pixel(run.model_config.backbone, self._in_channels)
        self._size = serving_size(run, config)
        self._fitter = ImageFitter(
            pad_pixel=tuple(int(value + 0.5) for value in pad_pixel),
            size=self._size,
            antialias=True,
        )
        self.model_variables = [variable.value for variable in model.variables]
        self._label_dtype = tf.uint8 if dataset.num_classes <= 256 else tf.uint16

        labels_path = os.path.join(assets_folder, asset_files.LABELS)
        with open(labels_path, "w", encoding="utf-8") as file:
            file.writelines(name + "\n" for name in dataset.class_names)
        self.labels_file = tf.saved_model.Asset(labels_path)
        palette_path = os.path.join(assets_folder, asset_files.PALETTE)
        with open(palette_path, "w", encoding="utf-8") as file:
            palette = {"colors": dataset.colors, "ignore_label": dataset.ignore_label}
            json.dump(palette | bands.to_fields(dataset.bands, dataset.rgb_bands), file)
        self.palette_file = tf.saved_model.Asset(palette_path)

        def of_images(function):
            spec = images_spec(self._in_channels)
            return tf.function(function, input_signature=[spec], autograph=False)

        self.logits = of_images(self._logits)
        self.serving_default = of_images(self._serving_default)
        self.serving_masks = of_images(self._serving_masks)
        self._segment = of_images(self._labels_and_more)

    @property
    def signatures(self) -> dict:
        """The functions that are served, by name."""
        return {
            "serving_default": self.serving_default,
            "serving_masks": self.serving_masks,
            "serving_bytes": self.serving_bytes,
            "tf_example": self.tf_example,
        }

    def _logits(self, images):
        """Logits at the images' own size, float32 [N, H, W, num_classes]."""
        return self._predict_logits(images)

    def _serving_default(self, images):
        """Class ids at the images' own size, without strings, which other runtimes do not have.

        Returns:
            `labels`, uint8 (uint16 above 256 classes) [N, H, W]; on demand `probabilities`, float32
            [N, H, W, num_classes], and `confidence`, float32 [N, H, W], that of the label.
        """
        labels, extra = self._segment(images)
        return {"labels": labels} | extra

    def _serving_masks(self, images):
        """The labels of `serving_default` as PNG files.

        Returns:
            `mask_png_bytes`, string [N], grey PNGs of class ids of 8 bits (16 above 256 classes).
        """
        labels, _ = self._segment(images)
        return {"mask_png_bytes": tf.io.encode_png(labels[..., tf.newaxis])}

    @tf.function(input_signature=[IMAGE_BYTES], autograph=False)
    def serving_bytes(self, image_bytes):
        """Class ids of JPEG and PNG files, each at its own size.

        Images of other than three bands are PNGs as in the records, see `decoding`.

        Each image is shrunk, never enlarged, to fit into the serving size [h, w], and padded at
        the bottom and right; its labels are resized back by nearest neighbour.

        Returns:
            `mask_png_bytes`, string [N], grey PNGs of class ids of 8 bits (16 above 256 classes);
            `height` and `width`, int32 [N], of the image and the mask; on demand `probabilities`,
            float32 [N, h, w, num_classes], and `confidence`, float32 [N, h, w], with
            `fitted_height` and `fitted_width`, int32 [N], the part of h and w that is image.
        """
        images, placements = self._fit_all(image_bytes)
        labels, extra = self._segment(images)
        masks = tf.map_fn(
            lambda of_one: self._mask_png(*of_one),
            (labels, placements),
            fn_output_signature=tf.string,
            parallel_iterations=_IMAGES_AT_A_TIME,
        )
        if extra:
            fitted_height, fitted_width = tf.unstack(placements.seen_size, axis=1)
            extra |= {"fitted_height": fitted_height, "fitted_width": fitted_width}
        height, width = tf.unstack(placements.own_size, axis=1)
        return {"mask_png_bytes": masks, "height": height, "width": width} | extra

    @tf.function(input_signature=[EXAMPLES], autograph=False)
    def tf_example(self, examples):
        """As `serving_bytes`, for serialized `tf.train.Example`s as the records hold them."""
        features = {EXAMPLE_KEY: tf.io.FixedLenFeature([], tf.string)}
        return self.serving_bytes(tf.io.parse_example(examples, features)[EXAMPLE_KEY])

    def _labels_and_more(self, images):
        """Labels [N, H, W] of images, and a dict of the other outputs."""
        scores = self.logits(images)
        if self._crf_parameters is not None:
            scores = dense_crf_graph(
                self._displayed(images), tf.nn.softmax(scores), **self._crf_parameters
            )
        labels = tf.argmax(scores, axis=-1, output_type=tf.int32)
        extra = {}
        if self._config.with_probabilities or self._config.with_confidence:
            probabilities = tf.nn.softmax(scores) if self._crf_parameters is None else scores
            if self._config.with_probabilities:
                extra["probabilities"] = probabilities
            if self._config.with_confidence:
                extra["confidence"] = tf.reduce_max(probabilities, axis=-1)
        return tf.cast(labels, self._label_dtype), extra

    def _fit_all(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, Placement]:
        """Decodes and fits images; the error for a broken one names its position.

        Returns:
            Images, uint8 [N, h, w, in_channels]; and their placements, int32 [N, 2] each.
        """
        # A graph cannot catch the errors of a decoder, which do not tell whose bytes are broken.
        # A dataset leaves out what fails; the gap in the positions shows what is missing.
        count = tf.size(image_bytes)
        fitted = (
            tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
            .map(
                lambda position, one: (position, *self._fit(one)),
                num_parallel_calls=_IMAGES_AT_A_TIME,
            )
            .ignore_errors(log_warning=True)
        )
        # `get_single_element` needs an element even where all fail or there are none.
        no_size = tf.zeros([2], tf.int32)
        no_image = tf.zeros([*self._size, self._in_channels], tf.uint8)
        nothing = (count, no_image, Placement(no_size, no_size))
        fitted = fitted.concatenate(tf.data.Dataset.from_tensors(nothing))
        positions, *results = fitted.batch(tf.cast(count, tf.int64) + 1).get_single_element()
        is_next = tf.cast(positions == tf.range(tf.size(positions)), tf.int32)
        wanted = "JPEG or PNG files of 8 bits per channel"
        if self._in_channels != 3:
            wanted = f"grey PNG files with {self._in_channels} bands one below the other, of 8 bits"
        message = tf.strings.format(
            "The image at position {} (the first is 0) cannot be decoded: give whole "
            f"{wanted} and at most {self._config.max_image_pixels} pixels.",
            tf.reduce_sum(is_next),
        )
        with tf.control_dependencies([tf.debugging.Assert(tf.size(positions) > count, [message])]):
            return tf.nest.map_structure(lambda result: result[:count], tuple(results))

    def _fit(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, Placement]:
        """A decoded image in the serving size, uint8 [h, w, in_channels], and its placement."""
        # By the header, before a few bytes become gigabytes of pixels.
        problem = decoding.image_problem_in_graph(
            image_bytes, self._config.max_image_pixels, self._in_channels
        )
        with tf.control_dependencies([tf.debugging.Assert(problem == "", [problem])]):
            image = transforms.decode(image_bytes, self._in_channels)
            images, placement = self._fitter.fit(image[tf.newaxis])
            return tf.cast(images[0] + 0.5, tf.uint8), placement

    def _displayed(self, images: tf.Tensor) -> tf.Tensor:
        """The images in RGB, uint8 [N, H, W, 3]."""
        if not self._dataset.bands:
            return images
        return tf.gather(images, [number - 1 for number in self._dataset.rgb_bands], axis=-1)

    def _mask_png(self, labels: tf.Tensor, placement: Placement) -> tf.Tensor:
        """The labels of a fitted image, [h, w], as a PNG of the image's own size."""
        (mask,) = tf.unstack(self._fitter.undo(labels[tf.newaxis], placement), num=1)
        return tf.io.encode_png(mask[..., tf.newaxis])
