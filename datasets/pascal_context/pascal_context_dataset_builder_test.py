"""Tests the builder of `pascal_context` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.pascal_context import pascal_context_dataset_builder


class PascalContextTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = pascal_context_dataset_builder.Builder
    SPLITS = {"train": 1, "val": 1}
