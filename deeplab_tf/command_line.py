"""Command-line flags made from configs, configs made from flags, and the frame of every main."""

import dataclasses
import gc
import sys
import types
import typing
from collections.abc import Callable

from absl import app
from absl import flags
from absl import logging

from deeplab_tf.errors import UserError

_ABSL_HELP = (app.HelpFlag, app.HelpshortFlag, app.HelpfullFlag, app.HelpXMLFlag)


class _NumberListParser(flags.ArgumentParser):
    """Reads `6,12,18` as (6, 12, 18) and an empty text as ()."""

    syntactic_help = "numbers separated by commas; empty for none"

    def __init__(self, number_type: type):
        super().__init__()
        self._number_type = number_type

    def parse(self, argument):
        if isinstance(argument, (tuple, list)):
            return tuple(argument)
        parts = argument.split(",") if argument.strip() else ()
        try:
            return tuple(self._number_type(part) for part in parts)
        except ValueError:
            kind, example = {
                int: ("integers", "6,12,18"),
                float: ("numbers", "0.5,0.75,1"),
            }[self._number_type]
            raise ValueError(f"{argument!r} is not a list of {kind} such as {example}") from None

    def flag_type(self):
        return "comma list of numbers"


class _NumberListSerializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(str(number) for number in value)


def define_flags(config_class: type, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per field of a config, under the config's name in `--help`."""
    annotations = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        where = {"flag_values": flag_values, "module_name": config_class.__name__}
        help_text = field.metadata["help"]
        kind = _without_none(annotations[field.name])
        if kind is bool:
            flags.DEFINE_boolean(field.name, field.default, help_text, **where)
        elif kind in (int, float, str):
            define = {
                int: flags.DEFINE_integer,
                float: flags.DEFINE_float,
                str: flags.DEFINE_string,
            }[kind]
            define(field.name, field.default, help_text, **where)
        else:
            flags.DEFINE(
                _NumberListParser(typing.get_args(kind)[0]),
                field.name,
                field.default,
                help_text,
                serializer=_NumberListSerializer(),
                **where,
            )


def read_flags(config_class: type, flag_values: flags.FlagValues = flags.FLAGS):
    """Returns a config filled from the parsed flags of its fields' names."""
    names = [field.name for field in dataclasses.fields(config_class)]
    return config_class(**{name: flag_values[name].value for name in names})


def write_flagfile(path: str, *configs) -> None:
    """Writes configs as a flagfile that `--flagfile` and `read_flagfile` read back."""
    lines = []
    for config in configs:
        lines.append(f"# {type(config).__name__}")
        for name, value in dataclasses.asdict(config).items():
            if isinstance(value, tuple):
                value = _NumberListSerializer().serialize(value)
            if value is not None:
                lines.append(f"--{name}={value}")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def read_flagfile(path: str, *config_classes: type) -> tuple:
    """Returns the configs that a flagfile describes.

    Raises:
        UserError: The file has a flag that none of the configs knows, or a value it cannot have.
    """
    flag_values = flags.FlagValues()
    flags.DEFINE_string("flagfile", "", "", flag_values=flag_values)
    for config_class in config_classes:
        define_flags(config_class, flag_values)
    try:
        stray = flag_values(["flagfile", f"--flagfile={path}"])[1:]
    except flags.Error as error:
        raise UserError(f"{path}: {error}") from error
    if stray:
        raise UserError(f"{path}: {stray[0]!r} is no flag; write --name=value, one on a line.")
    return tuple(read_flags(config_class, flag_values) for config_class in config_classes)


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and calls `main`; prints a `UserError` as one message and exits with 1."""

    def main_with_readable_errors(argv):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # TensorFlow tells of every saved variable
        outcome = _outcome(main, argv)
        # An input pipeline whose threads still call Python when it shuts down makes it abort. What
        # an error's frames held is free by now; this frees what is left of it.
        gc.collect()
        sys.exit(outcome)

    app.run(main_with_readable_errors, flags_parser=_parse)


def _outcome(main: Callable[[list[str]], None], argv: list[str]) -> str | int | None:
    """Calls `main`; returns what `sys.exit` takes."""
    try:
        main(argv)
    except UserError as error:
        return f"error: {error}"
    except KeyboardInterrupt:
        return "interrupted"
    except SystemExit as error:
        return error.code
    return None


def _parse(argv: list[str]) -> list[str]:
    if any(argument in ("--help", "-help", "-h", "-?") for argument in argv[1:]):
        print(_grouped_help())
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}\nPass --help for all flags.")
    if rest[1:]:
        sys.exit(f"error: unexpected argument {rest[1]!r}; flags are written --name=value.")
    return rest


def _grouped_help() -> str:
    """The main's own sentences, then its flags and those of every config, with their defaults."""
    lines = [(sys.modules["__main__"].__doc__ or "").strip()]
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        is_main, is_config = module == sys.argv[0], module[:1].isupper()
        if is_main or is_config:
            lines += ["", "Of this command:" if is_main else f"{module}:"]
            lines += [_describe(flag) for flag in defined if not isinstance(flag, _ABSL_HELP)]
    lines += ["", "  --flagfile: Reads flags from a file, one on a line; later flags win."]
    return "\n".join(lines)


def _describe(flag: flags.Flag) -> str:
    default = flag.default
    if isinstance(default, tuple):
        default = _NumberListSerializer().serialize(default)
    return f"  --{flag.name}: {flag.help}" + (f" [{default}]" if default not in (None, "") else "")


def _without_none(annotation):
    """int for `int | None`; the annotation itself where None is no choice."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation
