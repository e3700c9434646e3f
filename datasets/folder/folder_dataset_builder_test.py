"""Tests the builder of `folder` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.folder import folder_dataset_builder


class FolderTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = folder_dataset_builder.Builder
    SPLITS = {"train": 2, "val": 1}
