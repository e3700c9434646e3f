"""Images of other bands than RGB: from files of every kind to records, batches and predictions."""

import dataclasses
import json
import pathlib

import cv2
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab_tf import fast
from deeplab_tf.config import DataConfig
from deeplab_tf.data import augmentations
from deeplab_tf.data import band_files
from deeplab_tf.data import bands
from deeplab_tf.data import decoding
from deeplab_tf.data import image_files
from deeplab_tf.data import input_pipeline
from deeplab_tf.data import own_data
from deeplab_tf.data import records
from deeplab_tf.data import training_data
from deeplab_tf.data import transforms
from deeplab_tf.data.own_bands import BandOptions
from deeplab_tf.data.problems import DataProblem
from deeplab_tf.data.tiles import TileOptions
from deeplab_tf.datasets import building
from deeplab_tf.errors import UserError

HEIGHT, WIDTH = 21, 33


def values(num_bands: int, dtype=np.uint16, seed: int = 0) -> np.ndarray:
    """An image [H, W, N] in which every band lies in a range of its own."""
    random = np.random.default_rng(seed).uniform(0, 1, (HEIGHT, WIDTH, num_bands))
    if dtype == np.uint8:
        return (255 * random).astype(dtype)
    return (1000 * (1 + np.arange(num_bands)) + 500 * random).astype(dtype)


