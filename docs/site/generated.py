"""The pages of the site that are made from the code, and from files that lie elsewhere.

Flags, public names, experiments, datasets, notebooks, changes.
"""

import ast
import importlib
import inspect
import pathlib
import re

import jupytext

from deeplab_tf import __main__ as overview
from deeplab_tf import command_line
from deeplab_tf import settings

# Pages of the API: the module whose `__all__` they list, and their introduction.
API_PAGES = {
    "deeplab_tf": "The names of the package itself: models, trained runs, weights, the CRF.",
    "deeplab_tf.layers": "The layers of DeepLab. They take and return channels-last tensors.",
    "deeplab_tf.backbones": "The networks that DeepLab takes its features from.",
    "deeplab_tf.models": "The versions of DeepLab, and the settings that they share.",
}
# Names of `deeplab_tf.__all__` that are not functions or classes.
NOT_DESCRIBED = ("__version__", "backbones", "layers", "models")


def pages(repository: pathlib.Path) -> dict[str, str]:
    """Returns the Markdown of all generated pages, by their paths in docs/."""
    texts = {f"reference/commands/{name}.md": command_page(name) for name in overview.NAMES}
    for module, introduction in API_PAGES.items():
        path = repository / module.replace(".", "/") / "__init__.py"
        texts[f"reference/python/{module}.md"] = api_page(module, introduction, path)
    for path in sorted(repository.glob("datasets/*/README.md")):
        texts[f"reference/datasets/{path.parent.name}.md"] = dataset_page(path)
    for path in sorted(repository.glob("examples/*.py")):
        texts[f"guides/notebooks/{path.stem}.md"] = notebook_page(path)
    texts["reference/experiments.md"] = experiments_page(repository / "configs")
    measured = sorted(repository.glob("docs/results/measured/*.txt"))
    if measured:
        texts["results/measured.md"] = measured_page(measured)
    changes = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    texts["changelog.md"] = changes.replace("](docs/", "](")
    return texts


def notebooks(repository: pathlib.Path) -> dict[str, str]:
    """Returns the notebooks of examples/ as .ipynb files, by their paths in docs/."""
    return {
        f"guides/notebooks/{path.stem}.ipynb": jupytext.writes(
            jupytext.read(path, fmt="py:percent"), fmt="ipynb"
        )
        for path in sorted(repository.glob("examples/*.py"))
    }


def command_page(name: str) -> str:
    """Returns the page of a command: what its docstring says, and all its flags by group."""
    module = importlib.import_module(f"deeplab_tf.{name}" + ".__main__" * (name == "zoo"))
    parts = [f"# {name}", inspect.getdoc(module)]
    if takes_configs(module.main):
        configs = command_line.configs_of(module.main)
        common = [one for kind in configs for one in settings.settings_of(kind) if one.is_common]
        parts += [_flags("Common flags", common)]
        for config in configs:
            others = [one for one in settings.settings_of(config) if not one.is_common]
            parts += [_flags(f"More {config.title} flags".replace("  ", " "), others)]
    return "\n\n".join(filter(None, parts)) + "\n"


def takes_configs(main) -> bool:
    """Returns whether the flags of a command's `main` are made from configs."""
    annotations = inspect.get_annotations(main, eval_str=True)
    kinds = [kind for name, kind in annotations.items() if name != "return"]
    return all(isinstance(kind, type) and issubclass(kind, settings.Config) for kind in kinds)


def api_page(module: str, introduction: str, path: pathlib.Path) -> str:
    """Returns the page of a module: the documentation of every name in its `__all__`."""
    names = public_names(path)
    parts = [f"# {module}", introduction]
    parts += [f"::: {module}.{name}" for name in names]
    return "\n\n".join(parts) + "\n"


def public_names(path: pathlib.Path) -> list[str]:
    """Returns the functions and classes in a module's `__all__`, without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
            return [
                name
                for name in names
                if name not in ("__version__", "backbones", "layers", "models")
            ]
    raise ValueError(f"{path} has no __all__")


def dataset_page(path: pathlib.Path) -> str:
    """Returns the README of a dataset, with its links as they are within the site."""
    text = path.read_text(encoding="utf-8").replace("](../../docs/", "](../../")
    return re.sub(r"(?<!\]\()(?<![<\w])(https?://[^\s,;)]+[\w/])", r"<\1>", text)


def notebook_page(path: pathlib.Path) -> str:
    """Returns a notebook, a script in the percent format of jupytext, as Markdown."""
    notebook = jupytext.read(path, fmt="py:percent")
    cells = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in notebook.cells
    ]
    title, *others = cells
    link = f"[Download the notebook]({path.stem}.ipynb)"
    return "\n\n".join([title, link, *others]) + "\n"


def experiments_page(folder: pathlib.Path) -> str:
    """Returns the page of all flagfiles in configs/, with the comment that each begins with."""
    parts = [
        "# Experiments",
        "Each file in `configs/` is one experiment: `--flagfile=configs/NAME.flagfile` gives its "
        "flags to `train`. Flags on the command line win.",
    ]
    for path in sorted(folder.glob("*.flagfile")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = [re.sub("^# ?", "", line) for line in lines if line.startswith("#")]
        flags = [line for line in lines if line.startswith("--")]
        parts += [f"## {path.stem}", _code(comment), _code(flags)]
    return "\n\n".join(parts) + "\n"


def measured_page(paths: list[pathlib.Path]) -> str:
    """Returns the page of what the benchmarks printed."""
    parts = [
        "# As measured",
        "What the benchmarks printed when `make bench` ran last. Ratios within a table are of one "
        "run; seconds of two tables cannot be compared.",
    ]
    for path in paths:
        command, *printed = path.read_text(encoding="utf-8").splitlines()
        parts += [f"## {command.removeprefix('python benchmarks/')}", _code([command, *printed])]
    return "\n\n".join(parts) + "\n"


def _code(lines: list[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def _flags(title: str, flags: list[settings.Setting]) -> str:
    """Returns flags as a list: name, help, and what values it takes."""
    if not flags:
        return ""
    items = [f"## {title}"]
    for flag in flags:
        facts = command_line.describe_values(flag)
        items.append(f"`--{flag.name}`\n:   {flag.help}" + (f" *[{facts}]*" if facts else ""))
    return "\n\n".join(items)
