"""What fits on a screen of text: arrays beside each other in a given room, and signs for terminals without Unicode."""
import shutil
from functools import cache
from typing import Any, Callable, Sequence

from minigrad.step.heatmap import TALLEST, columns, side_by_side

NARROWEST, LOWEST = 22, 7                       # columns and lines of a heat map beside or below others
Draw = Callable[[int, int], list[str]]          # (width, height) -> the lines of a block, no more and no wider

# for terminals whose encoding lacks these signs; formulas then stand in the notation of the docstrings
ASCII = str.maketrans({"─": "-", "→": ">", "↓": "v", "⋮": ":", "✓": "ok", "✗": "BAD", "█": "#", "␣": "_", "×": "x",
                       "·": "*", "−": "-", "…": "...", "∂": "d", "½": "1/2 ", "ᵀ": "^T"})


def size() -> tuple[int, int]:
    """The columns and lines of the terminal."""
    found = shutil.get_terminal_size((100, 30))
    return max(found.columns, 24), max(found.lines, 6)


def shows_unicode(stream: Any) -> bool:
    """Whether the encoding of a stream has the signs that the stepper uses."""
    try:
        "─→↓✓✗█▀␣×·…∂".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def arranged(blocks: Sequence[Draw], width: int, room: int) -> tuple[list[str], int]:
    """The lines of as many blocks as fit, and how many these are: all beside and below each other at their full size if
    that fits into `room` lines; else in rows of equal height, as many as show the most."""
    blocks = [cache(draw) for draw in blocks]
    lines = side_by_side([draw(width, TALLEST + 1) for draw in blocks], width)[:-1]
    if len(lines) <= room:
        return lines, len(blocks)
    layouts = [_in_rows(blocks, width, room, rows) for rows in range(1, max(min(len(blocks), room // LOWEST), 1) + 1)]
    return max(layouts, key=lambda layout: (layout[1], sum(map(columns, layout[0]))))


def _in_rows(blocks: Sequence[Draw], width: int, room: int, rows: int) -> tuple[list[str], int]:
    """Lines and number of the blocks that fit into this many rows; those of a row share the width."""
    lines: list[str] = []
    done = 0
    for row in range(rows):
        height = (room - len(lines)) // (rows - row)
        some = blocks[done:done + -(-(len(blocks) - done) // (rows - row))]
        if height < 1 or not some:
            break
        widths = [max(map(columns, draw(width, height))) for draw in some]
        while len(some) > 1 and sum(min(w, NARROWEST) + 3 for w in widths) - 3 > width:
            some, widths = some[:-1], widths[:-1]
        share = next(s for s in range(width, 0, -1) if sum(min(w, s) + 3 for w in widths) - 3 <= width or s == 1)
        lines += side_by_side([draw(min(w, share), height) for draw, w in zip(some, widths)], width)[:height]
        done += len(some)
    while lines and not lines[-1]:
        lines.pop()
    return lines, done
