"""Tests the builder of `coco_stuff` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.coco_stuff import coco_stuff_dataset_builder


class CocoStuffTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = coco_stuff_dataset_builder.Builder
    SPLITS = {"train": 2, "val": 1}
