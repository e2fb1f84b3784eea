"""Command-line options in nanoGPT's spelling: --n_layer=4, --n-layer=4 and --n_layer 4 are the same. The options of a
program are the fields of a dataclass, each made by `option`."""
import contextlib
import dataclasses
import difflib
import keyword
import math
import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any, Iterator, Mapping, TypeVar, get_type_hints

from gpt.files import open_regular

TRAIN = Path(__file__).resolve().parent.parent.parent / "train.py"      # an installed one too: beside the package gpt

Options = TypeVar("Options")
Layer = tuple[str, Mapping[str, Any]]           # a name of a source of values, and its values


def option(default: Any, help: str, group: str = "") -> Any:
    """A field of an options dataclass. help: its text in --help, "" where the text of the next option is for both;
    group: the heading above it in --help, for the first option of a group."""
    return dataclasses.field(default=default, metadata={"help": help, "group": group})


def parse(options: type[Options], arguments: list[str]) -> Options:
    """An instance of an options dataclass from a command line. ValueError names a wrong argument; --help prints all
    options and exits."""
    return options(**command_line(options, arguments))


def combine(options: type[Options], layers: list[Layer]) -> tuple[Options, dict[str, str]]:
    """An instance of an options dataclass, each value from the last layer that has it, or its default; and the source
    of each value: option -> name of the layer, or "default"."""
    values: dict[str, Any] = {}
    sources = {name: "default" for name in get_type_hints(options)}
    for source, given in layers:
        values |= given
        sources |= dict.fromkeys(given, source)
    return options(**values), sources


def command_line(options: type, arguments: list[str]) -> dict[str, Any]:
    """The values on a command line by option. ValueError names a wrong argument; --help prints them and exits."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text(options))
        raise SystemExit
    types = get_type_hints(options)
    values = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        key = field_of(name.removeprefix("--").replace("-", "_"))
        if not name.startswith("--"):
            raise ValueError(f"unexpected {argument!r}: options are written --name=value; see --help")
        _check_known(types, key, f"option {name}", "--")
        if not equals:
            given = "true" if types[key] is bool else next(rest, "" if types[key] is not str else None)
            if given is None:
                raise ValueError(f"{spelled(key)} expects a value: {spelled(key)}=...")
            value = given
        values[key] = _value(types[key], spelled(key), value)
    return values


def toml_file(options: type, path: Path) -> dict[str, Any]:
    """The values in a TOML file by option, one `n_layer = 4` per line. ValueError names a wrong entry."""
    try:
        with open_regular(path) as file:
            given = {field_of(key): value for key, value in tomllib.load(file).items()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML ({error}): write lines such as n_layer = 4") from None
    types = get_type_hints(options)
    for key in given:
        _check_known(types, key, f"option {key} in {path}", "")
    return {key: _value(types[key], f"{key} in {path}", value if isinstance(value, str) else str(value))
            for key, value in given.items()}


def field_of(option: str) -> str:
    """The name of the field of an option: break_ for break, which is a word of Python."""
    return option + "_" * keyword.iskeyword(option)


def spelled(name: str) -> str:
    """How the option of a field is written on the command line."""
    return f"--{name.removesuffix('_')}"


def one_of(name: str, value: str, choices: Any) -> None:
    """ValueError unless value is among the choices."""
    if value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1)
        guess = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"{spelled(name)} must be one of {', '.join(filter(None, choices))}, got {value!r}{guess}")


def _check_known(types: Mapping[str, type], key: str, what: str, prefix: str) -> None:
    if key not in types:
        nearest = difflib.get_close_matches(key, types, n=1, cutoff=0.0)
        raise ValueError(f"unknown {what}; did you mean {prefix}{nearest[0].removesuffix('_')}? See --help")


def _value(kind: type, name: str, text: str) -> Any:
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a value"}[kind]
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if not math.isfinite(value) if kind is float else kind is int and abs(value) >= 2 ** 63:
            raise ValueError
        return value
    except (KeyError, ValueError):
        raise ValueError(f"{name} expects {expected}, got {text!r}") from None


def help_text(options: Any) -> str:
    """The text of --help: one line per option, or two of them, with the default, under the headings of the groups."""
    about = (options.__doc__ or "").strip()
    # Under python -OO the docstring is the signature that dataclass writes where there is none.
    lines = [] if about.startswith(f"{options.__name__}(") else [about]
    shown = ""
    for f in dataclasses.fields(options):
        if f.metadata["group"]:
            lines.append(f.metadata["group"])
        default = str(f.default).lower() if isinstance(f.default, bool) else f.default
        shown += f" {spelled(f.name)}={default}"
        if f.metadata["help"]:
            lines.append(f" {shown:<34} {f.metadata['help']}")
            shown = ""
    return "\n".join(lines)


def train_command() -> str:
    """How train.py is run: as it was started, if it is the program that runs; or else "python train.py" where it is in
    the current folder, "python -m gpt.train" elsewhere."""
    if Path(sys.argv[0]).name == "train.py" and sys.argv[0] in sys.orig_argv:
        return f"python {shlex.quote(sys.argv[0])}"
    at_hand = Path("train.py").resolve() == TRAIN and "gpt.train" not in sys.orig_argv
    return "python train.py" if at_hand else "python -m gpt.train"


def train_name() -> str:
    """The name of train.py in its error messages: "gpt.train" if it was started as python -m gpt.train."""
    return "gpt.train" if "gpt.train" in sys.orig_argv else "train.py"


@contextlib.contextmanager
def bad_input_exits(program: str) -> Iterator[None]:
    """Turn ValueError, OSError and MemoryError into one line on stderr and exit status 2, without a traceback."""
    if sys.stderr is None:                      # the caller closed it: otherwise print would write to stdout
        sys.stderr = open(os.devnull, "w")
    try:
        yield
    except (ValueError, OSError, MemoryError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        if isinstance(error, UnicodeEncodeError):       # of the command line: Python reads such bytes as surrogates
            reason = f"{error.object!r:.60} has bytes that are not UTF-8: give text in UTF-8"
        if isinstance(error, MemoryError):
            reason = f"out of memory: {error}".removesuffix(": ")
        print(f"{program}: {reason}", file=sys.stderr)
        raise SystemExit(2) from None
