"""The description of a run: written whole, read with one message if it is damaged."""

import codecs
import dataclasses
import json
import random

import pytest

from deeplab_tf import crf
from deeplab_tf.config import CrfConfig
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.runs import run_files

CLASSES = records.DatasetInfo("toy", ("ground", "Straße"), ((0, 0, 0), (9, 8, 7)), 255)
TUNED = CrfConfig(crf="tuned")


def make_run(folder) -> run_dirs.Run:
    """A run dir without weights."""
    model_config = ModelConfig(version="v3", atrous_rates=(), num_classes=2)
    data_config = DataConfig(data_dir="/data/Straße", train_crop_size=(65, 65))
    run = run_dirs.create(str(folder), model_config, data_config, TrainConfig(), CLASSES)
    run_dirs.write_crf_parameters(str(folder), {"parameters": crf.PRESETS["v2"], "miou": 0.5})
    return run


def read_all(folder) -> tuple:
    """The whole description of a run."""
    return run_dirs.read(str(folder)), run_dirs.crf_parameters(str(folder), TUNED)


def test_a_run_dir_reads_as_it_was_written(tmp_path):
    run = make_run(tmp_path)
    assert read_all(tmp_path) == (run, crf.PRESETS["v2"])


@pytest.mark.parametrize("name", [run_files.FLAGS, run_files.DATASET, run_files.CRF])
@pytest.mark.parametrize(
    "encoding, mark",
    [("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-8", b"")],
)
def test_a_file_that_an_editor_saved_in_another_unicode_encoding_is_read(
    tmp_path, name, encoding, mark
):
    run = make_run(tmp_path)
    text = (tmp_path / name).read_text(encoding="utf-8").replace("\n", "\r\n")
    (tmp_path / name).write_bytes(mark + text.encode(encoding))
    assert read_all(tmp_path)[0] == run


@pytest.mark.parametrize("name", [run_files.FLAGS, run_files.DATASET])
def test_a_file_in_cp1252_is_one_message(tmp_path, name):
    make_run(tmp_path)
    text = json.dumps({"name": "Straße"}, ensure_ascii=False) + "\n# Straße\n"
    (tmp_path / name).write_bytes(text.encode("cp1252"))
    with pytest.raises(UserError, match=f"{name} is not a UTF-8 text .line 1.: save it in UTF-8"):
        read_all(tmp_path)


WRONG_VALUES = (None, True, -1, 10**30, 1e300, "", "x" * 10**6, [], [[[]]], {}, {"a": 1}, [None])


def damaged_contents(content: bytes) -> list[bytes]:
    """Many ways in which a file may be damaged, the same each time."""
    generator = random.Random(0)
    damaged = [b"", b"\0" * 4096, b"{", b"[]", b"null", b"3", b'"text"', b"[" * 10**5, b"\xff" * 9]
    damaged += [content[: len(content) // part] for part in (2, 3, 7)]
    for _ in range(10):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(changed))
    return damaged


def damaged_fields(value) -> list:
    """A JSON value without each of its fields, and with wrong values in each of them."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    damaged = []
    for key in keys:
        others = [*WRONG_VALUES, *damaged_fields(value[key])]
        if isinstance(value, dict):
            damaged.append({name: item for name, item in value.items() if name != key})
            damaged += [value | {key: other} for other in others]
        else:
            damaged += [[*value[:key], other, *value[key + 1 :]] for other in others]
    return damaged


@pytest.mark.parametrize("name", [run_files.FLAGS, run_files.DATASET, run_files.CRF])
def test_a_damaged_file_is_one_message_with_its_path(tmp_path, name):
    make_run(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    damaged = damaged_contents(content)
    if name != run_files.FLAGS:
        damaged += [json.dumps(value).encode() for value in damaged_fields(json.loads(content))]
    num_messages = 0
    for text in damaged:
        path.write_bytes(text)
        try:
            read_all(tmp_path)
        except UserError as error:
            num_messages += 1
            assert str(path) in str(error)
            assert len(str(error)) < 1000
    assert num_messages > len(damaged) / 2  # some changes are harmless, such as that of a letter


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({}, "parameters has no iterations"),
        ({"iterations": "ten"}, "--crf_iterations=ten must be a whole number"),
        ({"iterations": 10**9}, "--crf_iterations=1000000000 must be between 0 and 1000"),
        ({"iterations": 5, "bilateral_weight": -1}, "--crf_bilateral_weight=-1 must be 0 or more"),
    ],
)
def test_wrong_crf_parameters_are_named_with_a_remedy(tmp_path, parameters, message):
    run_dirs.write_crf_parameters(str(tmp_path), {"parameters": parameters})
    with pytest.raises(UserError, match=f"{run_files.CRF}: {message}.*Run python -m .*tune_crf"):
        run_dirs.crf_parameters(str(tmp_path), TUNED)


def test_a_folder_that_is_not_a_run_dir_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run dir: it has no flags.txt"):
        run_dirs.read(str(tmp_path))


def test_the_settings_that_another_run_has_are_named(tmp_path):
    run = make_run(tmp_path)
    other = dataclasses.replace(run.model_config, depth_multiplier=0.5)
    with pytest.raises(UserError, match="another run: depth_multiplier was 1.0 and is 0.5"):
        run_dirs.describe(str(tmp_path), other, run.data_config, run.train_config, CLASSES)
