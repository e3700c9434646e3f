"""The weights that a new run starts from."""

import keras

from deeplab_tf import models
from deeplab_tf.config import TrainConfig
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.weights import tf1_checkpoint


def load(model: keras.Model, config: TrainConfig) -> tf1_checkpoint.ImportReport:
    """Fills a model from official weights, of a whole model or a backbone, or from another run.

    Args:
        model: The model.
        config: Its `tf_initial_checkpoint` says where the weights are.

    Returns:
        What was loaded, skipped and not used.

    Raises:
        UserError: The weights do not exist, are damaged, or do not fit.
    """
    path = config.tf_initial_checkpoint
    if run_dirs.is_run_dir(path):
        trained = run_dirs.load_model(run_dirs.read(path))
        return tf1_checkpoint.copy_weights(model, trained, path, config.skip_mismatched)
    if tf1_checkpoint.is_backbone_checkpoint(path):
        model = models.backbone_of(model)
    return tf1_checkpoint.load_tf1_checkpoint(model, path, config.skip_mismatched)
