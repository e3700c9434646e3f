"""GeoTIFFs from a folder of own data to label GeoTIFFs."""

import contextlib
import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from conftest import TINY_MODEL
from conftest import write_run_as_if_trained
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import EvalConfig
from deeplab_tf.config import PredictConfig
from deeplab_tf.data import band_files
from deeplab_tf.data import bands
from deeplab_tf.data import own_data
from deeplab_tf.data import records
from deeplab_tf.drawing import geotiffs as label_geotiffs
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import geotiffs
from deeplab_tf.evaluation import labelling
from deeplab_tf.evaluation import views
from deeplab_tf.evaluation.inference import Inference

rasterio = pytest.importorskip("rasterio", reason="GeoTIFFs need the extra `geo`")

pytestmark = pytest.mark.usefixtures("short_network")

NAMES = ("B2", "B3", "B4", "B8")
MODEL = dataclasses.replace(TINY_MODEL, num_classes=2)
BANDS = tuple(bands.Band(number, name, 0, 3000) for number, name in enumerate(NAMES, start=1))
DATASET = records.DatasetInfo(
    "fields", ("soil", "crop"), ((0, 0, 0), (0, 200, 0)), 255, BANDS, (3, 2, 1)
)
TRANSFORM = rasterio.transform.from_origin(500_000, 5_500_000, 10, 10)


