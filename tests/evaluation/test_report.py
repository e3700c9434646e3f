"""The page of an evaluation: its structure, and what a browser makes of it."""

import functools
import html.parser
import json
import pathlib

import numpy as np
import pytest

from browsers import THEMES
from browsers import WIDTHS
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.data.records import numbered_classes
from deeplab_tf.datasets.shapes import drawing
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation import metrics
from deeplab_tf.evaluation import report
from deeplab_tf.evaluation.results import Evaluation

# Names that would break a page which does not escape them, or the script of one.
EVIL = "</script><b title='\"'>&amp;"
INFO = DatasetInfo("shapes & co", (EVIL, *drawing.CLASS_NAMES[1:]), drawing.COLORS, 255)
# Elements that have no end.
VOID = {"img", "br", "link", "meta", "input"}


@functools.cache
def evaluation(
    num_images: int, shift: int, info: DatasetInfo = INFO
) -> tuple[dict, list[dict], list[report.Shown]]:
    """Result, lines of images.jsonl and images, of predictions that lie `shift` too far."""
    shown, lines = [], []
    total = np.zeros((info.num_classes, info.num_classes), np.int64)
    for index in range(num_images):
        image, label = drawing.draw("val", index)
        label = label.astype(np.int32)
        prediction = np.roll(np.where(label == 255, 0, label), shift + index, axis=1)
        counts = metrics.confusion_matrix(label, prediction, info.num_classes, 255)
        figures = metrics.segmentation_metrics(counts, info.class_names)
        ious = {name: iou for name, iou in figures["iou_per_class"].items() if iou is not None}
        name = f"val_{index} {EVIL}"
        lines.append(figures | {"name": name, "iou_per_class": ious})
        shown.append(report.Shown(name, figures["miou"], image, label, prediction))
        total += counts
    result = metrics.segmentation_metrics(total, info.class_names) | {
        "run_dir": f"runs/{shift}",
        "split": "val",
        "records": EVIL,
        "command": f"python -m deeplab_tf.eval --run_dir='{EVIL}'",
        "confusion_matrix": total.tolist(),
        "trimap": {"widths": [1, 5, 40], "miou": [0.3, 0.5, 0.6]},
        "boundary_iou": 0.25,
        "boundary_iou_per_class": dict.fromkeys(info.class_names, 0.25),
        "num_images": num_images,
        "images_per_second": 12.34,
        "peak_memory_mib": 1234.5,
    }
    return result, lines, shown


class Page(html.parser.HTMLParser):
    """Tags, texts and the data of a page; fails where tags do not match."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.data = {}
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, text):
        if self._open and self._open[-1] not in ("script", "style"):
            self.texts.append(text)
        elif self._open and self.tags[-1][1].get("id") == "data":
            self.data = json.loads(text)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory) -> pathlib.Path:
    """A page of 6 images that are compared with a worse run."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    result, lines, shown = evaluation(6, shift=1)
    other = Evaluation(*evaluation(6, shift=4)[:2])
    this = Evaluation(result, lines)
    report.write(path, this, info=INFO, worst=shown[:4], best=shown[4:], other=other)
    return path


@pytest.fixture(scope="module")
def page(page_path) -> Page:
    return Page(page_path)


def test_every_class_and_every_image_is_on_the_page_with_its_figures(page):
    result, lines, _ = evaluation(6, shift=1)
    assert page.data["classes"] == list(INFO.class_names)
    assert [image["name"] for image in page.data["images"]] == [line["name"] for line in lines]
    assert page.data["images"][2]["ious"]["0"] == pytest.approx(
        lines[2]["iou_per_class"][EVIL], abs=1e-4
    )
    for name, iou in result["iou_per_class"].items():
        assert name in page.texts
        assert iou is None or f"{iou:.1%}" in page.texts
    for text in (f"{result['miou']:.2%}", "25.00%", "12.3", "1,234 MiB", result["command"]):
        assert text in page.texts
    articles = [attributes["data-name"] for attributes in page.all("article")]
    assert articles == [line["name"] for line in lines]
    assert page.texts.index("The worst") < page.texts.index("The best")


