"""The verdict on an answer, and the exception that carries what is wrong with it."""
import re
import textwrap
from typing import Any

WIDTH = 88                                  # columns, of a printed verdict: what a page of the book shows

NOT_GRADED = "not graded"
MARKS = {"right": "✓", "wrong": "✗", "not attempted": "·", NOT_GRADED: "!"}


class Verdict:
    """"right", "wrong" or "not attempted", with an explanation of what is wrong; or "not graded", such as a file with a
    syntax error. True if right."""

    def __init__(self, exercise: str, verdict: str, explanation: str = "") -> None:
        self.exercise, self.verdict, self.explanation = exercise, verdict, explanation

    @property
    def why(self) -> str:
        """What is wrong, in a sentence: the diagnosis of a wrong gradient, or the last line of the explanation."""
        lines = [line.strip() for line in self.explanation.splitlines()] or [""]
        return next((line.removeprefix("why").strip() for line in lines if line.startswith("why ")), lines[-1])

    def __bool__(self) -> bool:
        return self.verdict == "right"

    def __repr__(self) -> str:
        return "\n".join([f"{MARKS[self.verdict]} {self.exercise}: {self.verdict}",
                          *map(wrapped, self.explanation.splitlines())])


def wrapped(line: str) -> str:
    """A line of an explanation as several of at most WIDTH columns; a line of the answer's code as it is."""
    if len(line) <= WIDTH or line.startswith("  line "):
        return line
    label = re.match(r"  \w+   +", line)                        # as in "  why     the sign is flipped"
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * (label.end() if label else 4), break_on_hyphens=False)


class Wrong(Exception):
    """An answer is wrong; the message says what, one fact per line, indented by two spaces."""


def must(holds: Any, sentence: str) -> None:
    """Wrong, with this sentence, unless it holds."""
    if not holds:
        raise Wrong(f"  {sentence}")
