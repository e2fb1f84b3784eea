"""Run a function and record the values that each of its lines computed."""
import ast
import functools
import inspect
import linecache
import re
import sys
import textwrap
from types import CodeType
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from minigrad import device
from minigrad.call_site import place
from minigrad.step.expression import Tree, close, trees

TRACER_IN_USE = "a debugger or a coverage tool uses Python's tracer, so the values of the lines were not recorded"


class Line(NamedTuple):
    """One statement that ran, and the variables that it set or changed."""
    first: int                      # its first line in the source, counted from 0
    last: int                       # its last line
    values: dict[str, Any]          # name -> a copy of the array on the host, or a number
    before: dict[str, Any] = {}     # its variables before it ran: copies of arrays, other objects as they are


class Statement(NamedTuple):
    """One statement of a source: its first and last line, counted from 0, and the names that occur in it: it can have
    changed no other variables."""
    first: int
    last: int
    names: frozenset[str]


class Listing(NamedTuple):
    """The source of a function, and its statements in the order in which they ran."""
    source: str
    place: str                      # "minigrad/ops/softmax.py:27"
    lines: list[Line]
    note: str = ""                  # why `lines` is empty
    results: Sequence[str] = ()     # names for the values that the function returns
    scope: dict[str, Any] = {}      # the function's globals

    def trees(self, i: int) -> dict[str, Tree]:
        """For each variable that line i assigned, the expression that computed it. It is a "call" of the whole line if
        it cannot be read, or gives another value now, because it draws random numbers or uses up an iterator."""
        line = self.lines[i]
        found = trees(self.source, line.first, self.scope, line.before, self.results)
        known = line.before | line.values
        text = " ".join(map(str.strip, self.source.splitlines()[line.first:line.last + 1]))
        return {name: Tree("call", value, text) for name, value in line.values.items()} | {
            name: tree for name, tree in found.items()
            if _is_value(tree.value) and close(tree.value, known.get(name, tree.value))}

    @property
    def first_bad(self) -> int | None:
        """The index in `lines` of the first one that computed NaN or infinity."""
        bad = (i for i, line in enumerate(self.lines) if not all(map(is_finite, line.values.values())))
        return next(bad, None)


def is_finite(value: Any) -> bool:
    """Whether an array or a number is free of NaN and infinity."""
    return bool(np.isfinite(value).all()) if np.asarray(value).dtype.kind == "f" else True


def trace_lines(function: Callable[..., Any], results: Sequence[str], *args: Any, **kwargs: Any) -> tuple[Any, Listing]:
    """Call a method and record what each of its lines computed. results: names for the values that it returns.

    Only the function's own code is traced, so the functions that it calls run at full speed. Python has one tracer: if
    a debugger uses it, the function runs all the same and the Listing has no lines.
    """
    code, first_line = inspect.unwrap(function).__code__, 0
    try:
        source, first_line, statements = _statements(code, function.__qualname__)
        note = TRACER_IN_USE if sys.gettrace() is not None else ""
    except OSError:
        source, statements, note = "", {}, "the source of this op is not in a file"
    where = place(code.co_filename, first_line or code.co_firstlineno)
    if note:
        return function(*args, **kwargs), Listing(source, where, [], note)

    lines: list[Line] = []
    seen: dict[str, Any] = {}
    running: list[tuple[Statement, dict[str, Any]]] = []    # the statement that is running, and `before` it

    def changed(values: dict[str, Any]) -> dict[str, Any]:
        """Those of the values that are new or differ from the last time."""
        found = {}
        for name, value in values.items():
            if name != "self" and _is_value(value):
                value = device.host(value) if device.is_array(value) else value
                if name not in seen or not _same(seen[name], value):
                    if isinstance(value, np.ndarray):
                        value = np.array(value)
                        value.flags.writeable = False       # expressions are evaluated again, perhaps with out=
                    found[name] = seen[name] = value
        return found

    def statement_ended(local: dict[str, Any], returned: dict[str, Any]) -> None:
        if running:
            (first, last, names), before = running.pop()
            values = changed({name: value for name, value in local.items() if name in names}) | changed(returned)
            lines.append(Line(first, last, values, before))

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is not code:
            return None
        if event == "call":
            changed(frame.f_locals)
        elif event == "line":
            statement = statements.get(frame.f_lineno - code.co_firstlineno)
            if statement is not None and not (running and running[0][0] == statement):
                statement_ended(frame.f_locals, {})
                running.append((statement, {name: seen.get(name, value) for name, value in frame.f_locals.items()
                                            if name in statement.names}))
        elif event == "return":
            statement_ended(frame.f_locals, dict(zip(results, arg if type(arg) is tuple else (arg,))))
        return sys.gettrace()                   # this function, without a cycle that would keep the arrays in `seen`

    sys.settrace(trace)
    try:
        result = function(*args, **kwargs)
    finally:
        sys.settrace(None)
    return result, Listing(source, where, lines, "", results, inspect.unwrap(function).__globals__)


def last_values(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Call a method; what it returns, and its variables as they are when it returns: none if a debugger uses the
    tracer."""
    code, found = inspect.unwrap(function).__code__, dict[str, Any]()
    if sys.gettrace() is not None:
        return function(*args, **kwargs), found

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is not code:
            return None
        frame.f_trace_lines = False
        if event == "return":
            found.update(frame.f_locals)
        return sys.gettrace()

    sys.settrace(trace)
    try:
        result = function(*args, **kwargs)
    finally:
        sys.settrace(None)
    return result, {name: value for name, value in found.items() if name != "self" and _is_value(value)}


def _is_value(value: Any) -> bool:
    if device.is_array(value) or isinstance(value, np.generic):
        return bool(value.dtype.kind in "fiub")
    return isinstance(value, (int, float))


def _same(a: Any, b: Any) -> bool:
    if np.shape(a) != np.shape(b) or type(a) is not type(b):
        return False
    return np.array_equal(a, b) or np.asarray(a).dtype.kind == "f" and np.array_equal(a, b, equal_nan=True)


def source_of(function: Callable[..., Any]) -> str:
    """The source of a function or a method, without its indentation. OSError if it is in no file."""
    return _source(inspect.unwrap(function).__code__, function.__qualname__)[0]


def _source(code: CodeType, qualname: str) -> tuple[str, int]:
    """The source of a code object, and its first line in the file. qualname: of its function."""
    lines, first = inspect.getsourcelines(code)
    if re.match(rf"\s*(@|def {re.escape(code.co_name)}\b|.*\blambda\b)", lines[0]):
        return textwrap.dedent("".join(lines)).rstrip(), first
    # IPython's %autoreload compiles an edited method by itself, without comments: its line numbers begin anew
    node: Any = ast.parse("".join(linecache.getlines(code.co_filename)))
    for name in qualname.replace("<locals>.", "").split("."):
        node = next((part for part in node.body if getattr(part, "name", "") == name), None)
        if node is None:
            raise OSError(f"{qualname} is not in {code.co_filename}")
    return ast.unparse(node), node.lineno


@functools.lru_cache(maxsize=None)
def _statements(code: CodeType, qualname: str) -> tuple[str, int, dict[int, Statement]]:
    """The source, its first line in the file, and for each of its lines the statement it belongs to; of a compound
    statement only the head. qualname: of the function."""
    source, first_line = _source(code, qualname)
    statements = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            names = frozenset(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
            for line in range(node.lineno, last + 1):
                statements[line - 1] = Statement(node.lineno - 1, last - 1, names)
    return source, first_line, statements