def test_settings_are_shown_in_words_and_only_if_they_are_on(tmp_path):
    result, lines, _ = evaluation(1, shift=1)
    settings = {
        "crf": {"gaussian_weight": 3.0, "iterations": 10},
        "eval_scales": [0.5, 1.0],
        "add_flipped_images": True,
        "window_size": [513, 1025],
        "window_overlap": 1 / 3,
        "border_width": 0,
    }
    path = tmp_path / "report.html"
    report.write(path, Evaluation(result | settings, lines), info=INFO)
    texts = Page(path).texts
    for text in ("gaussian weight 3, iterations 10", "0.5; 1", "yes", "513; 1,025", "0.3333"):
        assert text in texts
    assert "border width" not in texts
    report.write(path, Evaluation(result | settings | {"window_size": []}, lines), info=INFO)
    assert "window overlap" not in Page(path).texts


def test_names_can_neither_end_a_tag_nor_the_script(page):
    assert all("title" not in attributes for attributes in page.all("b"))
    assert len(page.all("script")) == 2
    assert {attributes["data-name"] for attributes in page.all("article")} == {
        f"val_{index} {EVIL}" for index in range(6)
    }


def test_the_page_needs_no_network_and_no_other_file(page):
    for _, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("data:", "#"))
    style = page.all("meta")[2]["content"]
    assert style.startswith("default-src 'none'; img-src data:;")


def test_every_panel_has_an_alternative_text_and_photos_are_jpegs_and_labels_pngs(page):
    panels = [image for image in page.all("img") if image["alt"]]
    assert len(panels) == 6 * 4
    for index, kind in enumerate(("Image", "Label", "Prediction", "Errors")):
        expected = "jpeg" if kind in ("Image", "Errors") else "png"
        for image in panels[index::4]:
            assert image["alt"].startswith(kind)
            assert image["src"].startswith(f"data:image/{expected};base64,")


def test_the_page_shows_which_classes_and_images_got_better_or_worse(page_path, tmp_path):
    assert "Of 6 images, " in page_path.read_text()
    better, worse = (Evaluation(*evaluation(6, shift=shift)[:2]) for shift in (1, 4))
    report.write(tmp_path / "worse.html", worse, info=INFO, other=better)
    text = (tmp_path / "worse.html").read_text()
    assert '<span class="better">0 got better</span>' in text
    assert '<span class="worse">6 got worse</span>' in text
    change = worse.images[0]["miou"] - better.images[0]["miou"]
    assert f"\N{MINUS SIGN}{abs(100 * change):.1f}" in Page(tmp_path / "worse.html").texts


def test_a_run_on_other_classes_cannot_be_compared():
    report.check_comparable(Evaluation(*evaluation(1, shift=1)[:2]), INFO.class_names)
    other = Evaluation({"run_dir": "runs/b", "iou_per_class": {"cat": 0.5}}, [])
    with pytest.raises(UserError, match="runs/b cannot be compared.*cat"):
        report.check_comparable(other, INFO.class_names)


