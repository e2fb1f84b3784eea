"""Command-line options in nanoGPT's spelling: --n_layer=4, --n-layer=4 and --n_layer 4 are the same. A value comes from
the command line; else from a TOML file, --config=my.toml; else from a preset, --preset=NAME; else it is the default."""
import contextlib
import dataclasses
import difflib
import math
import sys
import tomllib
from pathlib import Path
from typing import Any, Iterator, Mapping, TypeVar, get_type_hints

Options = TypeVar("Options")
Layer = tuple[str, Mapping[str, Any]]           # where values come from, and the values


def option(default: Any, why: str, group: str = "") -> Any:
    """A field of an options dataclass: its default, the line of --help that says what it is for, and the heading above
    it where a new group begins."""
    return dataclasses.field(default=default, metadata={"why": why, "group": group})


def parse(options: type[Options], arguments: list[str]) -> Options:
    """An instance of a dataclass of `option`s, from a command line. ValueError says what is wrong with it; --help
    prints all options and exits."""
    return options(**command_line(options, arguments))


def combine(options: type[Options], layers: list[Layer]) -> tuple[Options, dict[str, str]]:
    """An instance of a dataclass of `option`s, each value from the last layer that has it, else the default; and where
    each came from."""
    values: dict[str, Any] = {}
    sources = {name: "default" for name in get_type_hints(options)}
    for source, given in layers:
        values |= given
        sources |= dict.fromkeys(given, source)
    return options(**values), sources


def command_line(options: type, arguments: list[str]) -> dict[str, Any]:
    """The values that a command line gives, by name. ValueError names what is wrong; --help prints and exits."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text(options))
        raise SystemExit
    types = get_type_hints(options)
    values = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if not name.startswith("--"):
            raise ValueError(f"unexpected {argument!r}: options are written --name=value; see --help")
        _check_known(types, key, f"option {name}", "--")
        if not equals:
            value = "true" if types[key] is bool else next(rest, "")
        values[key] = _value(types[key], f"--{key}", value)
    return values


def toml_file(options: type, path: Path) -> dict[str, Any]:
    """The values that a TOML file gives: `n_layer = 4`, a line for each. ValueError names what is wrong."""
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML ({error}): write lines such as n_layer = 4") from None
    types = get_type_hints(options)
    for key in given:
        _check_known(types, key, f"option {key} in {path}", "")
    return {key: _value(types[key], f"{key} in {path}", value if isinstance(value, str) else str(value))
            for key, value in given.items()}


def one_of(name: str, value: str, choices: Any) -> None:
    """ValueError unless value is among the choices."""
    if value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1)
        guess = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"--{name} must be one of {', '.join(choices)}, got {value!r}{guess}")


def _check_known(types: Mapping[str, type], key: str, what: str, prefix: str) -> None:
    if key not in types:
        nearest = difflib.get_close_matches(key, types, n=1, cutoff=0.0)
        raise ValueError(f"unknown {what}; did you mean {prefix}{nearest[0]}? See --help")


def _value(kind: type, name: str, text: str) -> Any:
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a value"}[kind]
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError
        return value
    except (KeyError, ValueError):
        raise ValueError(f"{name} expects {expected}, got {text!r}") from None


def help_text(options: Any) -> str:
    """One line for each option: name, default, why; under the headings of their groups."""
    lines = [(options.__doc__ or "").strip()]
    for f in dataclasses.fields(options):
        if f.metadata["group"]:
            lines.append(f.metadata["group"])
        default = str(f.default).lower() if isinstance(f.default, bool) else f.default
        lines.append(f"  {f'--{f.name}={default}':<33} {f.metadata['why']}")
    return "\n".join(lines)


@contextlib.contextmanager
def bad_input_exits(program: str) -> Iterator[None]:
    """Bad input ends the program with status 2 and one line on stderr, no traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        print(f"{program}: {reason}", file=sys.stderr)
        raise SystemExit(2) from None
