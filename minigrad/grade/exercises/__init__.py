"""Exercises that are graded by what must hold for an answer: a file per chapter, a function per exercise."""
from typing import Any, Callable

from minigrad.grade.exercises import (
    break_it,
    debugging,
    from_gpt2,
    gradcheck,
    learning_to_speak,
    optimizers,
    speaking,
    tape,
    tokens,
)

Grader = Callable[[Callable[..., Any]], None]

CHAPTERS = learning_to_speak, tokens, tape, gradcheck, debugging, optimizers, speaking, break_it, from_gpt2
EXERCISES: dict[str, Grader] = {name: grade for chapter in CHAPTERS for name, grade in chapter.EXERCISES.items()}
