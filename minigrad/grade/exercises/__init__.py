"""Exercises that are graded by what must hold for an answer: a file per chapter, a function per exercise."""
from typing import Any, Callable

from minigrad.grade.exercises import debugging, gradcheck, learning_to_speak, optimizers, speaking, tape

Grader = Callable[[Callable[..., Any]], None]

CHAPTERS = learning_to_speak, tape, gradcheck, debugging, optimizers, speaking
EXERCISES: dict[str, Grader] = {name: grade for chapter in CHAPTERS for name, grade in chapter.EXERCISES.items()}
