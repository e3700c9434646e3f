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
    made = generated.pages(REPOSITORY) | generated.notebooks(REPOSITORY)
    for path, text in made.items():
        files.append(mkdocs_files.File.generated(config, path, content=text))
    config["nav"] = complete_navigation(
        config["nav"], sorted(file.src_uri for file in files.documentation_pages())
    )
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts the figures of `figures.py` into the page, as SVG in the colours of its text."""
    return re.sub(
        r"^!\[([^]]+)\]\(figures/(\w+)\.svg\)$",
        lambda match: figures.draw(match[2], match[1]),
        markdown,
        flags=re.MULTILINE,
    )


def complete_navigation(navigation: list, pages: list[str]) -> list:
    """Returns the navigation with every page in it.

    The entries that `GENERATED` names get the pages of their folders. Other pages that the
    navigation does not name go to the end of the section that is called as their folder.

    Args:
        navigation: The `nav` of mkdocs.yml.
        pages: All pages, relative to docs/.
    """
    named = set(_named_pages(navigation))
    folders = tuple(GENERATED.values())
    others = [page for page in pages if page not in named and not page.startswith(folders)]
    completed = [_filled(entry, pages) for entry in navigation]
    for entry in completed:
        for title, children in entry.items() if isinstance(entry, dict) else ():
            if isinstance(children, list):
                children += [page for page in others if page.startswith(title.lower() + "/")]
    return completed


def _filled(entry, pages: list[str]) -> dict | str:
    """Returns an entry of the navigation in which those that `GENERATED` names have pages."""
    if isinstance(entry, str):
        return entry
    ((title, children),) = entry.items()
    if title in GENERATED:
        return {title: [page for page in pages if page.startswith(GENERATED[title])]}
    if isinstance(children, list):
        return {title: [_filled(child, pages) for child in children]}
    return entry


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