def draw(num_bands: int, height: int, width: int, dtype=np.uint16) -> np.ndarray:
    """Noise in squares, [bands, H, W], whose first rows hold 0."""
    size = (num_bands, -(-height // 8), -(-width // 8))
    coarse = np.random.default_rng(0).integers(1, 3000 if dtype == np.uint16 else 255, size)
    image = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width].astype(dtype)
    image[:, :5] = 0
    return image


def write_geotiff(path, image: np.ndarray, names=(), **profile) -> None:
    """Writes [bands, H, W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    profile = {"crs": "EPSG:32633", "transform": TRANSFORM} | profile
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=image.dtype,
        **profile,
    ) as file:  # fmt: skip
        file.write(image)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> str:
    """A run on four bands."""
    folder = str(tmp_path_factory.mktemp("run"))
    data_config = DataConfig(train_crop_size=(65, 65))
    write_run_as_if_trained(folder, MODEL, data_config, DATASET)
    return folder


def read(path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_a_geotiff_gets_a_label_geotiff_that_lies_where_it_lies(run_dir, tmp_path):
    write_geotiff(tmp_path / "field.tif", draw(4, 70, 90), nodata=0)
    (output,) = labelling.predict(run_dir, str(tmp_path / "field.tif"), str(tmp_path / "out"))
    assert output == str(tmp_path / "out" / "field.tif")
    with rasterio.open(output) as file:
        assert file.crs == "EPSG:32633" and file.transform == TRANSFORM
        assert file.nodata == 255 and file.dtypes == ("uint8",)
        assert file.colormap(1)[1][:3] == (0, 200, 0)
        assert json.loads(file.tags()["class_names"]) == ["soil", "crop"]
        labels = file.read(1)
    assert (labels[:5] == 255).all() and set(np.unique(labels[5:])) == {0, 1}
    assert Image.open(tmp_path / "out" / "field_overlay.png").size[0] >= 90


def test_windows_give_the_labels_that_the_whole_image_gets_in_windows(run_dir, tmp_path):
    path = tmp_path / "field.tif"
    write_geotiff(path, draw(4, 150, 170), nodata=0)
    inference = Inference(eval_config=EvalConfig(window_size=(65, 81)))
    (output,) = labelling.predict(
        run_dir, str(path), str(tmp_path / "windows"), inference=inference
    )
    label_of = inference.label_function(labelling.run_dirs.read(run_dir))
    expected = label_of(band_files.read_image(path, DATASET))
    expected[:5] = 255
    np.testing.assert_array_equal(read(output), expected)


def test_the_windows_of_a_large_image_are_read_one_after_the_other(tmp_path):
    path = tmp_path / "scene.tif"
    write_geotiff(path, np.full((4, 2000, 3000), 1500, np.uint16), compress="deflate")
    with band_files.open_bands(path) as file:
        image = geotiffs.WindowedImage(file, DATASET)
        assert image.shape == (2000, 3000, 4)
        tracemalloc.start()
        for top in range(0, 2000, 100):
            assert (image[top : top + 100, 0:100] == 128).all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * 2000 * 3000  # a sixth of the image


def test_larger_images_are_labelled_in_windows_by_themselves(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(views, "MAX_WHOLE_PIXELS", 1000)
    shapes = []
    getitem = geotiffs.WindowedImage.__getitem__
    monkeypatch.setattr(
        geotiffs.WindowedImage,
        "__getitem__",
        lambda self, window: shapes.append(getitem(self, window).shape) or getitem(self, window),
    )
    write_geotiff(tmp_path / "field.tif", draw(4, 100, 130))
    labelling.predict(run_dir, str(tmp_path / "field.tif"), str(tmp_path / "out"))
    assert set(shapes) == {(65, 65, 4)}
    # What needs all probabilities of an image is computed of all of it.
    labelling.predict(
        run_dir, str(tmp_path / "field.tif"), str(tmp_path / "whole"),
        predict_config=PredictConfig(save_confidence=True),
    )  # fmt: skip
    labelling.predict(
        run_dir, str(tmp_path / "field.tif"), str(tmp_path / "crf"),
        inference=Inference(crf_config=CrfConfig(crf="v1", crf_iterations=1)),
    )  # fmt: skip
    assert (tmp_path / "whole" / "field_confidence.png").exists()
    assert read(tmp_path / "crf" / "field.tif").shape == (100, 130)


def test_an_rgb_run_labels_geotiffs_too(tiny_run_dir, tmp_path):
    write_geotiff(tmp_path / "ortho.tif", draw(3, 70, 90, np.uint8), nodata=0, photometric="rgb")
    paths = [
        labelling.predict(
            tiny_run_dir, str(tmp_path / "ortho.tif"), str(tmp_path / name), inference=inference
        )[0]
        for name, inference in {
            "whole": Inference(),
            "windows": Inference(eval_config=EvalConfig(window_size=(513, 513))),
        }.items()
    ]
    whole, windows = map(read, paths)
    np.testing.assert_array_equal(whole, windows)
    assert (whole[:5] == 255).all() and (whole[5:] < 255).any()


@pytest.mark.parametrize("display_bands", [(1, 2, 5), (1, 2)])
def test_bands_to_display_are_checked(display_bands, run_dir, tmp_path):
    write_geotiff(tmp_path / "field.tif", draw(4, 70, 90))
    with pytest.raises(UserError, match="display_bands"):
        labelling.predict(
            run_dir, str(tmp_path / "field.tif"), str(tmp_path / "out"),
            predict_config=PredictConfig(display_bands=display_bands),
        )  # fmt: skip


def test_an_image_without_the_bands_is_named_and_skipped(run_dir, tmp_path):
    write_geotiff(tmp_path / "field.tif", draw(3, 70, 90))
    with pytest.raises(UserError, match="field.tif has 3 bands, but the bands 1, 2, 3, 4 are"):
        labelling.predict(run_dir, str(tmp_path / "field.tif"), str(tmp_path / "out"))


def test_own_geotiffs_give_records_of_their_bands(tmp_path):
    for index in range(2):
        write_geotiff(
            tmp_path / "images" / f"{index}.tif", draw(4, 40 + index, 50), NAMES, nodata=0
        )
        label = np.ones((1, 40 + index, 50), np.uint8)
        label[:, :20] = 0
        write_geotiff(tmp_path / "masks" / f"{index}.tif", label)
    data = own_data.find_own_data(tmp_path, own_data.OwnDataOptions(val_share=0))
    assert [band.name for band in data.info.bands] == list(NAMES)
    assert data.info.rgb_bands == (3, 2, 1)
    source, label = data.read(data.splits["train"][0])
    assert source.num_channels == 4
    assert (label[:5] == 255).all() and (label[5:20] == 0).all() and (label[20:] == 1).all()


def test_a_damaged_geotiff_is_named(tmp_path):
    path = tmp_path / "field.tif"
    write_geotiff(path, draw(4, 70, 90))
    path.write_bytes(path.read_bytes()[:2000])
    dataset = dataclasses.replace(DATASET)
    with pytest.raises(UserError, match="field.tif is damaged"):
        band_files.read_image(path, dataset)


def test_a_fourth_band_that_is_marked_as_opacity_is_reported(tmp_path):
    for index in range(2):
        write_geotiff(tmp_path / "images" / f"{index}.tif", draw(4, 40 + index, 50, np.uint8))
        label = np.arange(2000 + 50 * index, dtype=np.uint8).reshape(1, -1, 50) % 2
        write_geotiff(tmp_path / "masks" / f"{index}.tif", label)
    data = own_data.find_own_data(tmp_path, own_data.OwnDataOptions(val_share=0))
    assert data.info.num_channels == 3
    assert any("--bands=1,2,3,4" in note for note in data.notes)


def test_a_geotiff_with_a_palette_is_labelled_in_its_colours(tiny_run_dir, tmp_path):
    path = tmp_path / "map.tif"
    write_geotiff(path, draw(1, 70, 90, np.uint8) % 2)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (20, 90, 160, 255), 1: (220, 40, 90, 255)})
    colors = np.array([(20, 90, 160), (220, 40, 90)], np.uint8)
    Image.fromarray(colors[read(path)]).save(tmp_path / "map.png")
    of_map, of_colors = (
        labelling.predict(tiny_run_dir, str(file), str(tmp_path / file.suffix[1:]))[0]
        for file in (path, tmp_path / "map.png")
    )
    np.testing.assert_array_equal(read(of_map), np.asarray(Image.open(of_colors)))


def test_the_small_overlay_is_read_without_the_whole_label_map(tmp_path, monkeypatch):
    write_geotiff(tmp_path / "field.tif", draw(4, 100, 160))
    output = str(tmp_path / "labels.tif")
    with contextlib.closing(band_files.RasterFile(tmp_path / "field.tif")) as source:
        label_geotiffs.write(
            output,
            source,
            [(slice(0, 100), np.tile(np.arange(160) // 80, (100, 1)))],
            class_names=DATASET.class_names,
            colors=DATASET.colors,
            ignore_label=255,
        )
    monkeypatch.setattr(band_files, "_of_picture", None)  # which decodes all of an image
    small = label_geotiffs.read_small(output, 40)
    assert small.shape == (25, 40)
    np.testing.assert_array_equal(small, np.tile(np.arange(40) // 20, (25, 1)))
