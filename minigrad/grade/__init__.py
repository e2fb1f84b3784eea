"""Grades the answers to the exercises of the book, and says what is wrong with a wrong one.

    from minigrad.grade import check
    check("softmax.backward", mine)                     in a notebook

    python -m minigrad.grade docs/exercises/softmax.py  a file of answers; --watch: again whenever it is saved
    python -m minigrad.grade --json FOLDER              those of a class, a line per file and exercise

The backward of any op, "<op>.backward", is compared with finite differences of its forward on inputs of several seeds:
see minigrad.grade.backward. The other exercises are graded by what must hold for their answers: see
minigrad.grade.exercises. No exercise has a stored solution.
"""
from minigrad.grade.check import check
from minigrad.grade.verdict import Verdict

__all__ = ["Verdict", "check"]
