"""The verdict on an answer, and the exception that carries what is wrong with it."""


class Verdict:
    """"right", "wrong" or "not attempted", with an explanation of what is wrong. True if right."""

    def __init__(self, exercise: str, verdict: str, explanation: str = "") -> None:
        self.exercise, self.verdict, self.explanation = exercise, verdict, explanation

    def __bool__(self) -> bool:
        return self.verdict == "right"

    def __repr__(self) -> str:
        mark = {"right": "✓", "wrong": "✗", "not attempted": "·"}[self.verdict]
        return f"{mark} {self.exercise}: {self.verdict}" + (f"\n{self.explanation}" if self.explanation else "")


class Wrong(Exception):
    """An answer is wrong; the message says what, one fact per line, indented by two spaces."""


def must(holds: bool, sentence: str) -> None:
    """Wrong, with this sentence, unless it holds."""
    if not holds:
        raise Wrong(f"  {sentence}")
