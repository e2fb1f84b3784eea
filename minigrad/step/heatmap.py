"""An array as a heat map in text: blocks in 24-bit colour, or characters without colour."""
import re
from typing import Any, Sequence

import numpy as np

NEGATIVE, ZERO, POSITIVE = (29, 92, 176), (255, 255, 255), (194, 65, 12)    # the colour-blind can tell them apart
BAD = (255, 230, 0), (0, 0, 0)                  # NaN and infinity: a black ! on yellow
MASK, MASKED = 1e20, (150, 150, 150)            # larger numbers are masks, not values: they get one colour
RAMPS = " .+*#", " ,-=%"                        # without colour: from 0 to the largest, from 0 to the smallest
LEGENDS = (f"blank: zero; {RAMPS[0].strip()} positive; {RAMPS[1].strip()} negative; x masked; ! NaN or infinity",
           "white: zero; orange: positive; blue: negative; grey: masked; !: NaN or infinity")
MOST_ROWS = 16
BESIDE = "  "                                   # between panels
RESET = "\x1b[0m"


def heatmap(array: Any, width: int = 80, color: bool = True, tokens: Sequence[str] | None = None) -> str:
    """Lines of at most `width` columns; the shade of a number is the signed square root of its share in the largest
    magnitude.

    The last two axes make a panel; panels stand side by side. An axis as long as `tokens` is labelled with them. An
    array that does not fit is sampled evenly, and the last line says so. A 0-d array is written as a number.
    """
    a = np.asarray(array)
    if a.ndim == 0:
        return number(a)
    if a.size == 0:
        return "(empty)"
    panels = a.astype(np.float64).reshape(-1, *((1,) + a.shape)[-2:])                       # (N, R, C)
    N, R, C = panels.shape
    names = list(tokens or [])
    row_names = names if R == len(names) and a.ndim > 1 else []
    column_names = names if C == len(names) else []
    margin = max(map(len, row_names), default=-1) + 1
    room = width if column_names else width // 2
    cell = 2 if N * (2 * C + len(BESIDE)) + margin <= room and (row_names or R <= 8) else 1     # characters wide

    rows, columns = _spread(R, MOST_ROWS), _spread(C, max((width - margin) // cell, 1))
    fitting = max((width - margin + len(BESIDE)) // (cell * len(columns) + len(BESIDE)), 1)
    chosen = _spread(N, fitting)
    levels = _levels(panels)[np.ix_(chosen, rows, columns)]                                 # (n, r, c)

    lines = []
    if column_names:
        head = "".join(f"{column_names[k]:{cell}.{cell}}" for k in columns)
        lines.append(" " * margin + BESIDE.join([head] * len(chosen)))
    per_line = 2 if color and cell == 1 and not row_names else 1                            # rows on a line
    for i in range(0, len(rows), per_line):
        label = f"{row_names[rows[i]]:>{margin - 1}} " if row_names else ""
        lines.append(label + BESIDE.join(_row(panel[i:i + per_line], cell, color) for panel in levels))
    if levels.size < a.size:
        which = [f"{len(chosen)} of {N} panels"] if len(chosen) < N else []
        which += [f"{len(rows)} x {len(columns)} of {R} x {C}"] if (len(rows), len(columns)) != (R, C) else []
        lines.append(f"sampled {', '.join(which)}")
    return "\n".join(line.rstrip() if not color else line for line in lines)


def side_by_side(blocks: list[list[str]], width: int) -> list[str]:
    """Blocks of lines next to each other, as many as fit into the width; the others below, after an empty line."""
    lines: list[str] = []
    rest = [(block, max(map(visible_width, block))) for block in blocks]
    while rest:
        row = [rest.pop(0)]
        while rest and sum(w + 3 for _, w in row) + rest[0][1] <= width:
            row.append(rest.pop(0))
        for k in range(max(len(block) for block, _ in row)):
            cells = [(block[k] if k < len(block) else "", w) for block, w in row]
            lines.append("   ".join(text + " " * (w - visible_width(text)) for text, w in cells).rstrip())
        lines.append("")
    return lines


def visible_width(line: str) -> int:
    """The number of characters of a line without its colour codes."""
    return len(re.sub("\x1b\\[[^m]*m", "", line))


def number(x: Any) -> str:
    """A number as text, with four digits."""
    x = np.asarray(x).item()
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of n indices, evenly spaced from the first to the last."""
    return [int(k) for k in np.linspace(0, n - 1, min(n, most)).round()]


def summary(array: Any) -> str:
    """The largest magnitude as text, and how many numbers are masked or not finite."""
    a = np.asarray(array, dtype=np.float64)
    bad, masked = ~np.isfinite(a), np.abs(a) >= MASK
    text = f"max {np.abs(a, where=~(bad | masked), out=np.zeros_like(a)).max(initial=0.0):.3g}"
    masked &= ~bad
    return text + (f", {masked.sum()} masked" if masked.any() else "") + (
        f", {bad.sum()} NaN or infinite!" if bad.any() else "")


def _levels(a: np.ndarray) -> np.ndarray:
    """Signed square roots of x / max|x|, in [-1, 1]; a mask becomes infinity, NaN and infinity become NaN."""
    shown = np.isfinite(a) & (np.abs(a) < MASK)
    largest = np.abs(a, where=shown, out=np.zeros_like(a)).max()
    with np.errstate(invalid="ignore", over="ignore"):
        levels = np.sign(a) * np.sqrt(np.abs(a) / (largest or 1.0))
    return np.where(shown, levels, np.where(np.isfinite(a), np.inf, np.nan))


def _row(levels: np.ndarray, cell: int, color: bool) -> str:
    """One line of a panel: of one row of levels (1, c), or of two rows (2, c) as half blocks."""
    if not color:
        return "".join(_character(t) * cell for t in levels[0])
    parts = []
    for column in levels.T:
        if np.isnan(column).any():
            parts.append(_painted("!" * cell, *BAD))
        elif len(column) == 1:
            parts.append(_painted(" " * cell, _rgb(column[0])))
        else:
            parts.append(_painted("▀", _rgb(column[1]), _rgb(column[0])))
    return "".join(parts) + RESET


def _painted(text: str, background: tuple[int, ...], color: tuple[int, ...] = ()) -> str:
    return "\x1b[48;2;%d;%d;%dm" % background + ("\x1b[38;2;%d;%d;%dm" % color if color else "") + text


def _rgb(t: float) -> tuple[int, ...]:
    if np.isinf(t):
        return MASKED
    end = POSITIVE if t > 0.0 else NEGATIVE
    return tuple(round(zero + (pole - zero) * abs(t)) for zero, pole in zip(ZERO, end))


def _character(t: float) -> str:
    if np.isnan(t):
        return "!"
    if np.isinf(t):
        return "x"
    ramp = RAMPS[int(t < 0.0)]
    return ramp[int(np.ceil(abs(t) * (len(ramp) - 1)))]
