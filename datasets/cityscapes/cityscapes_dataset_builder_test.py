"""Tests the builder of `cityscapes` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.cityscapes import cityscapes_dataset_builder


class CityscapesTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = cityscapes_dataset_builder.Builder
    SPLITS = {
        "train_fine": 1,
        "val_fine": 1,
        "trainval_fine": 2,
        "train_coarse": 2,
        "trainval_coarse": 3,
        "test_fine": 1,
    }
    OVERLAPPING_SPLITS = ["trainval_fine", "train_coarse", "trainval_coarse"]
