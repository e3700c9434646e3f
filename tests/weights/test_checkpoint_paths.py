"""Checkpoints given by their files, folders, archives and names; and what is not a checkpoint."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.errors import UserError
from deeplab_tf.weights import checkpoint_paths
from deeplab_tf.weights import checkpoint_values

PARTS = ("index", "data-00000-of-00001", "meta")


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint `model.ckpt-7` with one value."""
    folder = tmp_path / "released"
    folder.mkdir()
    checkpoint_values.write(str(folder / "model.ckpt-7"), {"weights": tf.Variable([7.0])})
    (folder / "model.ckpt-7.meta").write_bytes(b"a graph that nobody reads")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-7"')
    return folder / "model.ckpt-7"


def value_of(source) -> float:
    with checkpoint_paths.located(source) as (prefix, origin):
        return float(checkpoint_values.CheckpointValues(prefix, origin).read("weights")[0])


@pytest.mark.parametrize("name", ["", *(f"model.ckpt-7.{part}" for part in PARTS), "checkpoint"])
def test_a_checkpoint_is_found_by_its_folder_and_by_each_of_its_files(checkpoint, name):
    assert value_of(checkpoint.parent / name) == 7
    assert value_of(str(checkpoint)) == 7


def test_a_tilde_is_the_home_folder(checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    monkeypatch.setenv("USERPROFILE", str(checkpoint.parent))
    assert value_of("~/model.ckpt-7") == 7


@pytest.mark.parametrize("name", ["model.tar.gz", "model.tgz", "model.tar", "model.zip"])
def test_a_checkpoint_is_unpacked_from_its_archive_and_leaves_nothing(
    checkpoint, tmp_path, name, monkeypatch
):
    archive, unpacked = tmp_path / name, tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr(checkpoint_paths.tempfile, "tempdir", str(unpacked))
    if name.endswith("zip"):
        with zipfile.ZipFile(archive, "w") as file:
            for path in checkpoint.parent.iterdir():
                file.write(path, f"release/{path.name}")
    else:
        with tarfile.open(archive, "w:gz" if "gz" in name else "w") as file:
            file.add(checkpoint.parent, "release")
    assert value_of(archive) == 7
    with checkpoint_paths.located(archive) as located:
        assert located.origin == str(archive)
    assert os.listdir(unpacked) == []


def test_an_archive_cannot_write_outside_of_its_folder(checkpoint, tmp_path):
    archive = tmp_path / "hostile.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(checkpoint.parent, "release")
        member = tarfile.TarInfo("../../outside.txt")
        member.size = 4
        file.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    before = set(tmp_path.parent.rglob("*"))
    assert value_of(archive) == 7
    assert set(tmp_path.parent.rglob("*")) == before


def test_an_archive_without_a_checkpoint_or_with_several_says_what_it_has(checkpoint, tmp_path):
    (tmp_path / "words.txt").touch()
    with tarfile.open(tmp_path / "none.tar", "w") as file:
        file.add(tmp_path / "words.txt", "words.txt")
    with pytest.raises(UserError, match="none.tar has no checkpoint in it, but words.txt. Give"):
        value_of(tmp_path / "none.tar")
    with tarfile.open(tmp_path / "two.tar", "w") as file:
        for name in ("model.ckpt-7", "model.ckpt-8"):
            for part in ("index", "data-00000-of-00001"):
                file.add(f"{checkpoint}.{part}", f"{name}.{part}")
    with pytest.raises(UserError, match="two.tar has several checkpoints: model.ckpt-7, model.ckp"):
        value_of(tmp_path / "two.tar")


def test_a_checkpoint_in_the_first_format_is_one_file(tmp_path):
    path = str(tmp_path / "model.ckpt")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("weights", initializer=np.array([7.0], np.float32))
        session.run(variable.initializer)
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        saver.save(session, path)
    assert (tmp_path / "model.ckpt").is_file() and not (tmp_path / "model.ckpt.index").exists()
    assert value_of(path) == value_of(path + ".meta") == value_of(tmp_path) == 7


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("frozen.pb", b"graph", "is a frozen graph.*released has model.ckpt-7.*Give the prefix"),
        (
            "model.h5",
            b"\x89HDF\r\n\x1a\n",
            "is an HDF5 file, and not the weights of.*Give the prefix",
        ),
        ("model.keras", b"PK", "is a Keras model .deeplab_tf.load_model loads it., not"),
        ("model.pth", b"PK", "is a file of PyTorch"),
        ("words.txt", b"words", "words.txt cannot be read as a TensorFlow checkpoint"),
        ("empty.ckpt", b"", "empty.ckpt cannot be read as a TensorFlow checkpoint"),
        ("broken", b"\x1f\x8b\x08", "broken cannot be read as a TensorFlow checkpoint"),
        ("broken.tar.gz", b"\x1f\x8b\x08", "broken.tar.gz is not a whole archive"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_give(checkpoint, name, content, message):
    path = checkpoint.with_name(name)
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        value_of(path)


def test_what_is_missing_is_named(checkpoint, tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint .*ckpt-8; .*has model.ckpt-7"):
        value_of(checkpoint.with_name("model.ckpt-8"))
    with pytest.raises(UserError, match="There is no file .*frozen.pb"):
        value_of(checkpoint.with_name("frozen.pb"))
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UserError, match="is a SavedModel, not a checkpoint"):
        value_of(tmp_path)
    data = checkpoint.with_name("model.ckpt-7.data-00000-of-00001")
    content = data.read_bytes()
    data.unlink()
    with pytest.raises(UserError, match="not complete: model.ckpt-7.data-... is missing"):
        value_of(checkpoint)
    data.write_bytes(content)
    checkpoint.with_name("model.ckpt-7.index").unlink()
    for source in (checkpoint, data):
        with pytest.raises(UserError, match="not complete: model.ckpt-7.index is missing"):
            value_of(source)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"garbage {", b'model_checkpoint_path: ""'])
def test_a_damaged_checkpoint_file_does_not_hide_the_only_checkpoint(checkpoint, content):
    checkpoint.with_name("checkpoint").write_bytes(content)
    assert value_of(checkpoint.parent) == 7
