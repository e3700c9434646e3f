"""Web pages: what they hold, and what they do in a browser."""

import base64
import dataclasses
import functools
import gzip
import io
import json
import os
import pathlib
import re
import stat
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from browsers import THEMES
from browsers import WIDTHS
from browsers import running_browser
from browsers import serving
from conftest import REPOSITORY
from conftest import TINY_MODEL
from conftest import short_mobilenet_v2
from conftest import write_run_as_if_trained
from deeplab_tf import files
from deeplab_tf.config import DataConfig
from deeplab_tf.data import bands
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.artefacts import tflite
from deeplab_tf.evaluation.fitting import image_fitter
from deeplab_tf.export import litert_js
from deeplab_tf.export import parity
from deeplab_tf.export import publishing
from deeplab_tf.export.config import TFLiteProofConfig
from deeplab_tf.export.config import WebConfig
from deeplab_tf.export.formats import web
from deeplab_tf.runs import run_dir as run_dirs

SIZE = (65, 97)  # that the network takes, pixels
# A name that would break a page which does not escape it, or its script.
EVIL = "</script><b title='\"'>&amp;"
INFO = DatasetInfo("shapes & co", (EVIL, *drawing.CLASS_NAMES[1:]), drawing.COLORS, 255)
# Heights and widths of images: as the network takes them, smaller, larger, tall, and tiny.
SIZES = ((65, 97), (40, 30), (130, 300), (333, 120), (1, 7), (64, 96))
# Resizing to a range of sizes comes before the network's own size.
RANGE = {"min_resize_value": 50, "max_resize_value": 90, "resize_factor": 16}
# Its scores have stride 4.
MODEL = dataclasses.replace(
    TINY_MODEL, version="v3plus", decoder_output_stride=(4,), num_classes=INFO.num_classes
)
DATA = DataConfig(train_crop_size=SIZE)
ANY_MIOU = TFLiteProofConfig(max_miou_drop=1.0, num_proof_images=2)
FOUR_BANDS = tuple(bands.Band(number, f"B{number}", 0, 3000) for number in range(1, 5))
# Of no comparison: for pages whose network is not converted again.
FIGURES = parity.Parity(1, (SIZE,), 1.0, 2, 1.0, 0.0, 0.5, 0.5, 1.0, 1.0, 2**20, {})


