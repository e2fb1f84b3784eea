"""Calls the function that a student handed in, and takes what it returns.

A grader takes every value of an answer by these functions, so that whatever an answer returns gives a sentence::

    rate = number(call(mine, 3, 10, 110, 6e-4, 6e-5), "the rate of step 3")     a finite number, as a float
    p = array(call(mine, z), z.shape, "p")                                      a NumPy array of this shape
    p_new, m, v = results(call(mine, p, g), "p_new", "m", "v")                  a tuple of three values
"""
import contextlib
import math
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn

import numpy as np

from minigrad.grade.verdict import Wrong
from minigrad.words import index, plural

HERE = str(Path(__file__).parent)
NUMPY = {module: dict(vars(module)) for module in (np, np.random, np.linalg)}       # as imported


# ---- calling it -----------------------------------------------------------------------------------------------------

def call(mine: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the answer returns. Its arguments are copies, and arrays in them are read-only. Wrong if it raises an
    exception or calls sys.exit, with the line of the answer that does, or if it replaces functions of NumPy.
    NotImplementedError raised by the answer itself goes through: the exercise was not attempted."""
    with numpy_unchanged():
        try:
            return mine(*map(frozen, args), **{name: frozen(x) for name, x in kwargs.items()})
        except KeyboardInterrupt:
            raise
        except BaseException as error:          # also sys.exit, pytest.fail
            frames = outside_grader(error)
            if isinstance(error, NotImplementedError) and frames and frames[-1].filename == frames[0].filename:
                raise
            raise Wrong(raised(error)) from None


def frozen(x: Any) -> Any:
    """A copy of an array, read-only, or of a list, tuple or dict with such copies; anything else unchanged."""
    if isinstance(x, np.ndarray):
        x = x.copy()
        x.flags.writeable = False
    elif type(x) in (list, tuple):
        x = type(x)(map(frozen, x))
    elif type(x) is dict:
        x = {key: frozen(value) for key, value in x.items()}
    return x


def outside_grader(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an exception's traceback, without those of the grader and of Python's import."""
    return [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((HERE, "<frozen "))]


def raised(error: BaseException) -> str:
    """The line of the answer that raised an exception, and the exception: lines that are indented by two spaces."""
    frames = outside_grader(error)
    where = [f for f in frames if f.filename == frames[0].filename][-1:]
    lines = [f"line {f.lineno}   {f.line or ''}".rstrip() for f in where]
    if isinstance(error, SystemExit):
        return "\n".join(f"  {line}" for line in [*lines, "calls sys.exit, which ends the program"])
    words = "".join(traceback.TracebackException.from_exception(error).format_exception_only())
    words = words.removeprefix(f"{type(error).__module__}.")
    lines += f"raised {words}".splitlines()             # with "Did you mean" from Python 3.12 on
    if "read-only" in words:
        lines.append("it writes into an array that it is given: make a new one")
    return "\n".join(f"  {line.rstrip()}" for line in lines)


@contextlib.contextmanager
def numpy_unchanged() -> Iterator[None]:
    """Inside, code of an answer runs; afterwards NumPy is as it was imported. Wrong if functions of it were replaced.
    """
    try:
        yield
    finally:
        names = restored_in_numpy()
    if names:
        raise Wrong(replaces(names))


def restored_in_numpy() -> list[str]:
    """The names of functions of NumPy that were replaced or deleted since this module was imported; from now on they
    are what they were."""
    names = []
    for module, before in NUMPY.items():
        now = vars(module)
        changed = [name for name, value in before.items() if now.get(name) is not value]
        now.update({name: before[name] for name in changed})
        names += [f"{module.__name__}.{name}" for name in changed]
    return names


def replaces(names: list[str]) -> str:
    """That an answer replaces these functions of NumPy."""
    return f"  it replaces {' and '.join(names)}, which everything else uses too: choose another name"


# ---- what it returned -----------------------------------------------------------------------------------------------

def number(x: Any, what: str) -> float:
    """x as a float. Wrong, with a sentence about `what`, unless it is a finite number: a Python or NumPy number, or an
    array of shape ()."""
    if not isinstance(x, (int, float, np.ndarray, np.generic)) or np.ndim(x) or np.asarray(x).dtype.kind not in "iuf":
        refuse(x, what, "should be a number")
    if not math.isfinite(x):
        raise Wrong(f"  {what} is {float(x)}")
    return float(x)


def array(x: Any, shape: tuple[int, ...], what: str) -> Any:
    """x, an array of numbers of any dtype. Wrong, with a sentence about `what`, unless it is one, has this shape and
    only finite entries. For the shape () a number will do."""
    if not isinstance(x, (np.ndarray, np.generic)) and not (shape == () and isinstance(x, (int, float))):
        refuse(x, what, f"should be an array of shape {shape}")
    x = np.asarray(x)
    if x.dtype.kind not in "biuf":
        raise Wrong(f"  {what} is an array of {x.dtype}, should be one of numbers")
    if x.shape != shape:
        raise Wrong(f"  {what} has shape {x.shape}, should be {shape}")
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        raise Wrong(f"  {what}: {len(bad)} of {x.size} entries are NaN or infinite, the first is "
                    f"{what}{index(bad[0], ', ')}")
    return x


def results(x: Any, *names: str) -> tuple[Any, ...]:
    """x as a tuple of one value for each name. Wrong unless it is a tuple, a list or an array of as many."""
    expected = f"should be {len(names)} values: {', '.join(names)}"
    if not isinstance(x, (tuple, list)) and not (isinstance(x, np.ndarray) and x.ndim):
        refuse(x, "the result", expected)
    if len(x) != len(names):
        raise Wrong(f"  it returns {plural(len(x), 'value')}, {expected}")
    return tuple(x)


def refuse(x: Any, what: str, expected: str) -> NoReturn:
    """Wrong: x, called `what`, is of a type that cannot be graded."""
    if x is None:
        raise Wrong(f"  {what} is None: is a `return` missing?")
    kind = f"an array of shape {x.shape}" if isinstance(x, np.ndarray) else kind_of(x)
    raise Wrong(f"  {what} is {kind}, {expected}")


def kind_of(x: Any) -> str:
    """The type of x with its article: a list, an int; or None."""
    if x is None:
        return "None"
    name = type(x).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
