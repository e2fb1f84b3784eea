"""An array as a heat map in text: its numbers while it is small, else blocks in 24-bit colour, or characters without
colour."""
import math
import re
import unicodedata
from functools import lru_cache, partial
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from minigrad.ops.attention import FAR_BELOW

NEGATIVE, ZERO, POSITIVE = (29, 92, 176), (255, 255, 255), (194, 65, 12)    # the colour-blind can tell them apart
BAD = (255, 230, 0), (0, 0, 0)                  # NaN and infinity: a black ! on yellow
MASK, MASKED = 1e20, (150, 150, 150)            # larger numbers are masks, not values: they get one colour
BLACK = 0, 0, 0
RAMPS = " .+*#", " ,-=%"                        # without colour: from 0 to the largest, from 0 to the smallest
LEGENDS = (f"blank: zero; {RAMPS[0].strip()} positive; {RAMPS[1].strip()} negative; x masked; ! NaN or infinity",
           "white: zero; orange: positive; blue: negative; grey: masked; !: NaN or infinity")
MOST_ROWS = 16
TALLEST = MOST_ROWS + 4                         # lines of a heat map: rows, names of axes, panels and columns, a note
MOST_NUMBERS, MOST_PANELS = 8, 64               # rows and columns, and panels, of an array whose numbers are written
LONGEST_LABEL = 8
BESIDE = "  "                                   # between panels
RESET = "\x1b[0m"
ANSI = re.compile("\x1b\\[[^m]*m")