def write_folder(root: pathlib.Path, images: dict[str, np.ndarray]) -> pathlib.Path:
    """Arrays in images/, and label PNGs of two classes in labels/."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for name, image in images.items():
        np.save(root / "images" / f"{name}.npy", image)
        label = (np.add.outer(np.arange(image.shape[0]), np.arange(image.shape[1])) % 7 > 3) * 1
        assert cv2.imwrite(str(root / "labels" / f"{name}.png"), label.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def five_bands(tmp_path_factory) -> records.Records:
    """Records of six images of five bands in 16 bits."""
    images = {f"field_{index}": values(5, seed=index) for index in range(6)}
    root = write_folder(tmp_path_factory.mktemp("raw"), images)
    return building.build("folder", tmp_path_factory.mktemp("records"), root, num_shards=1)


@pytest.mark.parametrize("num_bands", [1, 2, 4, 5, 13])
def test_bands_are_kept_without_loss_and_decoded_alike_in_and_out_of_graphs(num_bands):
    image = values(num_bands, np.uint8)
    content = decoding.encode_bands(image)
    for decode in (decoding.decode_image, decoding.decode_image_strictly):
        np.testing.assert_array_equal(decode(content, HEIGHT * WIDTH, num_bands), image)
    assert decoding.image_problem_in_graph(tf.constant(content), HEIGHT * WIDTH, num_bands) == ""
    np.testing.assert_array_equal(transforms.decode(content, num_bands), image)


@pytest.mark.parametrize(
    "content",
    [
        decoding.encode_bands(values(3, np.uint8)),
        decoding.encode_bands(values(5, np.uint8)),
        cv2.imencode(".jpg", values(3, np.uint8))[1].tobytes(),
        cv2.imencode(".png", np.zeros((4 * HEIGHT, WIDTH), np.uint16))[1].tobytes(),
    ],
    ids=["RGB", "five bands", "JPEG", "16 bits"],
)
def test_what_is_not_of_as_many_bands_is_refused_in_and_out_of_graphs(content):
    with pytest.raises(DataProblem, match="grey PNG of 8 bits with 4 bands"):
        decoding.decode_image(content, HEIGHT * WIDTH, 4)
    told = decoding.image_problem_in_graph(tf.constant(content), HEIGHT * WIDTH, 4)
    assert b"with 4 bands" in told.numpy()


@pytest.mark.parametrize("num_bands", [1, 2, 5])
def test_the_fast_crop_of_bands_is_the_crop_of_the_graph(num_bands):
    pytest.importorskip("numba")
    from deeplab_tf.data import fast_crop

    crop = transforms.TrainingCrop((17, 25), 255, pad_pixel=tuple(range(num_bands)))
    image, label = values(num_bands, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    in_graph = tf.function(crop)
    for seed in range(10):
        draws = np.random.default_rng(seed).integers(-(2**31), 2**31 - 1, crop.num_draws, np.int32)
        expected = in_graph({"image": image, "label": label}, draws)["image"].numpy()
        cut = fast_crop.crop_example(image, label, draws, crop)[0]
        assert np.abs(cut.astype(int) - expected).max() <= 1


def test_records_keep_the_number_of_bands_and_how_they_were_scaled(five_bands):
    info = five_bands.info
    assert info.num_channels == 5 and info.rgb_bands == (1, 2, 3)
    for index, band in enumerate(info.bands):
        first = 1000 * (index + 1)
        assert band.number == index + 1
        assert first <= band.low < first + 10 and first + 490 < band.high <= first + 500
    (shard,) = five_bands.shards("train")
    for serialized in tf.data.TFRecordDataset(shard).as_numpy_iterator():
        feature = tf.train.Example.FromString(serialized).features.feature
        sizes = {key: feature[f"image/{key}"].int64_list.value[:] for key in ("height", "channels")}
        assert sizes == {"height": [HEIGHT], "channels": [5]}
        image = decoding.decode_image(feature["image/encoded"].bytes_list.value[0], 10**4, 5)
        name = feature["image/filename"].bytes_list.value[0].decode()
        original = values(5, seed=int(name[-1]))
        np.testing.assert_array_equal(image, bands.to_8_bits(original, info.bands))
    assert records.DatasetInfo.from_json(info.to_json()) == info


@pytest.mark.parametrize("has_numba", [True, False])
def test_training_batches_and_evaluation_examples_have_all_bands(
    has_numba, five_bands, monkeypatch
):
    if has_numba:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(fast, "load", lambda name: None)
    config = DataConfig(
        data_dir=five_bands.folder, train_crop_size=(17, 17), brightness=0.2, contrast=0.2,
        max_blur_sigma=1.0, max_rotation=5.0,
    )  # fmt: skip
    batches = training_data.make_batches(
        [five_bands], config, batch_size=2, pad_pixel=(127.5,) * 5, seed=0, start_step=0
    )
    batch = next(batches.as_numpy_iterator())
    assert batch["image"].shape == (2, 17, 17, 5) and batch["image"].std(axis=(0, 1, 2)).min() > 9
    example = next(input_pipeline.evaluation_examples(five_bands, "val").as_numpy_iterator())
    assert example["image"].shape == (HEIGHT, WIDTH, 5)


def test_contrast_of_bands_is_about_the_mean_of_each():
    image = tf.constant(np.tile(np.float32([[[10.0, 200.0]], [[30.0, 220.0]]]), [1, 3, 1]))
    flat = augmentations.adjust_bands(image, 1.0, 0.0)
    np.testing.assert_allclose(flat, np.broadcast_to([20.0, 210.0], flat.shape))
    np.testing.assert_allclose(augmentations.adjust_bands(image, 1.0, 1.0), image)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"saturation": 0.2}, "--saturation=0.2 is for RGB images"),
        ({"hue": 0.1}, "--hue=0.1 is for RGB images"),
    ],
)
def test_augmentation_of_colours_is_refused_for_bands(settings, message, five_bands):
    config = DataConfig(data_dir=five_bands.folder, **settings)
    with pytest.raises(UserError, match=message):
        training_data.find_training_records(config, None)


def test_a_model_of_another_number_of_channels_is_refused(five_bands):
    config = DataConfig(data_dir=five_bands.folder)
    with pytest.raises(UserError, match=r"--in_channels=3.*images of 5.*leave out --in_channels"):
        training_data.find_training_records(config, None, in_channels=3)


def test_records_of_another_scaling_are_refused_with_the_flag_that_mends_it(five_bands):
    ranges = tuple(bands.Band(band.number, band.name, 0, 9000) for band in five_bands.info.bands)
    trained_on = dataclasses.replace(five_bands.info, bands=ranges)
    with pytest.raises(UserError, match="--band_range=0,9000,0,9000,0,9000,0,9000,0,9000"):
        training_data.check_bands(five_bands, trained_on)


def find(root, **options) -> own_data.OwnData:
    return own_data.find_own_data(root, own_data.OwnDataOptions(val_share=0, **options))


def test_bands_can_be_chosen_and_scaled_by_hand(tmp_path):
    root = write_folder(tmp_path, {"a": values(4)})
    data = find(root, bands=BandOptions(numbers=(4, 2), ranges=(0, 5100), rgb=(1, 1, 2)))
    assert [band.number for band in data.info.bands] == [4, 2] and data.info.rgb_bands == (1, 1, 2)
    (image,) = data.splits["train"]
    expected = np.round(values(4)[..., [3, 1]] / 20)
    np.testing.assert_allclose(data.read(image)[0].pixels(), expected, atol=1)


@pytest.mark.parametrize(
    "images, options, message",
    [
        ({"a": values(4), "b": values(5)}, {}, r"different bands.*a.npy has 4.*--bands=1,2,3,4\."),
        (
            {"a": values(4), "b": values(4, np.float32)},
            {},
            "different kinds of values.*--band_range=LOW,HIGH",
        ),
        ({"a": values(4)}, {"numbers": (1, 5)}, "--bands asks for band 5, but .*a.npy has 4"),
        ({"a": values(4)}, {"ranges": (0, 1, 0, 2)}, "2 pairs for 4 bands"),
        ({"a": values(4)}, {"rgb": (1, 2, 5)}, "--rgb_bands=1,2,5 must be three numbers"),
    ],
)
def test_bands_that_do_not_fit_are_refused(images, options, message, tmp_path):
    root = write_folder(tmp_path, images)
    with pytest.raises(UserError, match=message):
        find(root, bands=BandOptions(**options))


def test_bytes_stay_as_they_are_and_floats_without_a_number_are_no_data(tmp_path):
    data = find(write_folder(tmp_path / "bytes", {"a": values(6, np.uint8)}))
    (image,) = data.splits["train"]
    np.testing.assert_array_equal(data.read(image)[0].pixels(), values(6, np.uint8))
    floats = values(6, np.float32)
    floats[:3] = np.nan
    data = find(write_folder(tmp_path / "floats", {"a": floats}))
    (image,) = data.splits["train"]
    source, label = data.read(image)
    assert (label[:3] == 255).all() and label[3:].max() == 1
    assert (source.pixels()[:3] == bands.NODATA_LEVEL).all()


def test_a_stack_of_pages_is_an_image_of_bands(tmp_path):
    pages = [PIL.Image.fromarray(page) for page in np.moveaxis(values(4), -1, 0)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert band_files.has_bands(tmp_path / "a.tif")
    with band_files.open_bands(tmp_path / "a.tif") as file:
        found, is_nodata = file.read(*band_files.whole(file), (1, 2, 3, 4))
    np.testing.assert_array_equal(found, values(4))
    assert is_nodata is None


def test_images_of_more_values_than_fit_into_memory_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch
):
    pages = [PIL.Image.fromarray(page) for page in np.moveaxis(values(4), -1, 0)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.savez(tmp_path / "a.npz", values(4))
    monkeypatch.setattr(image_files, "_MAX_VALUES", 3 * WIDTH * HEIGHT)
    for name in ("a.tif", "a.npz"):
        with pytest.raises(UserError, match=rf"{name} has 33x21 pixels in 4 bands, .*GeoTIFF"):
            with band_files.open_bands(tmp_path / name):
                pass


def test_ordinary_tiffs_have_no_bands(tmp_path):
    for mode, name in (("RGB", "rgb"), ("RGBA", "rgba"), ("L", "grey"), ("P", "palette")):
        path = tmp_path / f"{name}.tif"
        PIL.Image.new(mode, (8, 6)).save(path)
        assert not band_files.has_bands(path), mode


def test_opacity_becomes_a_band_when_it_is_asked_for(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    PIL.Image.fromarray(values(4, np.uint8), "RGBA").save(tmp_path / "images" / "a.png")
    PIL.Image.fromarray((values(1, np.uint8)[..., 0] > 99) * np.uint8(255)).save(
        tmp_path / "masks" / "a.png"
    )
    (image,) = find(tmp_path).splits["train"]
    assert find(tmp_path).read(image)[0].num_channels == 3
    data = find(tmp_path, bands=BandOptions(numbers=(1, 2, 3, 4)))
    (image,) = data.splits["train"]
    np.testing.assert_array_equal(data.read(image)[0].pixels(), values(4, np.uint8))


def test_tiles_of_an_image_are_in_one_split_and_cover_it(tmp_path):
    images = {f"scene_{index}": values(5, seed=index) for index in range(4)}
    options = own_data.OwnDataOptions(val_share=0.25, tiles=TileOptions((16, 16), 0.25))
    data = own_data.find_own_data(write_folder(tmp_path, images), options)
    scenes = {
        split: {tile.name[:7] for tile in own_tiles} for split, own_tiles in data.splits.items()
    }
    assert len(scenes["train"]) == 3 and len(scenes["val"]) == 1
    assert not scenes["train"] & scenes["val"]
    whole = find(tmp_path)
    for scene in whole.splits["train"]:
        source, label = whole.read(scene)
        seen = np.zeros(label.shape, int)
        for own_tiles in data.splits.values():
            for tile in own_tiles:
                if tile.name.startswith(scene.name):
                    cut, cut_label = data.read(tile)
                    assert cut.size == (16, 16)
                    np.testing.assert_array_equal(cut.pixels(), source.pixels()[tile.tile])
                    np.testing.assert_array_equal(cut_label, label[tile.tile])
                    seen[tile.tile] += 1
        assert seen.min() == 1 and seen.max() == 4


def test_photos_are_cut_into_tiles_too(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image = values(3, np.uint8)
    label = (image[..., 0] > 99).astype(np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / "images" / "a.png")
    PIL.Image.fromarray(label).save(tmp_path / "labels" / "a.png")
    data = find(tmp_path, tiles=TileOptions((16, 33), 0.0))
    cut = [data.read(tile) for tile in data.splits["train"]]
    np.testing.assert_array_equal(cut[0][0].pixels(), image[:16])
    np.testing.assert_array_equal(cut[1][1], label[-16:])


def test_the_description_of_bands_is_checked(five_bands):
    fields = json.loads(five_bands.info.to_json())
    for change in ({"rgb_bands": [1, 2, 6]}, {"rgb_bands": [1]}, {"bands": [{"name": "a"}]}):
        with pytest.raises(UserError, match="bands"):
            records.DatasetInfo.from_json(json.dumps(fields | change))


def test_a_volume_whose_label_has_pages_too_is_to_be_split(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        pages = [PIL.Image.fromarray(page) for page in np.moveaxis(values(3, np.uint8), -1, 0)]
        pages[0].save(tmp_path / name / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="a.tif has several pages: split it into a file per page"):
        find(tmp_path)


def test_without_rasterio_a_tiff_of_bands_says_what_to_install(tmp_path, without_package):
    without_package("rasterio")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    PIL.Image.fromarray(values(1, np.uint8)[..., 0] % 2).save(tmp_path / "labels" / "a.png")
    cv2.imwrite(str(tmp_path / "images" / "a.tif"), values(3))
    assert not band_files.has_bands(tmp_path / "images" / "a.tif")
    with pytest.raises(UserError, match=r"needs the package rasterio.*deeplab_tf\[geo\]"):
        find(tmp_path, bands=BandOptions(numbers=(1, 2)))
