"""The site of docs/: it builds, every link resolves, and nothing public is left out."""

import html.parser
import importlib
import logging
import pathlib
import re

import pytest

from conftest import COMMANDS
from conftest import REPOSITORY
from conftest import configs_of
from deeplab_tf import settings

pytest.importorskip("mkdocs", reason="pip install 'deeplab_tf[docs]'")
DOCS = REPOSITORY / "docs"


class Page(html.parser.HTMLParser):
    """The words and the ids of a page of the site."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.words, self.ids = "", set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.ids.update(value for name, value in attrs if name == "id")

    def handle_data(self, data):
        self.words += data


class Warnings(logging.Handler):
    """Collects what is logged."""

    def __init__(self, level: int):
        super().__init__(level)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[pathlib.Path, list[str]]:
    """The site, built as `make docs` builds it, and the warnings."""
    from mkdocs.commands import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    warnings = Warnings(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        logging.getLogger("mkdocs").addHandler(warnings)
        build.build(load_config(str(DOCS / "site/mkdocs.yml"), site_dir=str(folder)))
        logging.getLogger("mkdocs").removeHandler(warnings)
    return folder, warnings.messages


@pytest.fixture(scope="module")
def site(built) -> pathlib.Path:
    """The folder of the site."""
    return built[0]


def test_every_link_resolves(built):
    assert built[1] == []


def test_every_page_is_in_the_navigation(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    navigation = home[home.index('<nav class="md-nav md-nav--primary') :]
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    assert pages - set(re.findall(r'href="(?:\./)?([^"#]+)"', navigation)) == set()


def test_every_flag_of_every_command_is_described(site):
    for command in COMMANDS:
        name = command.removeprefix("deeplab_tf.")
        words = " ".join(Page(site / f"reference/commands/{name}.html").words.split())
        for config in configs_of(command):
            for setting in settings.settings_of(config):
                text = " ".join(setting.help.replace("`", "").split())
                assert f"--{setting.name} {text}" in words, command


@pytest.mark.parametrize("module", ["deeplab_tf", "deeplab_tf.layers", "deeplab_tf.backbones"])
def test_every_public_function_is_described(site, module):
    page = Page(site / f"reference/python/{module}.html")
    for name in importlib.import_module(module).__all__:
        value = getattr(importlib.import_module(module), name)
        if callable(value):
            assert f"{module}.{name}" in page.ids
            sentence = value.__doc__.strip().partition("\n")[0].replace("`", "")
            assert sentence in " ".join(page.words.split()), name


def test_nothing_is_loaded_from_other_sites(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]+src="https?:', text), path
        assert not re.search(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="https?:', text)


@pytest.mark.parametrize(
    "path",
    sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("[d-e]*s/*/README.md")]),
    ids=lambda path: path.relative_to(REPOSITORY).as_posix(),
)
def test_links_of_pages_outside_of_the_site_resolve(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