def heatmap(array: Any, width: int = 80, color: bool = True, axes: Sequence[str] = (),
            labels: Mapping[str, Sequence[str]] | None = None, height: int = TALLEST, note: str = "",
            half_blocks: bool = True, indices: bool = False) -> list[str]:
    """Lines of at most `width` columns, at most `height` of them; the shade of a number is the signed square root of
    its share in the largest magnitude.

    The first line names the axes. The last two axes make a panel; panels stand side by side. Rows and columns have the
    labels of their axis, else their index. Integers and booleans are printed, floats too in panels of at most 8 x 8. An
    array that does not fit is sampled evenly, and the last line says how much of it is shown. A 0-d array is one line,
    the number; a constant is one line, "all 0.5".

    axes: the name of each axis, "" where unknown. labels: of the indices of an axis, by the name of the axis. note:
    text for the first line. half_blocks: whether a coloured line may show two rows by the character ▀. indices: beside
    the labels of rows and columns stand their indices.
    """
    a = np.asarray(array)
    if a.ndim == 0:
        return [number(a)]
    a = marked(a)
    if a.size == 0:
        return ["(empty)"]
    if (a == a.flat[0]).all():
        return [clipped(f"all {number(a.flat[0])}" if a.size > 1 else number(a.flat[0]), width)]
    names = axis_names(axes, a.ndim)
    panels = a.reshape(-1, *((1,) + a.shape)[-2:])                                          # (N, R, C)
    N, R, C = panels.shape
    row_labels = _labels(names[-2], R, labels) if a.ndim > 1 else []
    column_labels = _labels(names[-1], C, labels)
    numbers = [str(k) for k in range(max(R, C))]
    if indices and row_labels != numbers[:R]:
        row_labels = [f"{k:>{len(str(R - 1))}} {label}" for k, label in enumerate(row_labels)]
    headers = [numbers[:C]] * (indices and column_labels != numbers[:C] and height > 6)
    headers += [column_labels] * (height > 3)
    margin = max(map(columns, row_labels), default=-1) + 1

    written, longest = _format(panels, width - margin)
    if written:
        cell, per_line = longest + 1, 1
    else:
        whole = R <= height - 1 - len(headers) - (N > 1) and N * (2 * C + len(BESIDE)) + margin <= width + len(BESIDE)
        cell = 2 if whole else 1                                                            # characters wide
        per_line = 2 if color and half_blocks and not whole else 1                          # rows of a line
        if per_line == 2 and row_labels:
            margin = 2 * margin                                                             # "a b " stands for two rows
    chosen_columns = _spread(C, max((width - margin) // cell, 1))
    fitting = max((width - margin + len(BESIDE)) // (cell * len(chosen_columns) + len(BESIDE)), 1)
    chosen = _spread(N, fitting)
    titles = [_title(names[:-2], a.shape[:-2], k) for k in chosen] if N > 1 else []
    first = _first_line(axes, names[-2:], titles[0] if len(titles) == 1 else "", note, width)
    titles = titles if len(titles) > 1 and height > 5 else []
    room = height - (height > 1) - bool(titles) - len(headers)      # for the rows and a line that says what is shown
    rows = _spread(R, max(room, 1) * per_line)
    sampled = (len(chosen), len(rows), len(chosen_columns)) != (N, R, C)
    if sampled and room > 1:
        rows = _spread(R, (room - 1) * per_line)
    shown = panels[np.ix_(chosen, rows, chosen_columns)]                                    # (n, r, c)
    levels = _levels(shown.astype(np.float64), _largest(a))

    lines = [first] if height > 1 else []
    if titles:
        across = cell * len(chosen_columns)
        lines.append(" " * margin + BESIDE.join(padded(title, across) for title in titles))
    for each in headers:
        head = _header([each[k] for k in chosen_columns], cell, bool(written), each != numbers[:C])
        lines.append(" " * margin + BESIDE.join([head] * len(chosen)))
    for i in range(0, len(rows), per_line):
        label = " ".join(row_labels[k].rjust(1) for k in rows[i:i + per_line]) if row_labels else ""
        if written:
            tinted = color and a.dtype.kind == "f"
            parts = [_numbers([written(x).rjust(cell) for x in panel[i].tolist()], level[i] if tinted else None)
                     for panel, level in zip(shown, levels)]
        else:
            parts = [_row(level[i:i + per_line], cell, color) for level in levels]
        lines.append(" " * (margin - 1 - columns(label)) + label + " " * bool(label) + BESIDE.join(parts))
    if sampled and room > 1:
        parts_shown = [(len(chosen), N, "panels"), (len(rows), R, "rows"), (len(chosen_columns), C, "columns")]
        lines.append(_shown(parts_shown, width))
    return [line if "\x1b" in line else line.rstrip() for line in lines]


def axis_names(axes: Sequence[str], ndim: int) -> list[str]:
    """The name of each axis; "axis 1" where it is unknown."""
    return [axes[k] if k < len(axes) and axes[k] else f"axis {k}" for k in range(ndim)]


def side_by_side(blocks: list[list[str]], width: int) -> list[str]:
    """Blocks of lines next to each other, as many as fit into the width; the others below, after an empty line."""
    lines: list[str] = []
    rest = [(block, max(map(columns, block))) for block in blocks]
    while rest:
        row = [rest.pop(0)]
        while rest and sum(w + 3 for _, w in row) + rest[0][1] <= width:
            row.append(rest.pop(0))
        for k in range(max(len(block) for block, _ in row)):
            cells = [(block[k] if k < len(block) else "", w) for block, w in row]
            lines.append("   ".join(padded(text, w) for text, w in cells).rstrip())
        lines.append("")
    return lines


# ---- text -----------------------------------------------------------------------------------------------------------

def columns(text: str) -> int:
    """How many columns of a terminal a text takes: none for colour codes and combining characters, two for wide ones,
    as in Chinese and most emoji."""
    if text.isascii() and "\x1b" not in text:
        return len(text)
    return sum(map(_columns_of, ANSI.sub("", text)))


@lru_cache(maxsize=None)
def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    """The text, cut or filled with spaces to this many columns."""
    text = clipped(text, width)
    return text + " " * (width - columns(text))


def clipped(text: str, width: int) -> str:
    """The text, if necessary cut to this many columns; its colour codes stay."""
    if columns(text) <= width:
        return text
    kept, used = [], 0
    for part in re.split("(\x1b\\[[^m]*m)", text):
        for character in [part] if part.startswith("\x1b") else part:
            used += 0 if character.startswith("\x1b") else _columns_of(character)
            if used <= width or character.startswith("\x1b"):
                kept.append(character)
    return "".join(kept)


def number(x: Any) -> str:
    """A number as text, with four digits."""
    x = np.asarray(x).item()
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def marked(a: np.ndarray) -> np.ndarray:
    """The array with -MASK in place of attention's score of a masked pair."""
    masked = a == FAR_BELOW if a.dtype.kind == "f" and a.dtype.itemsize > 2 else np.False_
    return np.where(masked, -MASK, a) if masked.any() else a


def summary(array: Any) -> str:
    """The largest magnitude as text, and how many numbers are masked or not finite."""
    a = _magnitudes(marked(np.asarray(array)))
    text = f"max {_largest(a):.3g}"
    if a.max(initial=0) < MASK:
        return text
    finite = np.isfinite(a)
    counts = ((finite & (a >= MASK)).sum(), "masked"), ((~finite).sum(), "NaN or infinite!")
    return ", ".join([text, *(f"{n} {what}" for n, what in counts if n)])


# ---- the parts of a heat map ----------------------------------------------------------------------------------------

def _labels(axis: str, n: int, labels: Mapping[str, Sequence[str]] | None) -> list[str]:
    """The label of each index of an axis of length n, with visible characters for spaces and control characters; the
    index where the axis has no labels."""
    found = (labels or {}).get(axis, ())
    if len(found) != n:
        return [str(k) for k in range(n)]
    shown = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in label).replace(" ", "␣") for label in found]
    widest = min(max(map(columns, shown)), LONGEST_LABEL)
    return [" " * (widest - columns(label)) + label for label in (clipped(label, widest) for label in shown)]


def _first_line(axes: Sequence[str], names: list[str], title: str, note: str, width: int) -> str:
    """The panel, the axes that run down and across it, and the note: "head 2  query ↓ key →  saved by the forward". If
    this is too wide: the note is cut, or comes first if the axes have no names."""
    directions = " ".join(f"{name} {arrow}" for name, arrow in zip(names, "↓→"[-len(names):]))
    parts = [title, directions, note] if any(axes[-2:]) else [title, note, directions]
    return clipped("  ".join(filter(None, parts)), width)


def _shown(parts: list[tuple[int, int, str]], width: int) -> str:
    """How many of the panels, rows and columns are shown, in as many words as fit."""
    parts = [part for part in parts if part[0] < part[1]]
    texts = [f"shown: {', '.join(f'{k} of {n} {what}' for k, n, what in parts)}",
             f"shown: {', '.join(f'{k}/{n} {what}' for k, n, what in parts)}",
             ", ".join(f"{k}/{n} {what}" for k, n, what in parts),
             ", ".join(f"{k}/{n}" for k, n, what in parts)]
    return next((text for text in texts if len(text) <= width), clipped(texts[-1], width))


def _title(names: list[str], shape: tuple[int, ...], k: int) -> str:
    """Which panel this is, by its index in the axes that are longer than 1: "head 2"."""
    at = zip(names, np.unravel_index(k, shape), shape)
    return ", ".join(f"{name}{': ' if name.startswith('axis ') else ' '}{i}" for name, i, n in at if n > 1)


def _header(labels: list[str], cell: int, right: bool, own: bool) -> str:
    """The labels of the columns: all of them above numbers and where the axis has labels of its own; otherwise as many
    indices as there is room for. right: whether cells are aligned to the right, as numbers are."""
    if right:
        texts = [clipped(label.strip(), cell - 1) for label in labels]
        return "".join(" " * (cell - columns(text)) + text for text in texts)
    if own:
        return "".join(padded(label.strip(), cell) for label in labels)
    every = next(k for k in (1, 2, 5, 10, 20, 50, 100) if k * cell > max(map(len, labels)) or k == 100)
    ticks = [label.ljust(cell * every) for label in labels[::every]]
    if len(ticks[-1].rstrip()) > cell * (len(labels) - every * (len(ticks) - 1)):
        ticks.pop()                             # it would be cut
    return padded("".join(ticks), cell * len(labels))


def _format(panels: np.ndarray, width: int) -> tuple[Callable[[Any], str] | None, int]:
    """A function that writes each number of an array, and the length of the longest text. Integers and booleans are all
    written; floats in panels of at most MOST_NUMBERS x MOST_NUMBERS, with three digits of the largest or, if a panel is
    then too wide, two. None for others."""
    if panels.dtype.kind in "biu":
        return lambda x: str(int(x)), max(len(str(int(panels.min()))), len(str(int(panels.max()))))
    if max(panels.shape[1:]) > MOST_NUMBERS or panels.shape[0] > MOST_PANELS:
        return None, 0
    largest = _largest(panels)
    for digits in (3, 2):
        decimals = digits - 1 - int(np.floor(np.log10(largest))) if largest else 0
        written = partial(_text, decimals=decimals, digits=digits)
        longest = max(len(written(x)) for x in panels.reshape(-1).tolist())
        if (longest + 1) * panels.shape[2] <= width:
            return written, longest
    return None, 0


def _largest(a: np.ndarray) -> float:
    """The largest magnitude of the numbers that are finite and no masks; 0 if there are none."""
    a = _magnitudes(a)
    largest = float(a.max(initial=0))
    return largest if largest < MASK else float(a[a < MASK].max(initial=0))         # the maximum may be NaN


def _magnitudes(a: np.ndarray) -> np.ndarray:
    """Magnitudes in a dtype that holds MASK."""
    return np.asarray(np.abs(a if a.dtype.itemsize > 2 else a.astype(np.float32)))


def _text(x: float, decimals: int, digits: int) -> str:
    if not np.isfinite(x):
        return f"{x}!"
    if x == 0.0:
        return "0"
    if abs(x) >= MASK:
        return "masked"
    return f"{x:.{max(decimals, 0)}f}" if -3 <= decimals <= 5 else f"{x:.{digits - 1}e}"


def _spread(n: int, most: int) -> list[int]:
    """At most `most` of n indices, evenly spaced from the first to the last."""
    return [int(k) for k in np.linspace(0, n - 1, min(n, most)).round()]


def _levels(a: np.ndarray, largest: float) -> np.ndarray:
    """Signed square roots of x / largest, in [-1, 1]; a mask becomes infinity, NaN and infinity become NaN."""
    shown = np.isfinite(a) & (np.abs(a) < MASK)
    with np.errstate(invalid="ignore", over="ignore"):
        levels = np.sign(a) * np.sqrt(np.abs(a) / (largest or 1.0))
    return np.where(shown, levels, np.where(np.isfinite(a), np.inf, np.nan))


def _numbers(texts: list[str], levels: np.ndarray | None) -> str:
    """One row of numbers; on the colours of these levels, unless they are None."""
    if levels is None:
        return "".join(texts)
    return "".join(_painted(text, *(BAD if t != t else (_rgb(t), _readable(_rgb(t)))))
                   for text, t in zip(texts, levels.tolist())) + RESET


def _row(levels: np.ndarray, cell: int, color: bool) -> str:
    """One line of a panel: of one row of levels (1, c), or of two rows (2, c) as half blocks."""
    if not color:
        return "".join(_character(t) * cell for t in levels[0].tolist())
    parts = []
    for column in levels.T.tolist():
        if any(t != t for t in column):         # NaN
            parts.append(_painted("!" * cell, *BAD))
        elif len(column) == 1:
            parts.append(_painted(" " * cell, _rgb(column[0])))
        else:
            parts.append(_painted("▀", _rgb(column[1]), _rgb(column[0])))
    return "".join(parts) + RESET


def _painted(text: str, background: tuple[int, ...], color: tuple[int, ...] = ()) -> str:
    return "\x1b[48;2;%d;%d;%dm" % background + ("\x1b[38;2;%d;%d;%dm" % color if color else "") + text


def _rgb(t: float) -> tuple[int, ...]:
    if math.isinf(t):
        return MASKED
    end = POSITIVE if t > 0.0 else NEGATIVE
    return tuple(round(zero + (pole - zero) * abs(t)) for zero, pole in zip(ZERO, end))


def _readable(background: tuple[int, ...]) -> tuple[int, ...]:
    """Black or white, whichever has more contrast with a background."""
    r, g, b = background
    return BLACK if 0.2126 * r ** 2.2 + 0.7152 * g ** 2.2 + 0.0722 * b ** 2.2 > 0.18 * 255 ** 2.2 else ZERO


def _character(t: float) -> str:
    if t != t:                                  # NaN
        return "!"
    if math.isinf(t):
        return "x"
    return RAMPS[t < 0.0][math.ceil(abs(t) * (len(RAMPS[0]) - 1))]