def test_a_result_with_few_figures_makes_a_page(tmp_path):
    matrix = np.array([[5, 0], [0, 0]])
    info = numbered_classes("two", 2)
    result = metrics.segmentation_metrics(matrix, info.class_names)
    figures = result | {"confusion_matrix": matrix.tolist()}
    report.write(tmp_path / "report.html", Evaluation(figures, []), info=info)
    page = Page(tmp_path / "report.html")
    assert any("of one class only" in text and "class_0" in text for text in page.texts)
    assert [a["href"] for a in page.all("a")] == [
        "#summary", "#classes", "#confusion", "#images"
    ]  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_the_page_fits_its_window_and_the_console_stays_silent(browser, page_path, width, theme):
    browser.complaints.clear()
    browser.open(page_path, width, theme)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    # Four panels in a row on a laptop, two on a phone.
    tops = browser.value(
        "[...document.querySelectorAll('article:first-of-type figure')].slice(0, 4)"
        ".map(figure => figure.getBoundingClientRect().top)"
    )
    assert len(set(tops)) == (1 if width > 1000 else 2)
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")
    assert not browser.complaints


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_of_150_classes_fits_too(browser, tmp_path, width):
    info = numbered_classes("many", 150)
    result, lines, shown = evaluation(1, shift=1, info=info)
    report.write(tmp_path / "report.html", Evaluation(result, lines), info=info, worst=shown)
    browser.open(tmp_path / "report.html", width)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    browser.value("pointAt(149, 149)")
    assert browser.value("document.getElementById('cell').textContent") == (
        "class_149 occurs in no label"
    )
    # Names stay beside their rows when the matrix is scrolled.
    browser.value("document.querySelector('.matrix').scrollTo(1000, 1000)")
    assert browser.value(
        "document.querySelector('.rows').getBoundingClientRect().left"
        " === document.querySelector('.matrix').getBoundingClientRect().left"
    )


def test_the_filter_shows_images_of_a_class_the_lowest_iou_first(browser, page_path):
    _, lines, _ = evaluation(6, shift=1)
    name = INFO.class_names[5]
    expected = sorted(
        (line["iou_per_class"][name], line["name"])
        for line in lines
        if name in line["iou_per_class"]
    )
    assert 0 < len(expected) < 6
    browser.open(page_path, 1280)
    rows = "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[0].textContent)"
    assert len(browser.value(rows)) == 6
    browser.value("choice.value = '5'; choice.dispatchEvent(new Event('change'))")
    assert browser.value(rows) == [name for _, name in expected]
    visible = browser.value(
        "[...document.querySelectorAll('article:not([hidden])')].map(a => a.dataset.name)"
    )
    assert sorted(visible) == sorted(name for _, name in expected)
    assert browser.value("document.getElementById('found').textContent").startswith(
        f"{len(expected)} of 6"
    )
    # The same class again, by its name in the table: everything is back.
    browser.value("document.querySelector('#classes [data-class=\"5\"]').click()")
    assert len(browser.value(rows)) == 6


def test_a_column_head_sorts_up_and_down(browser, page_path):
    browser.open(page_path, 1280)
    rows = "[...document.querySelectorAll('#classes tbody tr')]"
    keys = f"{rows}.map(row => row.cells[1].dataset.key)"
    press = "document.querySelectorAll('#classes thead button')[1].click()"
    ascending = [float(key) for key in browser.value(keys)]
    assert ascending == sorted(ascending)
    browser.value(press)
    assert [float(key) for key in browser.value(keys)] == ascending[::-1]
    state = "document.querySelectorAll('#classes thead th')[1].getAttribute('aria-sort')"
    assert browser.value(state) == "descending"


def test_a_panel_opens_in_large_and_arrow_keys_change_it(browser, page_path):
    browser.open(page_path, 390)
    browser.value("document.querySelector('.panel').click()")
    shown = "large.open && large.querySelector('img').alt"
    assert browser.value(shown).startswith("Image")
    for key, kind in (("Right", "Label"), ("Right", "Prediction"), ("Left", "Label")):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=f"Arrow{key}")
        assert browser.value(shown).startswith(kind)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")


def test_the_confusion_matrix_is_read_by_the_arrow_keys(browser, page_path):
    result, _, _ = evaluation(6, shift=1)
    matrix = np.array(result["confusion_matrix"])
    browser.open(page_path, 1280)
    browser.value("matrix.focus()")
    for _ in range(2):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowDown")
    text = browser.value("document.getElementById('cell').textContent")
    assert text.startswith(f"{INFO.class_names[2]}, taken for {EVIL}: ")
    assert text.endswith(f"({matrix[2, 0]:,})")
