"""Tests the builder of `mapillary_vistas` in the way of TFDS, on images drawn for it."""

import tensorflow_datasets as tfds

from deeplab_tf.datasets.mapillary_vistas import mapillary_vistas_dataset_builder


class MapillaryVistasTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = mapillary_vistas_dataset_builder.Builder
    SPLITS = {"train": 2, "val": 1}
