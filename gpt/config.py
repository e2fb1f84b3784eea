"""Command-line options in nanoGPT's spelling: --n_layer=4, --n-layer=4 and --n_layer 4 are the same."""
import contextlib
import dataclasses
import difflib
import math
import sys
from typing import Any, Iterator, TypeVar, get_type_hints

Options = TypeVar("Options")


def option(default: Any, why: str) -> Any:
    """A field of an options dataclass: its default, and the line of --help that says what it is for."""
    return dataclasses.field(default=default, metadata={"why": why})


def parse(options: type[Options], arguments: list[str]) -> Options:
    """An instance of a dataclass of `option`s, from a command line. ValueError says what is wrong with it; --help
    prints all options and exits."""
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
        if key not in types:
            nearest = difflib.get_close_matches(key, types, n=1, cutoff=0.0)
            raise ValueError(f"unknown option {name}; did you mean --{nearest[0]}? See --help")
        if not equals:
            value = next(rest, "")
        values[key] = _value(types[key], key, value)
    return options(**values)


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
        raise ValueError(f"--{name} expects {expected}, got {text!r}") from None


def help_text(options: Any) -> str:
    """One line for each option: name, default, why."""
    lines = [(options.__doc__ or "").strip(), ""]
    for f in dataclasses.fields(options):
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
