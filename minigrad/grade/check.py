"""check(exercise, answer): the verdict on one answer."""
import difflib
from typing import Any, Callable

from minigrad.grade.backward import grade_backward
from minigrad.grade.exercises import EXERCISES
from minigrad.grade.practice import PRACTICE
from minigrad.grade.verdict import Verdict, Wrong
from minigrad.ops.op import OPS


def check(exercise: str, answer: Callable[..., Any]) -> Verdict:
    """Grade an answer, a function. ValueError if there is no such exercise."""
    grade = grader(exercise)
    if not callable(answer):
        return Verdict(exercise, "wrong", f"  expected a function, got {type(answer).__name__}: pass it without ()")
    try:
        grade(answer)
    except NotImplementedError:
        return Verdict(exercise, "not attempted")
    except Wrong as wrong:
        return Verdict(exercise, "wrong", str(wrong))
    return Verdict(exercise, "right")


def grader(exercise: str) -> Callable[[Callable[..., Any]], None]:
    """The function that grades an exercise: it raises Wrong. ValueError, with the nearest names, if there is none."""
    op, _, direction = exercise.partition(".")
    if exercise in EXERCISES:
        return EXERCISES[exercise]
    ops = OPS | PRACTICE
    if direction == "backward" and op in ops:
        return lambda mine: grade_backward(ops[op], mine)
    names = [*EXERCISES, *(f"{name}.backward" for name in ops)]
    near = difflib.get_close_matches(exercise, names, 3)
    raise ValueError(f"there is no exercise {exercise!r}" + (f"; did you mean {' or '.join(near)}?" if near else
                                                             "; there are schedule, softmax.backward, ..."))
