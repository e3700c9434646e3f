"""Weights from any source: a run dir, a `.keras` file, or a checkpoint of the original."""

from collections.abc import Sequence

import keras

from deeplab_tf import models
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import saved_models
from deeplab_tf.weights import fully_connected
from deeplab_tf.weights import tf1_checkpoint


def fill(
    model: keras.Model,
    source: str,
    *,
    skip_mismatched: bool = False,
    allow_backbone: bool = False,
    rgb_bands: Sequence[int] = (),
) -> tf1_checkpoint.ImportReport:
    """Fills a model with trained weights.

    Args:
        model: A whole model.
        source: A run dir, whose best weights are taken; a `.keras` file; or a checkpoint of the
            original, see `load_tf1_checkpoint`.
        skip_mismatched: Whether to leave variables unchanged that the source lacks or has in
            another shape.
        allow_backbone: Whether the checkpoint may be of a backbone alone, such as those trained on
            ImageNet. The head then stays unchanged, except for the fc6 and fc7 of v1 and v2, which
            are taken from the fully connected layers of VGG-16.
        rgb_bands: Numbers, from 1, of the bands that get the weights of red, green and blue in a
            model for images of other than three channels; by default the first three.

    Returns:
        What was loaded, skipped and not used.

    Raises:
        UserError: The weights do not exist, are damaged, or do not fit.
    """
    if run_dirs.is_run_dir(source) or source.endswith(".keras"):
        trained = saved_models.load_model(source)
        return tf1_checkpoint.copy_weights(
            model, trained, source, skip_mismatched, rgb_bands=rgb_bands
        )
    with tf1_checkpoint.opened(source) as values:
        if not (allow_backbone and tf1_checkpoint.is_of_backbone(values)):
            return tf1_checkpoint.fill(model, values, skip_mismatched, rgb_bands=rgb_bands)
        backbone = models.backbone_of(model)
        report = tf1_checkpoint.fill(backbone, values, skip_mismatched, rgb_bands=rgb_bands)
        return report.with_subsampled(fully_connected.fill(model, values), values.shapes)
