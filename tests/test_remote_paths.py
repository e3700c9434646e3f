"""Paths in remote storage: TensorFlow's ram://, fsspec's memory://, and s3:// of a local server."""

import os
import pathlib
from unittest import mock

import fsspec
import pytest

from deeplab_tf import files
from deeplab_tf.errors import UserError
from deeplab_tf.files import as_path
from deeplab_tf.remote_paths import RemotePath


@pytest.fixture(params=["ram", "memory", "s3"])
def folder(request, tmp_path):
    """An address of its own, below which nothing is."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"
    return f"{request.param}://store/{tmp_path.name}"


@pytest.fixture
def tree(folder):
    """A folder with files in it and in another folder."""
    for name in ("flags.txt", "labels.json", "best/ckpt-2.index", "best/ckpt-2.data"):
        files.write_text(as_path(folder, name), f"this is {name}\n")
    return as_path(folder)


@pytest.mark.parametrize(
    "text, parent, name",
    [
        ("gs://bucket/run", "gs://bucket", "run"),
        ("GS://bucket//run/", "gs://bucket", "run"),
        ("hdfs://host:8020/user/run", "hdfs://host:8020/user", "run"),
        ("hdfs:///user/run", "hdfs:///user", "run"),
    ],
)
def test_an_address_is_split_and_joined_like_a_path(text, parent, name):
    path = as_path(text)
    assert isinstance(path, RemotePath) and path.is_absolute()
    assert (str(path.parent), path.name) == (parent, name)
    assert str(path) == os.fspath(path) == f"{parent}/{name}"
    assert path == path.parent / name == as_path(parent, name) == RemotePath(path.parent, name)
    assert str((path / "a/b.txt").relative_to(path)) == "a/b.txt"
    assert str(path.with_name("other")) == f"{parent}/other"
    assert files.absolute(text) == files.real(text) == str(path)


@pytest.mark.parametrize("text", ["run", "/data/run", "C:/run", "C://run", "a:b", "~/run"])
def test_other_paths_are_local(text):
    assert type(as_path(text)) is type(pathlib.Path())
    assert not files.is_remote(text)


def test_the_address_of_a_local_file_is_its_path():
    assert as_path("file:///data/my%20run") == pathlib.Path("/data/my run")


def test_files_and_folders_are_found_as_in_pathlib(tree):
    assert tree.is_dir() and tree.exists() and not tree.is_file()
    assert (tree / "flags.txt").is_file() and not (tree / "flags.txt").is_dir()
    assert not (tree / "missing").exists()
    assert [path.name for path in sorted(tree.iterdir())] == ["best", "flags.txt", "labels.json"]
    assert list(tree.glob("*.txt")) == [tree / "flags.txt"]
    assert list(tree.glob("*/*.index")) == [tree / "best" / "ckpt-2.index"]
    assert list(tree.rglob("ckpt*")) == [tree / "best/ckpt-2.data", tree / "best/ckpt-2.index"]


def test_a_folder_may_hold_another_one_of_its_own_name(tree):
    files.write_text(tree / tree.name / "note.txt", "inside")
    assert tree / tree.name in list(tree.iterdir())
    assert [path.name for path in (tree / tree.name).iterdir()] == ["note.txt"]


def test_files_are_read_as_in_pathlib(tree):
    path = tree / "flags.txt"
    assert path.read_text() == files.read_text(path) == "this is flags.txt\n"
    assert path.stat().st_size == 18
    with path.open("rb") as file:
        assert file.seek(8) == 8
        assert (file.read(5), file.tell()) == (b"flags", 13)
        assert file.seek(-4, os.SEEK_END) == 14
        assert file.read() == b"txt\n"
    with path.open() as file:
        assert list(file) == ["this is flags.txt\n"]


def test_what_is_missing_is_an_error_that_names_the_address(tree):
    for read in (RemotePath.read_bytes, RemotePath.stat, RemotePath.iterdir):
        with pytest.raises(FileNotFoundError) as caught:
            list(read(tree / "missing/file") or [])
        assert caught.value.filename == str(tree / "missing/file")
    with pytest.raises(UserError, match=f"There is no flagfile {tree}/missing"):
        files.read_text(tree / "missing", "flagfile")


def test_a_file_appears_only_when_it_is_whole_and_may_be_replaced(tree):
    path = tree / "flags.txt"
    with pytest.raises(RuntimeError), files.replacing(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "this is flags.txt\n"
    files.write_text(path, "new")
    assert path.read_text() == "new"
    path.unlink()
    assert [file.name for file in sorted(tree.iterdir())] == ["best", "labels.json"]


def test_a_folder_is_published_with_the_file_that_completes_it_last(tree, monkeypatch):
    order = []
    copy_to = RemotePath.copy_to
    monkeypatch.setattr(
        RemotePath, "copy_to", lambda self, to: order.append(to.name) or copy_to(self, to)
    )
    moved = tree.with_name(f"{tree.name}_moved")
    files.move_folder(tree, moved, last="flags.txt")
    assert len(order) == 4 and order[-1] == "flags.txt"
    assert (moved / "best/ckpt-2.index").is_file() and not (tree / "flags.txt").exists()


def test_a_draft_folder_is_uploaded_with_the_file_that_completes_it_last(folder, monkeypatch):
    order = []
    upload = RemotePath.upload
    monkeypatch.setattr(
        RemotePath, "upload", lambda self, file: order.append(self.name) or upload(self, file)
    )
    with files.draft_folder(folder) as draft:
        (draft / "model/variables").mkdir(parents=True)
        for name in ("a.pb", "variables/b", "variables/z"):
            (draft / "model" / name).write_text(name)
        files.publish(draft / "model", as_path(folder, "7"), last="a.pb")
    assert order == ["b", "z", "a.pb"]
    assert as_path(folder, "7/variables/b").read_text() == "variables/b"


def test_a_copy_is_local_for_as_long_as_it_is_needed(tree):
    with files.local_copy(tree) as copy:
        assert (copy / "best/ckpt-2.data").read_text() == "this is best/ckpt-2.data\n"
    assert not copy.exists()
    with files.local_copy(tree / "labels.json") as copy:
        assert copy.name == "labels.json" and copy.read_text() == "this is labels.json\n"
    with pytest.raises(FileNotFoundError), files.local_copy(tree / "missing"):
        pass


def test_a_cached_copy_follows_what_changes(tree):
    copy = files.cached_copy(tree)
    assert files.cached_copy(tree) == copy
    files.write_text(tree / "flags.txt", "changed\n")
    (tree / "labels.json").unlink()
    assert files.cached_copy(tree) == copy
    assert (copy / "flags.txt").read_text() == "changed\n"
    assert sorted(path.name for path in copy.rglob("*") if path.is_file()) == [
        "ckpt-2.data",
        "ckpt-2.index",
        "flags.txt",
    ]


def test_a_synced_folder_continues_what_is_there_and_uploads_what_has_changed(tree):
    synced = files.SyncedFolder(tree, ["flags.txt", "best", "missing"])
    with open(synced.path / "flags.txt", "a") as lines:
        lines.write("more\n")
    synced.upload()
    assert (tree / "flags.txt").read_text() == "this is flags.txt\nmore\n"
    (synced.path / "best/new").write_text("new")
    synced.close()
    assert (tree / "best/new").read_text() == "new" and not synced.path.exists()


def test_local_folders_are_synced_in_place(tmp_path):
    synced = files.SyncedFolder(tmp_path, ["flags.txt"])
    assert synced.path == tmp_path
    synced.upload()
    synced.close()
    assert tmp_path.is_dir()


def test_local_copies_of_local_files_are_the_files(tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    with files.local_copy(path) as copy:
        assert copy == path == files.cached_copy(path)
    assert files.for_tensorflow(str(path)) == str(path) and path.exists()


def test_tensorflow_reads_its_own_storage_itself_and_copies_of_others():
    for scheme in ("ram", "memory"):
        files.write_text(f"{scheme}://shards/train", "records")
    assert files.for_tensorflow("ram://shards/train") == "ram://shards/train"
    copy = files.for_tensorflow("memory://shards/train")
    assert pathlib.Path(copy).read_text() == "records"


def test_a_storage_that_cannot_be_reached_is_an_error_and_not_an_empty_one(monkeypatch):
    monkeypatch.setattr(
        fsspec.get_filesystem_class("memory"), "info", mock.Mock(side_effect=EOFError("lost"))
    )
    with pytest.raises(OSError, match="lost") as caught:
        as_path("memory://store/run").is_dir()
    assert caught.value.filename == "memory://store/run"


def test_an_unknown_storage_is_refused_with_what_to_install():
    with pytest.raises(UserError, match="neither TensorFlow nor fsspec has a file system nix://"):
        as_path("nix://bucket/run").exists()
    with pytest.raises(UserError, match="pip install adlfs"):
        as_path("az://bucket/run").exists()
