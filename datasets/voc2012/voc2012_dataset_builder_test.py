"""Tests the builder of `voc2012` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.voc2012 import voc2012_dataset_builder


class Voc2012Test(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = voc2012_dataset_builder.Builder
    SPLITS = {"train": 2, "val": 1, "trainval": 3, "train_aug": 3}
    OVERLAPPING_SPLITS = ["trainval", "train_aug"]
