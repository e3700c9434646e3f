"""Released weights by name, served from this machine."""

import contextlib
import functools
import http.server
import io
import pathlib
import random
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from deeplab_tf import files
from deeplab_tf import zoo
from deeplab_tf.errors import UserError
from deeplab_tf.zoo import __main__ as command
from deeplab_tf.zoo import archives

NAME = "mobilenetv2_dm05_coco_voc_trainaug"
ARCHIVE = zoo.ENTRIES[NAME].archive
CONTENT = {
    "some_folder/model.ckpt.index": b"index" * 50,
    "some_folder/model.ckpt.data": random.Random(0).randbytes(300_000),
}


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; knows Range, and can break off after some bytes."""

    break_after: int | None = None
    requests: list[str | None]

    def do_GET(self):
        path = pathlib.Path(self.translate_path(self.path))
        self.requests.append(self.headers.get("Range"))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first : type(self).break_after])

    def log_message(self, *_):
        """Tests are quiet."""


@contextlib.contextmanager
def serving(folder, **attributes):
    kind = type("One", (Server,), {"requests": [], **attributes})
    handler = functools.partial(kind, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kind
    finally:
        server.shutdown()
        server.server_close()


def write_archive(path: pathlib.Path, members: dict[str, bytes] = CONTENT) -> pathlib.Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zoo"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server that has one of the archives; its address is that of the authors' server."""
    folder = tmp_path / "server"
    folder.mkdir()
    write_archive(folder / ARCHIVE)
    with serving(folder) as (url, kind):
        monkeypatch.setenv("DEEPLAB_TF_ZOO_URL", url)
        yield folder, kind


def test_a_name_is_downloaded_once_and_stands_for_its_checkpoint(served, cache, capsys):
    _, kind = served
    path = zoo.resolve(NAME)
    assert path == str(cache / NAME / "model.ckpt")
    assert (cache / NAME / "model.ckpt.index").read_bytes() == b"index" * 50
    assert "SHA-256" in capsys.readouterr().err
    assert zoo.resolve(NAME) == path and len(kind.requests) == 1
    assert sorted(item.name for item in cache.iterdir()) == [NAME, f"{NAME}.json"]


def test_a_broken_download_is_resumed(served, cache):
    folder, kind = served
    kind.break_after = 200_000
    with pytest.raises(UserError, match="cannot be downloaded"):
        zoo.download(NAME, show_progress=False)
    assert not zoo.is_cached(NAME)
    kind.break_after = None
    zoo.download(NAME, show_progress=False)
    first, second = kind.requests
    assert first is None and int(second[6:-1]) > 100_000 and zoo.is_cached(NAME)
    assert files.sha256(folder / ARCHIVE) in (cache / f"{NAME}.json").read_text()


def test_a_damaged_archive_is_downloaded_again(served):
    folder, _ = served
    whole = (folder / ARCHIVE).read_bytes()
    numbers = " ".join(map(str, range(100_000))).encode()  # which are compressed
    compressed = write_archive(folder / "other.tar.gz", {"model.ckpt.index": numbers}).read_bytes()
    for content in (whole, compressed):
        middle = len(content) // 2
        (folder / ARCHIVE).write_bytes(content[:middle] + b"damage" + content[middle + 6 :])
        with pytest.raises(UserError, match="is not a whole archive"):
            zoo.download(NAME, show_progress=False)
        assert not zoo.is_cached(NAME)
    (folder / ARCHIVE).write_bytes(whole)
    zoo.download(NAME, show_progress=False)
    assert zoo.is_cached(NAME)


def test_a_file_of_a_checkpoint_is_not_its_archive(tmp_path):
    (tmp_path / "model.ckpt.index").write_bytes(b"index")
    with pytest.raises(UserError, match="is not an archive such as .*Give the archive, or the fol"):
        zoo.add(NAME, tmp_path / "model.ckpt.index")


def test_another_archive_than_the_first_one_is_refused(served, cache):
    folder, _ = served
    zoo.download(NAME, show_progress=False)
    subprocess.run(["rm", "-r", str(cache / NAME)], check=True)
    write_archive(folder / ARCHIVE, CONTENT | {"some_folder/model.ckpt.data": b"other"})
    with pytest.raises(UserError, match="is another archive than the first one: its SHA-256 is"):
        zoo.download(NAME, show_progress=False)
    assert not zoo.is_cached(NAME)


