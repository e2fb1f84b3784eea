"""Exercises that are graded by what must hold for an answer: a file per chapter, a function per exercise."""
from typing import Any, Callable

from minigrad.grade.exercises import gradcheck, learning_to_speak, tape

Grader = Callable[[Callable[..., Any]], None]

EXERCISES: dict[str, Grader] = {**learning_to_speak.EXERCISES, **tape.EXERCISES, **gradcheck.EXERCISES}
