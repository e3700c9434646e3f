"""Building records and labelling images by Apache Beam, on its DirectRunner.

The extra `beam` replaces protobuf and pyarrow by older versions, so `test` does not include it.
"""

import functools
import importlib.util
import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import conftest
from deeplab_tf import config
from deeplab_tf import predict
from deeplab_tf.data import decoding
from deeplab_tf.data import record_reading
from deeplab_tf.data import records
from deeplab_tf.datasets import build
from deeplab_tf.datasets import building
from deeplab_tf.drawing import predictions
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import labelling
from deeplab_tf.evaluation.inference import BEST_CHECKPOINT
from deeplab_tf.runs import run_dir as run_dirs

if importlib.util.find_spec("apache_beam") is None:
    pytest.skip("needs Apache Beam: pip install 'deeplab_tf[beam]'", allow_module_level=True)

from deeplab_tf import beam_pipelines
from deeplab_tf.evaluation import labelling_by_beam

DIRECT = ("runner=DirectRunner",)

pytestmark = pytest.mark.usefixtures("short_network")


def contents(folder: str | pathlib.Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, by their path in it."""
    folder = pathlib.Path(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def labels_in(shards: list[str]) -> dict[str, np.ndarray]:
    """The labels of records, by name."""
    parsed = map(record_reading.parse_record, tf.data.TFRecordDataset(shards).as_numpy_iterator())
    return {record.name: tf.io.decode_png(record.label).numpy()[..., 0] for record in parsed}


# The pipeline.


def remainders(divisor: int):
    """A worker that fails at multiples of three, and counts the others."""
    failure = beam_pipelines.Failure

    def do(number: int):
        return [None, failure(str(number), "is a multiple") if number % divisor == 0 else None]

    return do


def test_every_item_is_done_and_failures_come_back(tmp_path):
    outcome = beam_pipelines.do_all(
        range(1, 8), functools.partial(remainders, 3), folder=str(tmp_path), options=DIRECT
    )
    assert outcome.num_done == 12
    assert sorted(failure.subject for failure in outcome.failures) == ["3", "6"]
    assert list(tmp_path.iterdir()) == []  # what was passed on is gone


# Building.


def test_beam_builds_the_same_bytes_and_says_which_image_is_not_fit(tiny_raw, tmp_path):
    sharding = {"num_shards": 3, "class_map": "disc:ring"}
    here = build.build("folder", tmp_path / "here", tiny_raw, **sharding)
    raw = tmp_path / tiny_raw.name
    shutil.copytree(tiny_raw, raw)
    (raw / "images" / "train_3.jpg").write_bytes(b"not a JPEG")
    by_beam = functools.partial(
        build.build, "folder", tmp_path / "beam", raw, beam_pipeline_options=DIRECT, **sharding
    )
    with pytest.raises(UserError, match=r"(?s)^1 of 6 shards.*train-0000\d-of-00003.*train_3\.jpg"):
        by_beam()
    (incomplete,) = (tmp_path / "beam" / "folder").iterdir()
    whole = {path.name for path in incomplete.glob("*.tfrecord")}
    assert len(whole) == 5  # those of the other images are kept

    shutil.copy(tiny_raw / "images" / "train_3.jpg", raw / "images")
    found = by_beam()
    assert contents(found.folder) == contents(here.folder)


@pytest.mark.parametrize("dataset", [name for name in building.DATASETS if name != "shapes"])
def test_a_pickled_builder_reads_what_the_builder_reads(dataset, tmp_path):
    builder = building._builder_class(dataset)(data_dir=tmp_path)
    dummy_data = conftest.REPOSITORY / "datasets" / dataset / "dummy_data"
    pairs = builder.find_pairs(dummy_data)
    copy = pickle.loads(pickle.dumps(builder))
    assert copy.classes == builder.classes
    assert copy.fingerprint() == builder.fingerprint()
    for listed in pairs.values():
        sent = pickle.loads(pickle.dumps(listed[0]))
        image, label = builder.read_pair(listed[0])
        copied_image, copied_label = copy.read_pair(sent)
        assert copied_image.content == image.content
        np.testing.assert_array_equal(copied_label, label)


# Labelling.


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
    """Three images in two folders, two of them with the same name, and a file that is damaged."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("a/street.png", "b/street.png", "b/yard.png"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    (root / "b" / "zebra.jpg").write_bytes(b"not a JPEG")
    return root


def test_labels_are_those_of_predict_and_a_second_time_changes_nothing(
    tiny_run_dir, photos, tmp_path
):
    images = str(photos / "*" / "*")
    with pytest.raises(UserError, match="1 of 4 images"):
        predict.predict(tiny_run_dir, images, str(tmp_path / "here"))
    expected = contents(tmp_path / "here")
    del expected["overview.png"]
    output_dir = tmp_path / "beam"
    for _ in range(2):
        with pytest.raises(UserError, match=r"(?s)^1 image could not.*zebra\.jpg"):
            labelling_by_beam.predict(tiny_run_dir, images, str(output_dir), options=DIRECT)
        written = contents(output_dir)
        (failure,) = map(json.loads, written.pop("failures.jsonl").splitlines())
        assert failure["subject"] == str(photos / "b" / "zebra.jpg")
        assert written == expected


def test_records_are_labelled_as_records_and_as_images(tiny_run_dir, tiny_records, tmp_path):
    shards = f"{tiny_records.folder}/val-*.tfrecord"
    arguments = [tiny_run_dir, shards]
    as_records = labelling_by_beam.predict(
        *arguments, str(tmp_path / "records"), options=DIRECT, labels_as=config.RECORDS
    )
    as_images = labelling_by_beam.predict(*arguments, str(tmp_path / "images"), options=DIRECT)
    assert as_records == as_images == 4

    found = records.find_records(tmp_path / "records", num_classes=tiny_records.info.num_classes)
    assert found.shard_lengths == {"val": tiny_records.shard_lengths["val"]}
    labels = labels_in(found.shards("val"))
    label_of = BEST_CHECKPOINT.label_function(run_dirs.read(tiny_run_dir))
    for shard in tiny_records.shards("val"):
        for serialized in tf.data.TFRecordDataset(shard).as_numpy_iterator():
            record = record_reading.parse_record(serialized)
            expected = label_of(decoding.decode_image(record.image))
            np.testing.assert_array_equal(labels[record.name], expected)
            folder = tmp_path / "images" / pathlib.Path(shard).stem
            with Image.open(folder / f"{record.name}.png") as image:
                np.testing.assert_array_equal(np.asarray(image), expected)


def test_every_record_of_a_shard_gets_files_of_its_own():
    taken: set[str] = set()
    names = ["a/street.jpg", "b/Street", "", "c\\street_2", "yard.v2.png"]
    found = [labelling_by_beam._file_name(name, taken) for name in names]
    assert found == ["street", "Street_2", "image", "street_2_2", "yard.v2"]


def test_images_become_records_and_what_is_damaged_is_left_out(tiny_run_dir, photos, tmp_path):
    output_dir = tmp_path / "out"
    with pytest.raises(UserError, match="zebra"):
        labelling_by_beam.predict(
            tiny_run_dir,
            str(photos / "b" / "*"),
            str(output_dir),
            options=DIRECT,
            labels_as=config.RECORDS,
        )
    shard = str(output_dir / "labelled-00000-of-00001.tfrecord")
    assert sorted(labels_in([shard])) == ["street", "yard"]


def test_a_cut_shard_is_labelled_up_to_the_cut(tiny_run_dir, tiny_records, tmp_path):
    shard = pathlib.Path(tiny_records.shards("train")[0])
    cut = tmp_path / shard.name
    cut.write_bytes(shard.read_bytes()[:-20])
    worker = labelling_by_beam._worker(
        tiny_run_dir,
        BEST_CHECKPOINT,
        config.LABELS_AND_OVERLAYS,
        writer=labelling.prediction_writer(
            run_dirs.read(tiny_run_dir), str(tmp_path / "out"), config.LABELS_AND_OVERLAYS
        ),
        labels_as=config.RECORDS,
    )
    *done, failure = worker(labelling_by_beam.Part(cut.name, shard=str(cut)))
    assert done == [None] * (tiny_records.shard_lengths["train"][0] - 1)
    assert "the shard is damaged from there on" in failure.reason


def test_an_error_in_writing_is_raised_so_that_beam_tries_again(
    tiny_run_dir, photos, tmp_path, monkeypatch
):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(predictions.PredictionWriter, "_publish", fail)
    with pytest.raises(Exception, match="the disk is full"):
        labelling_by_beam.predict(
            tiny_run_dir, str(photos / "a"), str(tmp_path / "out"), options=DIRECT
        )
    assert contents(tmp_path / "out") == {}


def test_what_cannot_be_labelled_by_beam_is_refused(tiny_run_dir, photos, tmp_path):
    def label(*paths: pathlib.Path, **settings):
        labelling_by_beam.predict(
            tiny_run_dir,
            [str(path) for path in paths],
            str(tmp_path / "out"),
            options=DIRECT,
            **settings,
        )

    video, shard = tmp_path / "film.mp4", tmp_path / "val-00000-of-00001.tfrecord"
    same_name = tmp_path / "other" / shard.name
    same_name.parent.mkdir()
    for path in (video, shard, same_name):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"film\.mp4 is a video"):
        label(video)
    with pytest.raises(UserError, match="give one kind"):
        label(shard, photos / "a" / "street.png")
    with pytest.raises(UserError, match="have the same name"):
        label(shard, same_name)


def test_records_need_beam():
    arguments = {"run_dir": "run", "images": ("a.jpg",), "output_dir": "out"}
    with pytest.raises(UserError, match="runner=DirectRunner"):
        predict.Arguments(**arguments, labels_as=config.RECORDS)
    predict.Arguments(**arguments, labels_as=config.RECORDS, beam_pipeline_options=DIRECT)
