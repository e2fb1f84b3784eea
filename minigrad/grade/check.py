"""check(exercise, answer): the verdict on one answer."""
import contextlib
import difflib
import random
from typing import Any, Callable, Iterator

import numpy as np

from minigrad.grade.answer import kind_of, replaces, restored_in_numpy
from minigrad.grade.backward import grade_backward
from minigrad.grade.exercises import EXERCISES
from minigrad.grade.practice import PRACTICE
from minigrad.grade.verdict import NOT_GRADED, Verdict, Wrong
from minigrad.ops.op import OPS, Op


def check(exercise: str, answer: Callable[..., Any]) -> Verdict:
    """Grade an answer, a function. "not graded" if it returns what its grader did not expect. UnknownExercise, a
    ValueError, if there is no such exercise."""
    grade = grader(exercise)
    if not callable(answer):
        return Verdict(exercise, "wrong", f"  expected a function, got {kind_of(answer)}: pass it without ()")
    try:
        with own_state():
            grade(answer)
    except NotImplementedError:
        return Verdict(exercise, "not attempted")
    except Wrong as wrong:
        return Verdict(exercise, "wrong", str(wrong))
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"while {exercise} was graded")
        raise
    except Exception as error:
        return Verdict(exercise, NOT_GRADED, f"  what it returns cannot be graded: {type(error).__name__}: {error}")
    return Verdict(exercise, "right")


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Inside, NumPy is as it was imported; afterwards, what an answer seeded is as before. Wrong if functions of NumPy
    were replaced before."""
    names = restored_in_numpy()
    if names:
        raise Wrong(replaces(names))
    states = random.getstate(), np.random.get_state()          # noqa: NPY002   what an answer may seed
    try:
        with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])                              # noqa: NPY002


def backwards() -> dict[str, type[Op]]:
    """The ops whose backward can be graded, by the name of that exercise."""
    return {f"{name}.backward": op for name, op in (OPS | PRACTICE).items() if op.samples}


def grader(exercise: str) -> Callable[[Callable[..., Any]], None]:
    """The function that grades an exercise: it raises Wrong. UnknownExercise, with the nearest names, if there is none.
    """
    if not isinstance(exercise, str):
        raise UnknownExercise(f'expected the name of an exercise first, got {kind_of(exercise)}: '
                              'check("softmax.backward", mine)')
    ops = backwards()
    if exercise in EXERCISES:
        return EXERCISES[exercise]
    if exercise in ops:
        return lambda mine: grade_backward(ops[exercise], mine)
    if exercise.endswith(".backward") and exercise.removesuffix(".backward") in OPS:
        raise UnknownExercise(f"{exercise} cannot be graded: the op has no samples, inputs to grade it on")
    near = difflib.get_close_matches(exercise.lower(), [*EXERCISES, *ops], 3)
    if f"{exercise}.backward" in ops:
        near = [f"{exercise}.backward"]
    raise UnknownExercise(f"there is no exercise {exercise!r}" + (f"; did you mean {' or '.join(near)}?" if near else
                                                                  "; there are schedule, softmax.backward, ..."))


class UnknownExercise(ValueError):
    """There is no exercise of this name. A notebook shows the message alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"ValueError: {self}"]
