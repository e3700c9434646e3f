"""TFDS builder of Mapillary Vistas, whose config files name its classes."""

import pathlib

import tensorflow_datasets as tfds

from deeplab_tf import files
from deeplab_tf.data import records
from deeplab_tf.data.json_fields import JsonObject
from deeplab_tf.datasets import segmentation
from deeplab_tf.datasets import source_files
from deeplab_tf.errors import UserError

# Config file and label folder of every release, in the order of preference: research reports v1.2,
# and both that and v2.0 come in one archive. The last line is what v1.1 and older look like.
RELEASES = {
    "config_v1.2.json": "v1.2/labels",
    "config_v2.0.json": "v2.0/labels",
    "config.json": "labels",
}
_LAST = "void--unlabeled"
SPLITS = {"train": "training", "val": "validation"}

LAYOUT = """Mapillary Vistas is expected in --manual_dir as it unpacks:
  config_v1.2.json  config_v2.0.json
  {training,validation}/images/         --0CrmVhjzKgrUqXqh8qCQ.jpg, ...
  {training,validation}/v1.2/labels/    --0CrmVhjzKgrUqXqh8qCQ.png, ...: ids, in the config's order
  {training,validation}/v2.0/labels/    the same with more classes; built if v1.2 is not there
(older releases: config.json and {training,validation}/labels/). A split without its folders is left
out. Register at https://www.mapillary.com/dataset/vistas"""


class Builder(segmentation.SegmentationBuilder):
    """Street scenes of all continents; 65 classes in release v1.2, 123 in v2.0."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Releases v1.2, v2.0 and older ones."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = LAYOUT

    def _info(self) -> tfds.core.DatasetInfo:
        # The classes are not known yet.
        return self.dataset_info(homepage="https://www.mapillary.com/dataset/vistas")

    def _pairs(self, root: pathlib.Path) -> dict[str, list[source_files.Pair]]:
        for config, label_folder in RELEASES.items():
            pairs = _pairs_of_release(root, label_folder)
            if pairs and (root / config).is_file():
                names, colors = _read_classes(root / config)
                self.info.metadata.update(
                    class_names=names,
                    colors=colors,
                    ignore_label=len(names),  # Unlabeled, the last of the ids
                )
                return pairs
        raise UserError(f"No release of Mapillary Vistas is complete in {root}.\n{LAYOUT}")


def _pairs_of_release(root: pathlib.Path, label_folder: str) -> dict[str, list[source_files.Pair]]:
    found = {
        split: source_files.pairs_of_folders(root / folder / "images", root / folder / label_folder)
        for split, folder in SPLITS.items()
    }
    return {split: listed for split, listed in found.items() if listed}


def _read_classes(config: pathlib.Path) -> tuple[list[str], list[list[int]]]:
    """Returns names and colours in the order of the ids, without the last, Unlabeled."""
    remedy = "Take the file as it was distributed; its order says what the ids mean."
    fields = JsonObject(files.read_json(config, "class list"), str(config), remedy)
    *classes, last = fields.objects("labels", records.MAX_CLASSES) or [fields]
    if last.text("name") != _LAST:
        raise fields.error("the last of labels", last.text("name"), _LAST)
    return (
        [entry.text("readable") for entry in classes],
        [entry.color("color") for entry in classes],
    )
