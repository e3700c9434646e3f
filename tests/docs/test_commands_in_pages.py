"""The commands that pages tell readers to type are right."""

import dataclasses
import pathlib
import re
import shlex

import pytest

from conftest import COMMANDS
from conftest import REPOSITORY
from conftest import configs_of
from deeplab_tf import command_line

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "datasets").rglob("README.md"),
    ]
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the package, as a page shows it."""

    module: str
    arguments: tuple[str, ...]


def commands_in(text: str) -> list[Command]:
    """Returns the commands `python -m deeplab_tf...` in the code blocks of a page."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    matches = [re.match(r"\s*(?:- run: )?python -m (deeplab_tf\S*) *(.*)", line) for line in lines]
    commands = []
    for match in filter(None, matches):
        words = shlex.split(match[2], comments=True)
        ends = [index for index, word in enumerate(words) if word in ("&", "|", ">", "&&")]
        commands.append(Command(match[1], tuple(words[: min(ends, default=len(words))])))
    return commands


def test_commands_are_found_over_several_lines_and_up_to_pipes():
    text = "    python -m deeplab_tf.eval --run_dir=RUN \\\n        --split=val | head  # here\n"
    assert commands_in(text) == [Command("deeplab_tf.eval", ("--run_dir=RUN", "--split=val"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_flag_in_a_command_exists_and_takes_the_value(page: pathlib.Path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # where flagfiles are looked up
    for command in commands_in(page.read_text(encoding="utf-8")):
        if command.module in COMMANDS and "--help" not in command.arguments:
            command_line.parse(command.arguments, *configs_of(command.module))
