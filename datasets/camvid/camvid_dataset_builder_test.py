"""Tests the builder of `camvid` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.camvid import camvid_dataset_builder


class CamVidTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = camvid_dataset_builder.Builder
    SPLITS = {"train": 2, "val": 1}
