"""A file of answers: runs it as a module of its own, and grades the functions in it that are named after exercises.

The function that answers an exercise has its name with _ for the dot: softmax_backward answers softmax.backward.
"""
import difflib
import sys
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, Iterator

from minigrad.grade.answer import numpy_unchanged, raised
from minigrad.grade.check import backwards, check
from minigrad.grade.exercises import EXERCISES
from minigrad.grade.verdict import NOT_GRADED, Verdict, Wrong

NEAR = 0.85                                 # how like a name of an exercise that of a function is, to be taken for it


def grade_file(path: Path) -> Iterator[str | Verdict]:
    """Run a file and grade its answers: the name of each exercise before it is graded, then its verdict. A verdict on
    the exercise "" is about the file."""
    try:
        module = run(path)
    except Wrong as wrong:
        yield Verdict("", NOT_GRADED, str(wrong))
        return
    exercises = {exercise.replace(".", "_"): exercise for exercise in [*EXERCISES, *backwards()]}
    functions = {name: value for name, value in vars(module).items() if not imported(value, module)}
    misnamed = {}
    for name, value in functions.items():
        near = difflib.get_close_matches(name, exercises, 1, NEAR)
        if near and callable(value) and name not in exercises and near[0] not in functions:
            misnamed[name] = near[0]
    for name, meant in misnamed.items():
        yield Verdict("", NOT_GRADED, f"  {name} is not named after an exercise: did you mean {meant}?")
    if not misnamed and not exercises.keys() & functions.keys():
        yield Verdict("", NOT_GRADED, "  no function in it is named after an exercise, as softmax_backward is")
    for name, answer in functions.items():
        if name in exercises:
            yield exercises[name]
            yield check(exercises[name], answer)


def imported(value: Any, module: types.ModuleType) -> bool:
    """Whether a value in a module is a module, or a function or class of another one."""
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)):
        return value.__module__ != module.__name__
    return isinstance(value, types.ModuleType)


# ---- running it -----------------------------------------------------------------------------------------------------

class Loader(SourceFileLoader):
    """Loads a module from its source as it is now: no compiled file is read or written."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        data = self.get_data(path)
        if b"\0" in data:                       # a ValueError in some versions of Python
            raise SyntaxError("source code string cannot contain null bytes")
        return self.source_to_code(data, path)


def run(path: Path) -> types.ModuleType:
    """The module that a file makes, which imports from its own folder. Wrong if the file has a syntax error, raises an
    exception, calls sys.exit or replaces functions of NumPy."""
    path = path.absolute()                  # its lines are found also if it changes the working directory
    name = f"answers_{path.stem}"           # no module of this name exists, whatever the file is called
    loader = Loader(name, str(path))
    sys.modules[name] = module = types.ModuleType(name)
    module.__file__, module.__loader__ = str(path), loader
    sys.path.insert(0, str(path.resolve().parent))
    with numpy_unchanged():
        try:
            loader.exec_module(module)
        except SyntaxError as error:
            raise Wrong(syntax_error(error, path)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:          # also sys.exit, pytest.skip
            raise Wrong(raised(error)) from None
    return module


def syntax_error(error: SyntaxError, path: Path) -> str:
    """The line of a syntax error with a caret below it, and what is wrong."""
    lines = [f"{type(error).__name__}: {error.msg}"]
    if error.lineno:
        where = f"line {error.lineno}   "
        if error.filename != str(path):
            where = f"{error.filename}, {where}"
        text = (error.text or "").partition("\n")[0].replace("\t", " ")
        column = max((error.offset or 1) - 1 - (len(text) - len(text.lstrip())), 0)
        lines = [where + text.strip(), " " * (len(where) + column) + "^", *lines]
    return "\n".join(f"  {line}" for line in lines)
