"""Reading and writing of files."""

import os

import pytest

from deeplab_tf import files
from deeplab_tf.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_reads_the_same_in_every_unicode_encoding(tmp_path, encoding):
    path = tmp_path / "classes.txt"
    path.write_bytes("straße\r\nżółć\n".encode(encoding))
    assert files.read_text(path) == "straße\nżółć\n"


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"one\nstra\xdfe\n", "class list .* is not a UTF-8 text .line 2.: save it in UTF-8"),
        (b"one\0two", "holds NUL"),
        (b"\xff\xfeo", "is not a UTF-8 text"),
    ],
)
def test_what_is_not_a_text_is_refused_by_name_and_line(tmp_path, content, complaint):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        files.read_text(path, "class list")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "", "[" * 100000, '{"a": ' + "1" * 5000 + "}"])
def test_what_is_not_json_is_refused_by_name(tmp_path, text):
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json is not"):
        files.read_json(path)


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new folder" / "figures.json"
    with pytest.raises(RuntimeError), files.replacing(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert os.listdir(path.parent) == []
    files.write_json(path, {"miou": 0.5})
    assert files.read_json(path) == {"miou": 0.5}
    assert os.listdir(path.parent) == [path.name]


def test_only_drafts_of_processes_that_are_gone_are_deleted(tmp_path):
    with files.replacing(tmp_path / "kept") as draft:
        draft.mkdir()
        own_name = draft.parent.name
    own, gone_process = os.getpid(), 2**22 + 1
    running, gone = (
        own_name.replace(f"_{own}_", f"_{process}_") for process in (os.getppid(), gone_process)
    )
    for name in (running, gone, ".new_elsewhere_1_c"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".new_elsewhere_1_c", (0, 0))
    (tmp_path / ".new_elsewhere_2_d").mkdir()
    for name in (".new_plans", ".new_export_plans"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".new_plans", (0, 0))  # not a draft: its name has no process
    files.remove_drafts(tmp_path)
    left = {
        running,
        ".new_elsewhere_2_d",
        "kept",
        ".new_plans",
        ".new_export_plans",
    }
    assert set(os.listdir(tmp_path)) == left
