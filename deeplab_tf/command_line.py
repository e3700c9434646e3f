"""The frame of every command: configs from flags and flagfiles, `--help`, errors, exit codes.

A command's `main` takes configs; `run` makes flags of their settings, fills the configs, and calls
it:

    def main(arguments: Arguments, model_config: ModelConfig) -> None: ...

    if __name__ == "__main__":
        command_line.run(main)

Flags are absl's: `--name=value`, `--name value`, `--name` and `--noname` for booleans, and
`--flagfile=FILE` with one flag on a line. The flags of a source (the command line or a flagfile)
win over those of the flagfiles that it names. Within one source, a list flag may be given several
times: its values are collected.
"""

import dataclasses
import difflib
import gc
import importlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

from absl import app
from absl import flags
from absl import logging

from deeplab_tf import files
from deeplab_tf import settings
from deeplab_tf import start_up
from deeplab_tf.errors import UserError
from deeplab_tf.errors import quiet_when_unread
from deeplab_tf.errors import shortened

_HELP_FLAGS = ("help", "helpshort", "helpfull", "h", "?")
_MIN_WIDTH = 40  # of a terminal, columns
_NO_BREAK = "\N{NO-BREAK SPACE}"
_FLAGFILE_HELP = (
    "flagfile",
    "File with further flags, one --name=value on a line. Flags on the command line win.",
)
_COMMENTS = ("#", "//")


def run(main: Callable[..., None], starts_tensorflow: bool = True) -> None:
    """Runs a command: calls `main` with the configs that its parameters are annotated with.

    A `UserError` is printed as one message, with exit code 1.

    Args:
        main: The command. It imports slow modules itself, so that `--help` and wrong flags are
            answered at once.
        starts_tensorflow: Whether TensorFlow is started before, without its notes on stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may not fit its encoding
            stream.reconfigure(errors="backslashreplace")
    config_classes = configs_of(main)
    for config_class in config_classes:
        define_flags(config_class)

    def run_main(_) -> None:
        outcome = _outcome(main, config_classes, starts_tensorflow)
        # Python aborts if threads of an input pipeline still call it while it shuts down. What an
        # error's frames held is free by now; this frees the rest.
        gc.collect()
        sys.exit(outcome)

    with quiet_when_unread():
        app.run(run_main, flags_parser=lambda argv: _parse_or_exit(argv, config_classes))


def lazy_function(module: str, name: str) -> Callable[..., typing.Any]:
    """Returns a function that imports another one when it is called, and calls it.

    Commands get their functions in this way, so that their `--help` need not import them.
    """

    def call(*args, **kwargs):
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"See `{module}.{name}`."
    return call


def configs_of(main: Callable[..., None]) -> list[type[settings.Config]]:
    """Returns the config classes that the parameters of a command's `main` are annotated with."""
    hints = typing.get_type_hints(main)
    return [hints[name] for name in inspect.signature(main).parameters]