@pytest.fixture(scope="module", autouse=True)
def packed_once():
    """Packing LiteRT.js takes seconds, and every page has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip, "compress", functools.cache(gzip.compress))
        yield


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("run") / "run")
    with short_mobilenet_v2():
        write_run_as_if_trained(folder, MODEL, DATA, INFO)
    return folder


@pytest.fixture(scope="module")
def run(run_dir) -> run_dirs.Run:
    return run_dirs.read(run_dir)


@pytest.fixture(scope="module")
def page_folder(run_dir, modules, tmp_path_factory) -> pathlib.Path:
    """An exported folder."""
    folder = tmp_path_factory.mktemp("site") / "page"
    with short_mobilenet_v2():
        web.export_web(
            run_dir,
            str(folder),
            web_config=WebConfig(litert_js=str(modules)),
            proof_config=ANY_MIOU,
        )
    return folder


def part(script: pathlib.Path, name: str) -> bytes:
    """Returns a part that a script hands to the page."""
    text = re.findall(f'^parts.{name} = "(.+)";$', script.read_text(), re.MULTILINE)[0]
    return gzip.decompress(base64.b64decode(text))


@pytest.fixture(scope="module")
def network(page_folder, tmp_path_factory) -> pathlib.Path:
    """The `.tflite` file in the page."""
    path = tmp_path_factory.mktemp("network") / "model.tflite"
    path.write_bytes(part(page_folder / "model.js", "model"))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[pathlib.Path]:
    """Drawn images of `SIZES`, with some noise."""
    folder, paths = tmp_path_factory.mktemp("images"), []
    noise = np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        image, _ = drawing.draw("val", index)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        image = np.clip(image + noise.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{height}x{width}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def labels_of(network, run) -> Callable[..., np.ndarray]:
    """What `predict --model=FILE.tflite` finds in an image, by its path."""
    model = tflite.TFLiteModel(str(network))

    def labels_of(path, data_config=DATA):
        fitter = image_fitter(run.model_config, data_config, model.size)
        label_of = tflite.label_function(model, fitter, INFO.num_classes)
        return label_of(np.asarray(Image.open(path)))

    return labels_of


def found_labels(browser, path: pathlib.Path) -> np.ndarray:
    """Chooses a file on the open page; returns the labels that it shows."""
    browser.choose_file("#file", path)
    browser.wait_for(f"shown?.name === {json.dumps(path.name)} || byId('status').className")
    assert not browser.value("byId('status').className"), browser.value(
        "byId('status').textContent"
    )
    labels = browser.value("[shown.height, shown.width, ...shown.labels]")
    return np.array(labels[2:]).reshape(labels[:2])


def test_the_masks_of_the_page_equal_those_of_predict(browser, page_folder, labels_of, images):
    browser.open(page_folder / "index.html")
    assert browser.value("settings.scoreSize") == [17, 25]
    num_classes = set()
    for path in images:
        expected = labels_of(path)
        np.testing.assert_array_equal(found_labels(browser, path), expected, path.name)
        num_classes.add(len(np.unique(expected)))
    assert max(num_classes) > 2  # the comparison would notice something
    assert "CPU (WebAssembly)" in browser.value("byId('status').textContent")
    variant = "relaxed" if browser.value("hasRelaxedSimd()") else "compat"
    scripts = {pathlib.Path(url).name for url in browser.requests if url.endswith(".js")}
    assert scripts == {"model.js", f"litert_{variant}.js"}
    outside = [url for url in browser.requests if not url.startswith(("file:", "blob:", "data:"))]
    assert outside == []


def test_images_are_resized_to_the_range_of_the_run_first(
    browser, page_folder, labels_of, images, run, modules, tmp_path
):
    data_config = dataclasses.replace(DATA, **RANGE)
    run = dataclasses.replace(run, data_config=data_config)
    browser.open(
        again(page_folder, tmp_path / "page", run, litert_js=str(modules), single_file=True)
    )
    for path in images:
        expected = labels_of(path, data_config)
        np.testing.assert_array_equal(found_labels(browser, path), expected, path.name)


def again(
    page_folder: pathlib.Path, folder: files.Path, run: run_dirs.Run, **settings
) -> pathlib.Path:
    """Exports a page of a run with the network of `page_folder`, which is not converted again."""

    def copied(_, output, **__):
        pathlib.Path(output).write_bytes(part(page_folder / "model.js", "model"))
        figures = (page_folder / "parity.json").read_text()
        pathlib.Path(output).with_suffix(".parity.json").write_text(figures)
        return FIGURES, []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "export_tflite", copied)
        patch.setattr(web, "_head_stride", lambda _: 4.0)
        patch.setattr(run_dirs, "read", lambda _: run)
        page, _, _ = web.export_web("run", str(folder), web_config=WebConfig(**settings))
    return files.as_path(page)


@pytest.fixture(scope="module")
def single_file(run, page_folder, modules, tmp_path_factory) -> pathlib.Path:
    """The same as `page_folder`, in one file."""
    folder = tmp_path_factory.mktemp("single") / "page"
    return again(page_folder, folder, run, litert_js=str(modules), single_file=True)


def test_a_single_file_needs_no_other_one(browser, single_file, labels_of, images):
    alone = single_file.with_name("renamed.html")
    alone.write_bytes(single_file.read_bytes())
    assert sorted(path.name for path in single_file.parent.iterdir()) == [
        "index.html", "parity.json", "renamed.html",
    ]  # fmt: skip
    browser.open(alone)
    expected = labels_of(images[2])
    np.testing.assert_array_equal(found_labels(browser, images[2]), expected)
    assert all(url.startswith(("file:", "blob:", "data:")) for url in browser.requests)
    assert [url for url in browser.requests if url.startswith("file:")] == [alone.as_uri()]


@pytest.fixture(scope="module")
def labelled_page(browser, page_folder, images):
    """The browser on the page of a folder, with an image on it."""
    browser.open(page_folder / "index.html")
    found_labels(browser, images[2])
    return browser


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_the_page_fits_its_window(labelled_page, width, theme):
    labelled_page.show(width, theme)
    assert labelled_page.value("innerWidth") == width
    assert labelled_page.value("document.documentElement.scrollWidth <= innerWidth")
    ground = labelled_page.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")


def test_the_legend_has_the_shares_and_shows_a_class_alone(labelled_page):
    labels = np.array(labelled_page.value("[...shown.labels]"))
    ids, counts = np.unique(labels, return_counts=True)
    order = np.lexsort([ids, -counts])
    lines = labelled_page.value(
        "[...byId('legend').querySelectorAll('button')].map("
        "button => [...button.children].map(each => each.textContent))"
    )
    assert [name for _, name, _ in lines] == [INFO.class_names[ids[i]] for i in order]
    assert EVIL in INFO.class_names[: len(lines)]
    shares = [float(share.strip("<% ")) for _, _, share in lines]
    np.testing.assert_allclose(shares, 100 * counts[order] / labels.size, atol=0.051)

    count_opaque = """(() => {
        const {width, height} = overlayCanvas;
        const {data} = context(overlayCanvas).getImageData(0, 0, width, height);
        return data.filter((value, index) => index % 4 === 3 && value).length;
    })()"""
    assert labelled_page.value(count_opaque) == labels.size
    first = "byId('legend').querySelector('button')"
    for pressed, opaque in (("true", counts.max()), ("false", labels.size)):
        labelled_page.value(f"{first}.focus()")
        labelled_page.press("Enter")
        assert labelled_page.value(f"{first}.getAttribute('aria-pressed')") == pressed
        assert labelled_page.value(count_opaque) == opaque


def test_the_pointer_and_the_arrow_keys_read_the_class_of_a_pixel(labelled_page):
    height, width, *labels = labelled_page.value("[shown.height, shown.width, ...shown.labels]")
    labels = np.reshape(labels, [height, width])

    def told(column, row):
        return f"{INFO.class_names[labels[row, column]]} at {column}, {row}"

    labelled_page.show(1280)
    left, top, *scale = labelled_page.value(
        "(({left, top, width, height}) => [left, top, width / shown.width, height / shown.height])"
        "(view.getBoundingClientRect())"
    )
    for column, row in ((10, 20), (290, 5), (150, 125)):
        x, y = left + (column + 0.5) * scale[0], top + (row + 0.5) * scale[1]
        labelled_page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert labelled_page.value("byId('pixel').textContent") == told(column, row)
    labelled_page.value("view.focus()")
    column, row, step = width // 2, height // 2, round(max(height, width) / 40)
    for key, right, down in (("ArrowRight", 1, 0), ("ArrowDown", 0, 1), ("ArrowDown", 0, 1)):
        labelled_page.press(key)
        column, row = column + right * step, row + down * step
        assert labelled_page.value("byId('pixel').textContent") == told(column, row)


def test_the_opacity_is_set_by_the_keyboard(labelled_page):
    labelled_page.value("byId('opacity').focus()")
    labelled_page.press("ArrowLeft")
    assert labelled_page.value("overlayCanvas.style.opacity") == "0.54"
    assert labelled_page.value("document.querySelector('output').value") == "54 %"


def test_every_control_has_a_name_for_screen_readers(labelled_page):
    nodes = labelled_page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if node["role"]["value"] in {"button", "slider", "application"} and not node["ignored"]
    ]
    assert ("slider", "Opacity of the colours") in controls
    assert any(name.startswith("Label map of 130x300.png") for _, name in controls)
    assert all(name for _, name in controls)
    assert labelled_page.value("document.querySelectorAll('[role=status]').length") == 2


def test_saved_labels_are_those_that_predict_writes(labelled_page):
    saved = labelled_page.value(
        "labelPng(shown).then(png => png.bytes()).then(bytes => [...bytes])"
    )
    image = Image.open(io.BytesIO(bytes(saved)))
    image.load()
    assert image.mode == "P"
    expected = np.array(labelled_page.value("[...shown.labels]"))
    np.testing.assert_array_equal(np.asarray(image).ravel(), expected)
    colors = np.array(image.getpalette()).reshape(-1, 3)[: INFO.num_classes]
    np.testing.assert_array_equal(colors, INFO.colors)


def test_labels_above_255_are_saved_in_16_bits(labelled_page):
    saved = labelled_page.value(
        "labelPng({width: 3, height: 2, labels: Uint16Array.of(0, 1, 255, 256, 300, 65535)})"
        ".then(png => png.bytes()).then(bytes => [...bytes])"
    )
    image = np.asarray(Image.open(io.BytesIO(bytes(saved))))
    np.testing.assert_array_equal(image, [[0, 1, 255], [256, 300, 65535]])


def test_a_dropped_image_is_labelled(labelled_page, images, labels_of):
    data = {"items": [], "files": [str(images[3])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        labelled_page.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)
    labelled_page.wait_for("shown.name === '333x120.png'")
    expected = labels_of(images[3])
    found = labelled_page.value("[...shown.labels]")
    np.testing.assert_array_equal(np.reshape(found, expected.shape), expected)


def test_a_file_that_is_not_an_image_is_named(labelled_page, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    labelled_page.choose_file("#file", path)
    labelled_page.wait_for("byId('status').className")
    told = labelled_page.value("byId('status').textContent")
    assert told == "notes.png is not an image that this browser can read."


def test_an_image_that_the_canvas_cannot_hold_is_refused(labelled_page, tmp_path):
    Image.new("RGB", (70000, 1), "white").save(tmp_path / "long.png")
    labelled_page.choose_file("#file", tmp_path / "long.png")
    labelled_page.wait_for("byId('status').textContent.startsWith('long.png')")
    told = labelled_page.value("byId('status').textContent")
    assert told == "long.png has 70000 x 1 pixels, too many for this browser: make it smaller."


def test_the_camera_is_labelled_until_it_is_stopped(labelled_page):
    labelled_page.value("byId('camera').click()")
    labelled_page.wait_for("shown.name === 'camera'")
    assert labelled_page.value("byId('camera').textContent") == "Stop the camera"
    labelled_page.value("byId('camera').click()")
    assert labelled_page.value("byId('camera').getAttribute('aria-pressed')") == "false"
    assert labelled_page.value("camera") is None


def test_a_camera_that_is_started_twice_is_stopped_as_a_whole(labelled_page):
    labelled_page.value("""(() => {
        const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
        window.streams = [];
        devices.getUserMedia = async (wanted) => {
            streams.push(await open(wanted));
            return streams.at(-1);
        };
        byId("camera").click();
        byId("camera").click();
    })()""")
    labelled_page.wait_for("streams.length === 2 && shown.name === 'camera'")
    labelled_page.value("byId('camera').click()")
    labelled_page.wait_for(
        "streams.every((one) => one.getTracks().every((track) => track.readyState === 'ended'))"
    )


def test_a_page_without_its_network_says_so(browser, page_folder, tmp_path):
    page = tmp_path / "index.html"
    page.write_bytes((page_folder / "index.html").read_bytes())
    browser.open(page)
    browser.wait_for("byId('status').className")
    told = browser.value("byId('status').textContent")
    assert re.fullmatch(r"The network cannot start. The file \w+.js is not beside this page.", told)


def test_a_page_can_load_litert_js_from_a_cdn(
    browser, page_folder, labels_of, images, run, modules, tmp_path
):
    page = again(page_folder, tmp_path / "page", run, cdn=True, single_file=True)
    assert page.stat().st_size < 1_000_000
    for package in ("core", "wasm-utils"):
        place = tmp_path / f"npm/@litertjs/{package}@{litert_js.version()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(modules / "@litertjs" / package)
    with serving(tmp_path) as address:
        html = page.read_text(encoding="utf-8").replace(litert_js.CDN, address)
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        browser.open(f"{address}/page.html")
        np.testing.assert_array_equal(found_labels(browser, images[2]), labels_of(images[2]))
    loaded = {url.removeprefix(address) for url in browser.requests if url.startswith("http")}
    urls = {url.removeprefix(litert_js.CDN) for url in litert_js.cdn_urls()["relaxed"].values()}
    assert loaded == {"/page.html", *urls}


@pytest.fixture(scope="module")
def browser_with_gpu(tmp_path_factory):
    """A browser whose GPU is software, which WebGPU marks as a fallback."""
    options = (
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--enable-features=Vulkan",
        "--use-vulkan=swiftshader",
        "--use-angle=swiftshader",
    )
    with running_browser(tmp_path_factory.mktemp("profile"), *options, has_gpu=True) as running:
        running.open("about:blank")
        yield running


@pytest.mark.slow
def test_on_webgpu_the_labels_are_the_same(browser_with_gpu, page_folder, labels_of, images):
    browser_with_gpu.open((page_folder / "index.html").as_uri() + "#webgpu")
    if not browser_with_gpu.value("navigator.gpu?.requestAdapter().then(Boolean)"):
        pytest.skip("needs WebGPU, which this browser does not have")
    for path in images[1:3]:
        found = found_labels(browser_with_gpu, path)
        np.testing.assert_array_equal(found, labels_of(path), path.name)
    assert "GPU (WebGPU)" in browser_with_gpu.value("byId('status').textContent")


@pytest.mark.slow
@pytest.mark.parametrize("claims_to_be_fast", [False, True])
def test_a_gpu_of_software_is_not_used(
    browser_with_gpu, single_file, labels_of, images, tmp_path, claims_to_be_fast
):
    """It is slower than WebAssembly, and that is measured where the adapter does not say so."""
    html = single_file.read_text(encoding="utf-8")
    if claims_to_be_fast:
        html = html.replace("&& !adapter.info?.isFallbackAdapter", "")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    browser_with_gpu.open(tmp_path / "page.html")
    np.testing.assert_array_equal(found_labels(browser_with_gpu, images[2]), labels_of(images[2]))
    assert "CPU (WebAssembly)" in browser_with_gpu.value("byId('status').textContent")


# --- Without a browser --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 4])
def test_a_network_of_other_bands_is_refused(run, tmp_path, monkeypatch, number):
    dataset = dataclasses.replace(run.dataset, bands=FOUR_BANDS[:number], rgb_bands=(3, 2, 1))
    monkeypatch.setattr(run_dirs, "read", lambda _: dataclasses.replace(run, dataset=dataset))
    with pytest.raises(UserError, match=f"images of {number} bands, and browsers read RGB"):
        web.export_web("run", str(tmp_path / "page"))
    assert not (tmp_path / "page").exists()


def test_a_missing_interpreter_is_named_before_anything_is_fetched(tmp_path, without_package):
    without_package("ai_edge_litert")
    with pytest.raises(UserError, match=r"ai_edge_litert.*'deeplab_tf\[litert\]'"):
        web.export_web("run", str(tmp_path / "page"))


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "index.html").write_text("<title>My home page</title>")
    with pytest.raises(UserError, match="holds files that are not an earlier page"):
        web.export_web("run", str(tmp_path))
    with pytest.raises(UserError, match="is a file: give a folder"):
        web.export_web("run", str(tmp_path / "index.html"))


def test_an_earlier_page_is_replaced_as_a_whole(run, page_folder, tmp_path):
    again(page_folder, tmp_path / "page", run, cdn=True)
    assert (tmp_path / "page/model.js").exists()
    again(page_folder, tmp_path / "page", run, cdn=True, single_file=True)
    assert sorted(os.listdir(tmp_path / "page")) == ["index.html", "parity.json"]
    assert os.listdir(tmp_path) == ["page"]


def test_what_was_put_beside_an_earlier_page_is_not_deleted(tmp_path):
    (tmp_path / "index.html").write_text('<meta name="generator" content="deeplab_tf">')
    for name in ("model.js", ".DS_Store"):
        (tmp_path / name).touch()
    publishing.PageFolder(str(tmp_path), "index.html", ["model.js"])
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError, match="are not an earlier page, such as .git: give another"):
        web.export_web("run", str(tmp_path))


def test_a_page_is_written_to_remote_storage_and_replaced_there(run, page_folder):
    folder = files.as_path("ram://site/page")
    again(page_folder, folder, run, cdn=True)
    page = again(page_folder, folder, run, cdn=True, single_file=True)
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "parity.json"]
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_cdn_and_a_folder_contradict_each_other():
    with pytest.raises(UserError, match="--cdn and --litert_js contradict each other"):
        WebConfig(cdn=True, litert_js="node_modules")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("DEEPLAB_TF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_npm(folder: pathlib.Path, script: str, monkeypatch) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def packages(folder: pathlib.Path) -> pathlib.Path:
    """A node_modules folder with packages of a few bytes."""
    for package, path in [
        place for variant in litert_js.VARIANTS for place in litert_js._files(variant).values()
    ]:
        place = folder / package / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path)
    (folder / "@litertjs/core/package.json").write_text('{"version": "9.9.9"}')
    return folder


def test_npm_fills_the_cache_once(tmp_path, cache, monkeypatch):
    modules = packages(tmp_path / "modules")
    calls = tmp_path / "calls"
    script = f'echo "$@" >> {calls}; test -f package-lock.json && cp -r {modules} node_modules'
    fake_npm(tmp_path / "bin", script, monkeypatch)
    assert litert_js.find() == litert_js.find() == litert_js.find(str(modules))
    assert litert_js.find().version == "9.9.9"
    assert len(calls.read_text().splitlines()) == 1
    assert sorted(os.listdir(cache / "litert_js")) == [litert_js.version()]


def test_the_reason_why_npm_fails_is_told(tmp_path, cache, monkeypatch):
    fake_npm(tmp_path / "bin", "echo no network >&2; exit 1", monkeypatch)
    with pytest.raises(UserError, match="(?s)npm cannot fetch LiteRT.js: no network.*--litert_js"):
        litert_js.find()
    assert not cache.exists() or not list(cache.rglob("*.js"))


def test_without_npm_the_ways_out_are_told(cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="Install Node.js; or .*--litert_js; or .*--cdn"):
        litert_js.find()


@pytest.mark.parametrize("below", ["", "@litertjs/core", ".."])
def test_litert_js_is_found_around_the_given_folder(tmp_path, below):
    modules = packages(tmp_path / "node_modules")
    found = litert_js.find(str(modules / below)).variants["compat"]["wasm"]
    assert found == b"wasm/litert_wasm_compat_internal.wasm"


def test_a_folder_without_litert_js_is_refused(tmp_path):
    with pytest.raises(UserError, match="npm install @litertjs/core@"):
        litert_js.find(str(tmp_path))
    modules = packages(tmp_path / "node_modules")
    (modules / "@litertjs/core/dist/index.js").unlink()
    with pytest.raises(UserError, match="does not hold the whole of LiteRT.js"):
        litert_js.find(str(tmp_path))


def test_pages_and_tests_use_the_same_version_of_litert_js():
    tested = json.loads((REPOSITORY / "tests/web/package-lock.json").read_text())
    assert tested["packages"]["node_modules/@litertjs/core"]["version"] == litert_js.version()
    guide = (REPOSITORY / "docs/guides/browser.md").read_text()
    assert f"npm install @litertjs/core@{litert_js.version()}" in guide
