"""The datasets that can be built."""

# Every dataset NAME is a folder with a TFDS builder: datasets/NAME/NAME_dataset_builder.py.
DATASETS = (
    "shapes",
    "camvid",
    "voc2012",
    "cityscapes",
    "ade20k",
    "coco_stuff",
    "pascal_context",
    "mapillary_vistas",
    "folder",
)
