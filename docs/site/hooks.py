"""What mkdocs does besides converting pages: generated pages, figures, formulas, navigation."""

import pathlib
import re

import figures
import generated
import latex2mathml.converter
from mkdocs.structure import files as mkdocs_files

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Where the generated pages of an entry of the navigation lie.
GENERATED = {
    "Commands": "reference/commands/",
    "Python": "reference/python/",
    "Datasets": "reference/datasets/",
    "Notebooks": "guides/notebooks/",
}


def on_config(config):
    """Makes MathML of the code blocks marked `math`, which GitHub shows as formulas, too."""
    config["mdx_configs"]["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "math", "format": _formula}]
    }
    return config


def on_files(files, config):
    """Adds the generated pages, and completes the navigation."""
    pages = generated.pages(REPOSITORY)
    for path, text in pages.items():
        files.append(mkdocs_files.File.generated(config, path, content=text))
    for path, text in generated.notebooks(REPOSITORY).items():
        files.append(mkdocs_files.File.generated(config, path, content=text))
    on_disk = [file.src_uri for file in files.documentation_pages() if file.src_uri not in pages]
    config["nav"] = complete_navigation(config["nav"], on_disk, sorted(pages))
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts the figures of `figures.py` into the page, as SVG in the colours of its text."""
    return re.sub(
        r"^!\[([^]]+)\]\(figures/(\w+)\.svg\)$",
        lambda match: figures.draw(match[2], match[1]),
        markdown,
        flags=re.MULTILINE,
    )


def complete_navigation(navigation: list, pages: list[str], generated_pages: list[str]) -> list:
    """Returns the navigation with every page in it.

    The generated pages go to the entries that `GENERATED` names. Other pages that the navigation
    does not name go to the end of the section that is called as their folder.

    Args:
        navigation: The `nav` of mkdocs.yml.
        pages: The pages on disk, relative to docs/.
        generated_pages: The pages that are made from the code.
    """
    named = set(_named_pages(navigation))
    completed = []
    for entry in navigation:
        for title, children in entry.items() if isinstance(entry, dict) else ():
            if isinstance(children, list):
                folder = title.lower() + "/"
                more = [page for page in pages if page.startswith(folder) and page not in named]
                filled = [_filled(child, generated_pages) for child in children]
                entry = {title: filled + sorted(more)}
        completed.append(entry)
    return completed


def _filled(entry, generated_pages: list[str]):
    """Returns an entry of a section, with its pages if it is one of `GENERATED`."""
    title = next(iter(entry)) if isinstance(entry, dict) else ""
    if title not in GENERATED:
        return entry
    return {title: [page for page in generated_pages if page.startswith(GENERATED[title])]}


def _formula(source, language, css_class, options, md, **kwargs) -> str:
    return latex2mathml.converter.convert(source.strip(), display="block")


def _named_pages(navigation):
    for entry in navigation:
        values = entry.values() if isinstance(entry, dict) else [entry]
        for value in values:
            if isinstance(value, list):
                yield from _named_pages(value)
            else:
                yield value