def test_without_a_network_the_message_says_how_to_add_an_archive(monkeypatch):
    monkeypatch.setenv("DEEPLAB_TF_ZOO_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=f"zoo add {NAME} ARCHIVE"):
        zoo.resolve(NAME)


@pytest.mark.parametrize("kind", ["tar", "zip", "folder"])
def test_what_was_fetched_by_other_means_is_taken(tmp_path, cache, kind):
    source = tmp_path / f"given.{kind}"
    if kind == "tar":
        write_archive(source)
    elif kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in CONTENT.items():
                archive.writestr(name, content)
    else:
        for name, content in CONTENT.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
    zoo.add(NAME, source)
    assert zoo.resolve(NAME) == str(cache / NAME / "model.ckpt") and source.exists()


@pytest.mark.parametrize(
    "members, complaint",
    [
        ({"a/b.txt": b"text"}, "must hold one checkpoint, and holds none"),
        ({"a.index": b"", "b.index": b""}, "holds a, b"),
        ({"a/m.ckpt.index": b"1", "b/m.ckpt.index": b"2"}, "two files called m.ckpt.index"),
        ({"../../m.ckpt.index": b"1", "/etc/evil": b"2"}, None),
    ],
    ids=["no checkpoint", "two checkpoints", "same name", "names that lead outside"],
)
def test_an_archive_writes_its_checkpoint_into_the_cache_and_nothing_elsewhere(
    tmp_path, cache, members, complaint
):
    archive = write_archive(tmp_path / "given.tar.gz", members)
    if complaint:
        with pytest.raises(UserError, match=complaint):
            zoo.add(NAME, archive)
        assert not zoo.is_cached(NAME)
    else:
        zoo.add(NAME, archive)
        assert {path.name for path in (cache / NAME).iterdir()} == {"m.ckpt.index", "evil"}
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {f"{NAME}.json"}
    assert found <= {"given.tar.gz", "m.ckpt.index", "evil"}


def test_a_bomb_and_a_cut_archive_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 10**6)
    bomb = write_archive(tmp_path / "bomb.tar.gz", CONTENT | {"zeros": bytes(2 * 10**6)})
    with pytest.raises(UserError, match="unpacks to more than"):
        zoo.add(NAME, bomb)
    whole = write_archive(tmp_path / "cut.tar.gz", CONTENT | {"n": bytes(range(256)) * 100})
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(UserError, match="is not a whole archive"):
        zoo.add(NAME, whole)
    assert not zoo.is_cached(NAME)


def test_an_unknown_name_is_corrected_and_a_path_is_left_alone(tmp_path):
    with pytest.raises(UserError, match="Did you mean xception_65_imagenet"):
        zoo.resolve("xception65_imagenet")
    path = str(tmp_path / "model.ckpt")
    assert zoo.resolve(path) == path


def test_every_entry_describes_a_network():
    for entry in zoo.ENTRIES.values():
        assert entry.is_backbone == ("version" not in entry.model)
        assert entry.is_backbone or entry.data_settings
        assert entry.url.startswith("http")
    assert zoo.imagenet_name("xception_65") == "xception_65_imagenet"
    assert zoo.imagenet_name("mobilenet_v3_large_seg") is None


def test_the_command_lists_adds_and_says_what_is_wrong(tmp_path, capsys):
    archive = write_archive(tmp_path / "given.tar.gz")
    command.main(["add", NAME, str(archive)])
    assert NAME in capsys.readouterr().out
    command.main(["list"])
    listed = capsys.readouterr().out
    for entry in zoo.ENTRIES.values():
        assert entry.name in listed and entry.published in listed
    (line,) = [line for line in listed.splitlines() if line.startswith(NAME + " ")]
    assert " yes " in line
    with pytest.raises(SystemExit, match=r"error: There is no .*nowhere"):
        command.main(["add", NAME, str(tmp_path / "nowhere")])


def test_the_command_needs_no_tensorflow():
    code = "import sys, deeplab_tf.zoo.__main__; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
