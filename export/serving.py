"""The function that is served: pictures in, labels at the pictures' own size out."""

import json
import os

import keras
import tensorflow as tf

from deeplab_tf import inference
from deeplab_tf import run_dir as run_dirs
from deeplab_tf.crf.graph import dense_crf_graph

PICTURES = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")


class ServingModule(tf.Module):
    """A segmentation model with everything that it needs outside of Python.

    Attributes:
        labels_file: Asset with one class name per line, in the order of the ids.
        palette_file: Asset with the RGB colour of every class and the ignore label, as JSON.
    """

    def __init__(
        self,
        model: keras.Model,
        run: run_dirs.Run,
        assets_folder: str,
        crf_parameters: dict | None = None,
    ):
        """Wraps a model.

        Args:
            model: The run's model.
            run: Tells how pictures reach the network, and the classes' names and colours.
            assets_folder: Where the assets are written, to be copied from when the module is
                saved.
            crf_parameters: Arguments of `dense_crf`, which then refines the served labels; None
                for no CRF.
        """
        super().__init__(name="deeplab")
        # The model hides in a function, so that only its variables are saved and not its layers.
        self._predict_logits = lambda images: inference.predict_logits(
            model, images, run.model_config, run.data_config
        )
        self._crf_parameters = crf_parameters
        self.model_variables = [variable.value for variable in model.variables]
        dataset = run.dataset
        self._label_dtype = tf.uint8 if dataset.num_classes <= 256 else tf.uint16

        labels_path = os.path.join(assets_folder, "labels.txt")
        with open(labels_path, "w", encoding="utf-8") as file:
            file.writelines(name + "\n" for name in dataset.class_names)
        self.labels_file = tf.saved_model.Asset(labels_path)
        palette_path = os.path.join(assets_folder, "palette.json")
        with open(palette_path, "w", encoding="utf-8") as file:
            json.dump({"colors": dataset.colors, "ignore_label": dataset.ignore_label}, file)
        self.palette_file = tf.saved_model.Asset(palette_path)

    @tf.function(input_signature=[PICTURES], autograph=False)
    def logits(self, images):
        """Logits at the pictures' own size, float32 [N, H, W, num_classes]."""
        return self._predict_logits(images)

    @tf.function(input_signature=[PICTURES], autograph=False)
    def serving_default(self, images):
        """Class ids at the pictures' own size, uint8 (uint16 above 256 classes) [N, H, W]."""
        scores = self.logits(images)
        if self._crf_parameters is not None:
            scores = dense_crf_graph(images, tf.nn.softmax(scores), **self._crf_parameters)
        labels = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return {"labels": tf.cast(labels, self._label_dtype)}
