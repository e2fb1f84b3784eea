"""Pieces of text that messages, tables and the stepper share."""
from typing import Any, Sequence


def plural(n: int, noun: str) -> str:
    """1 op, 2 ops, 1,000 ops."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def index(at: Sequence[Any], separator: str = ",") -> str:
    """An index as it is written, [0,2]; "" for that of a scalar."""
    return f"[{separator.join(map(str, at))}]" if len(at) else ""
