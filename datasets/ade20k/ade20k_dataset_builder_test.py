"""Tests the builder of `ade20k` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.ade20k import ade20k_dataset_builder


class Ade20kTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = ade20k_dataset_builder.Builder
    SPLITS = {"train": 2, "val": 1}