def define_flags(
    config_class: type[settings.Config], flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines a flag for every setting of a config."""
    for setting in settings.settings_of(config_class):
        flags.DEFINE(
            _Parser(setting),
            setting.name,
            None if setting.is_required else setting.default,
            setting.help,
            serializer=_Serializer(setting),
            boolean=setting.item_type is bool,
            flag_values=flag_values,
            module_name=config_class.__name__,
        )


def read_flags(config_class: type[settings.Config], flag_values: flags.FlagValues = flags.FLAGS):
    """Returns a config filled from the parsed flags of its settings.

    Raises:
        UserError: A required flag is missing, or the values contradict each other.
    """
    names = [one.name for one in settings.settings_of(config_class)]
    values = {name: flag_values[name].value for name in names if flag_values[name].present}
    missing = [
        f"--{one.name}"
        for one in settings.settings_of(config_class)
        if one.is_required and values.get(one.name) is None
    ]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given. Pass --help for all flags.")
    return config_class(**values)


def to_arguments(*configs: settings.Config) -> list[str]:
    """Returns configs as arguments of a command line, without what is not given."""
    return [
        f"--{setting.name}={setting.to_text(value)}"
        for config in configs
        for setting, value in _values(config)
        if value is not None
    ]


def shell_command(module: str, *configs: settings.Config, **more: object) -> str:
    """Returns a command that works when it is pasted into a terminal of this platform.

    Args:
        module: The command's module, such as "deeplab_tf.train".
        *configs: Their values are given as flags where they are not the defaults.
        **more: Further flags; empty ones are left out.
    """
    given = [f"--{name}={value}" for name, value in more.items() if value not in (None, "")]
    for config in configs:
        given += [
            f"--{setting.name}={setting.to_text(value)}"
            for setting, value in _values(config)
            if value not in (None, setting.default)
        ]
    words = ["python", "-m", module, *given]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def write_flagfile(path: files.Path, *configs: settings.Config) -> None:
    """Writes configs as a flagfile that `--flagfile` and `read_flagfile` read back.

    Raises:
        OSError: The file cannot be written.
    """
    lines = []
    for config in configs:
        lines.append(f"# {type(config).__name__}")
        for setting, value in _values(config):
            if value is not None:
                lines.append(f"--{setting.name}={_quoted(setting.to_text(value))}")
    files.write_text(path, "\n".join(lines) + "\n")


def parse(arguments: Sequence[str], *config_classes: type[settings.Config]) -> tuple:
    """Returns the configs that the arguments of a command line describe.

    Raises:
        UserError: An argument is not a flag of the configs, or its value is not allowed.
    """
    flag_values = flags.FlagValues()
    for config_class in config_classes:
        define_flags(config_class, flag_values)
    _parse(arguments, flag_values)
    return tuple(read_flags(config_class, flag_values) for config_class in config_classes)


def read_flagfile(path: files.Path, *config_classes: type[settings.Config]) -> tuple:
    """Returns the configs that a flagfile describes.

    Raises:
        UserError: The file cannot be read; or it has a flag that none of the configs knows, or a
            value that is not allowed.
    """
    return parse([f"--flagfile={path}"], *config_classes)


def _values(config: settings.Config) -> Iterator[tuple[settings.Setting, typing.Any]]:
    for setting in settings.settings_of(type(config)):
        yield setting, getattr(config, setting.name)


class _Parser(flags.ArgumentParser):
    def __init__(self, setting: settings.Setting):
        super().__init__()
        self.setting = setting

    def parse(self, argument):
        return self.setting.check(argument)


class _Serializer(flags.ArgumentSerializer):
    def __init__(self, setting: settings.Setting):
        self._setting = setting

    def serialize(self, value):
        return self._setting.to_text(value)


@dataclasses.dataclass(frozen=True)
class _Argument:
    """One argument of the command line, or one line of a flagfile.

    Attributes:
        text: The argument as absl takes it.
        where: Begins messages: the flagfile and the line; empty for the command line.
    """

    text: str
    where: str = ""

    @property
    def name(self) -> str:
        """Name of the flag; empty for what is not a flag."""
        match = re.match(r"--?([^-=\s][^=\s]*)", self.text)
        return match[1] if match else ""

    @property
    def unknown_name(self) -> str:
        """What absl takes for the name of a flag where there is none of this name."""
        return re.sub("^--?", "", self.text).partition("=")[0]

    @property
    def value(self) -> str | None:
        """What follows the first `=`; None where there is none."""
        return self.text.partition("=")[2] if "=" in self.text else None


def _parse_or_exit(argv: list[str], config_classes: Sequence[type[settings.Config]]) -> list[str]:
    """Parses the command line into absl's flags; prints help or an error, and exits."""
    if any(_Argument(text).name in _HELP_FLAGS for text in argv[1:]):
        print(_help(config_classes), flush=True)
        sys.exit(0)
    try:
        _parse(argv[1:], flags.FLAGS)
    except UserError as error:
        sys.exit(f"error: {error}\nPass --help for all flags.")
    return argv[:1]


def _parse(arguments: Sequence[str], flag_values: flags.FlagValues) -> None:
    """Parses arguments into flags.

    Raises:
        UserError: An argument is wrong; the message says which, and where it stands.
    """
    flat = list(_flatten(map(_Argument, arguments), flag_values))
    try:
        stray = flag_values(["", *(argument.text for argument in flat)])[1:]
    except flags.UnrecognizedFlagError as error:
        where = next((one.where for one in flat if one.unknown_name == error.flagname), "")
        near = difflib.get_close_matches(error.flagname, list(flag_values), 1)
        ask = f" Did you mean --{near[0]}?" if near else ""
        raise UserError(f"{where}there is no flag --{shortened(error.flagname)}.{ask}") from error
    except flags.Error as error:
        raise UserError(str(error)) from error
    if stray:
        where = next((one.where for one in flat if one.text == stray[0]), "")
        raise UserError(
            f"{where}unexpected argument {shortened(stray[0])!r}; flags are written --name=value."
        )


def _flatten(
    source: Iterable[_Argument], flag_values: flags.FlagValues, within: tuple[str, ...] = ()
) -> Iterator[_Argument]:
    """Yields the arguments of the flagfiles that a source names, then its own, which win.

    A list flag that the source gives several times becomes one argument with all its values.

    Args:
        source: The arguments of the command line, or of one flagfile.
        flag_values: The flags.
        within: The flagfiles that are being read.
    """
    own, lists, remaining = [], {}, iter(source)
    for argument in remaining:
        if argument.text == "--":
            own += [argument, *remaining]
            break
        if argument.value is None and _needs_value(argument.name, flag_values):
            value = next(remaining, None)
            if value is None or value.text.startswith("--"):
                raise UserError(f"{argument.where}--{argument.name} needs a value.")
            argument = dataclasses.replace(argument, text=f"--{argument.name}={value.text}")
        setting = _setting(argument.name, flag_values)
        if argument.name == "flagfile":
            yield from _flatten_flagfile(argument, flag_values, within)
        elif setting and setting.is_list:
            lists.setdefault(setting, []).append(argument)
        else:
            own.append(argument)
            if setting and argument.value is not None:
                _check(setting, argument.value, argument.where)
    for setting, arguments in lists.items():
        items = [item for argument in arguments for item in setting.split(argument.value)]
        value = _check(setting, items, arguments[-1].where)
        yield dataclasses.replace(arguments[-1], text=f"--{setting.name}={setting.to_text(value)}")
    yield from own


def _needs_value(name: str, flag_values: flags.FlagValues) -> bool:
    return name == "flagfile" or (name in flag_values and not flag_values[name].boolean)


def _setting(name: str, flag_values: flags.FlagValues) -> settings.Setting | None:
    """Returns the setting of a flag; None for absl's own flags, and for what is not a flag."""
    parser = flag_values[name].parser if name in flag_values else None
    return parser.setting if isinstance(parser, _Parser) else None


def _check(setting: settings.Setting, value, where: str):
    """Returns a value as its setting has it.

    Raises:
        UserError: The value is not allowed; the message says where it stands.
    """
    try:
        return setting.check(value)
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def _flatten_flagfile(
    argument: _Argument, flag_values: flags.FlagValues, within: tuple[str, ...]
) -> Iterator[_Argument]:
    path = os.path.expanduser(argument.value or "")
    if files.real(path) in within:
        raise UserError(
            f"{argument.where}the flagfile {path} includes itself, directly or through others."
        )
    lines = enumerate(map(str.strip, files.read_text(path, "flagfile").split("\n")), start=1)
    arguments = [
        _read_line(line, f"{path}, line {number}: ")
        for number, line in lines
        if line and not line.startswith(_COMMENTS)
    ]
    yield from _flatten(arguments, flag_values, (*within, files.real(path)))


def _read_line(line: str, where: str) -> _Argument:
    """Reads one line of a flagfile: `--name=value`, `--name value`, `--name` or `--noname`.

    Raises:
        UserError: A comment follows the flag.
    """
    match = re.fullmatch(r"(--?[^-=\s][^=\s]*)(?:=|\s+)(.*)", line)
    if not match:
        return _Argument(line, where)
    name, value = match.groups()
    if value.startswith('"'):
        try:
            value = json.loads(value, strict=False)
        except ValueError:
            raise UserError(f"{where}{value} is not one text in double quotes.") from None
    elif comment := re.search(r"(?:^|\s)(#|//).*", value):
        raise UserError(
            f"{where}{comment[0].strip()!r} would become part of {name}. Write comments on lines "
            "of their own. If it is part of the value, put the value in double quotes."
        )
    return _Argument(f"{name}={value}", where)


def _quoted(text: str) -> str:
    """Returns a value for a flagfile, as JSON where `_read_line` would read it differently."""
    is_plain = text.isprintable() and text == text.strip()
    return text if is_plain and not re.search(r'^"|(^|\s)(#|//)', text) else json.dumps(text)


def _outcome(
    main: Callable[..., None],
    config_classes: Sequence[type[settings.Config]],
    starts_tensorflow: bool,
) -> str | int | None:
    """Calls `main`; returns what `sys.exit` takes."""
    try:
        configs = list(map(read_flags, config_classes))
        if starts_tensorflow:
            start_up.start_tensorflow()
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # TensorFlow logs every variable that it saves
        main(*configs)
    except UserError as error:
        return f"error: {error}"
    except OSError as error:  # of a file or folder that may not be read, or written
        if error.filename is None:
            raise
        return f"error: {error.filename}: {error.strerror}"
    except KeyboardInterrupt:
        return "interrupted"
    except SystemExit as error:
        return error.code
    return None


def _help(config_classes: Sequence[type[settings.Config]]) -> str:
    """Returns what the command does, then its flags: the common ones, then all others by config."""
    common = [one for kind in config_classes for one in settings.settings_of(kind) if one.is_common]
    paragraphs = [
        (sys.modules["__main__"].__doc__ or "").strip(),
        "\n".join(["Common flags:", *map(_describe, common), _describe_text(*_FLAGFILE_HELP)]),
    ]
    for config_class in config_classes:
        others = [one for one in settings.settings_of(config_class) if not one.is_common]
        if others:
            title = " ".join(filter(None, ("More", config_class.title, "flags:")))
            paragraphs.append("\n".join([title, *map(_describe, others)]))
    return "\n\n".join(paragraphs)


def describe_values(setting: settings.Setting) -> str:
    """Returns what values a flag takes: unit, limits or choices, and the default."""
    limits = setting.describe_limits().replace(" ", _NO_BREAK)
    facts = [setting.describe_choices() if setting.choices else limits]
    if setting.unit and not setting.choices:
        facts.insert(0, setting.unit)
    if setting.is_required:
        facts.append("required")
    elif setting.default not in (None, "", ()):
        facts.append(f"default:{_NO_BREAK}{setting.to_text(setting.default)}")
    elif setting.default_help:
        facts.append(f"default: {setting.default_help}")
    return "; ".join(filter(None, facts))


def _describe(setting: settings.Setting) -> str:
    """Returns the lines of `--help` about one flag."""
    values = describe_values(setting)
    return _describe_text(setting.name, f"{setting.help} [{values}]" if values else setting.help)


def _describe_text(name: str, text: str) -> str:
    width = max(_MIN_WIDTH, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(
        f"--{name}: {text}",
        width,
        initial_indent="  ",
        subsequent_indent="      ",
        break_on_hyphens=False,
        break_long_words=False,
    ).replace(_NO_BREAK, " ")
