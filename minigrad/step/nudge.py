"""One number of a leaf changed: the loss that its gradient predicts, the tangent, and the loss that the forward gives.

`record.nudge` makes a Nudge, `record.nudge_curve` a NudgeCurve, which a notebook shows as a picture and print as text.
"""
import math
from html import escape
from typing import Any, Callable, NamedTuple

import numpy as np

from minigrad.loss_curve import ticks
from minigrad.step.explain import size_of
from minigrad.words import index

POINTS = 21                                     # of a curve; odd, so that the recorded value is one of them
REACHES = [2.0 ** k for k in range(-4, 11)]     # how far a curve may reach to either side, in sizes of the leaf
TEXT = 61, 12                                   # columns and rows of a curve in text
WIDE, HIGH, LEFT, BELOW = 560, 300, 78, 44      # of a picture, in pixels; room for the numbers beside it and below it
CURVE, TANGENT = "#c2410c", "#5b8bd0"           # colours that can be told apart on white and on black


class Nudge(NamedTuple):
    """One number of a leaf changed by delta: the change of the loss that its gradient predicts, and the actual one."""
    leaf: str
    at: tuple[int, ...]
    gradient: float
    delta: float
    predicted: float                # gradient * delta
    actual: float


class NudgeCurve(NamedTuple):
    """The loss along one number of a leaf, and its tangent at the recorded value, loss + gradient * delta."""
    leaf: str
    at: tuple[int, ...]
    value: float                    # of the number, as recorded
    loss: float                     # as recorded
    gradient: float
    deltas: Any                     # (POINTS,) evenly spaced around 0
    changes: Any                    # (POINTS,) of the loss, at value + delta

    @property
    def name(self) -> str:
        """"w[0,2]"."""
        return self.leaf + index(self.at)

    @property
    def _not_finite(self) -> str:
        return f"{self.name} is {self.value:.6g}, the loss is {self.loss:.6g}"

    @property
    def _range(self) -> tuple[float, float]:
        """The smallest and the largest loss of the curve and its tangent."""
        shown = self.loss + np.concatenate([self.changes, self.gradient * self.deltas])
        shown = shown[np.isfinite(shown)]
        low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 0.0)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def __str__(self) -> str:
        """The curve (*), its tangent (.) and the recorded value (@) in 12 lines of characters."""
        if not math.isfinite(self.loss + self.value):
            return f"  no curve: {self._not_finite}"
        columns, rows = TEXT
        low, high = self._range
        deltas = np.linspace(self.deltas[0], self.deltas[-1], columns)
        cells = [[" "] * columns for _ in range(rows)]
        curve = np.interp(deltas, self.deltas, self.changes)
        curve[columns // 2] = 0.0                               # the recorded value, also between NaNs
        for mark, changes in (".", self.gradient * deltas), ("*", curve):
            for column, loss in enumerate(self.loss + changes):
                if np.isfinite(loss):
                    cells[round((high - loss) / (high - low) * (rows - 1))][column] = mark
        here = round((high - self.loss) / (high - low) * (rows - 1))
        cells[here][columns // 2] = "@"
        labels = {0: high, rows - 1: low, here: self.loss}
        digits = min(max(4, math.ceil(-math.log10((high - low) / max(abs(low), abs(high)))) + 3), 9)
        texts = {r: f"{label:.{digits}g}" for r, label in labels.items()}
        width = max(map(len, texts.values()))
        lines = [f"  {texts.get(r, ''):>{width}} |{''.join(row)}".rstrip() for r, row in enumerate(cells)]
        ends = [f"{self.value + delta:.4g}" for delta in (self.deltas[0], 0.0, self.deltas[-1])]
        margin, half = " " * (width + 4), columns // 2
        axis = f"{ends[0]:{half - len(ends[1]) // 2}}{ends[1]}"
        return "\n".join([f"  loss along {self.name}: * loss, . tangent, @ recorded value",
                          *lines, f"{margin}{axis}{ends[2]:>{columns - len(axis)}}"])

    def _repr_html_(self) -> str:
        """The curve and its tangent as inline SVG."""
        if not math.isfinite(self.loss + self.value):
            return f"<p>no curve: {escape(self._not_finite)}</p>"
        low, high = self._range
        bottom, right = HIGH - BELOW, WIDE - 12

        def x(delta: float) -> float:
            return LEFT + (right - LEFT) * (delta / float(self.deltas[-1]) + 1.0) / 2.0

        def y(loss: float) -> float:
            return 12 + (bottom - 12) * (high - loss) / (high - low)

        def line(changes: Any, style: str) -> str:
            points = " ".join(f"{x(delta):.1f},{y(self.loss + change):.1f}"
                              for delta, change in zip(self.deltas, changes) if math.isfinite(change))
            return f'<polyline points="{points}" {style}/>'

        name = escape(self.name)
        words = (f"loss {self.loss:.6g} at the recorded value {self.value:.6g}; the gradient there, "
                 f"{self.gradient:.4g}, is the slope of the tangent")
        marks = [f'<path d="M{x(v - self.value):.1f} {bottom}v5"/>'
                 f'<text x="{x(v - self.value):.1f}" y="{bottom + 18}" text-anchor="middle">{v:.6g}</text>'
                 for v in ticks(self.value + self.deltas[0], self.value + self.deltas[-1])]
        marks += [f'<path d="M{LEFT - 5} {y(v):.1f}h5"/>'
                  f'<text x="{LEFT - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.8g}</text>' for v in ticks(low, high)]
        marks += [f'<path d="M{LEFT} 12V{bottom}H{right}"/>',
                  f'<text x="{(LEFT + WIDE) / 2}" y="{HIGH - 6}" text-anchor="middle">value of {name}</text>',
                  f'<text transform="translate(14 {bottom / 2}) rotate(-90)" text-anchor="middle">loss</text>',
                  line(self.gradient * self.deltas, f'stroke="{TANGENT}" stroke-width="2" stroke-dasharray="6 4"'),
                  line(self.changes, f'stroke="{CURVE}" stroke-width="2.5"'),
                  f'<circle cx="{x(0.0):.1f}" cy="{y(self.loss):.1f}" r="5" fill="{CURVE}" stroke="none"/>']
        texts = "".join(marks).replace("<text ", '<text fill="currentColor" stroke="none" ')
        return (f'<figure style="margin:8px 0"><svg viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" height="{HIGH}" '
                'style="max-width:100%;height:auto;font:12px sans-serif" fill="none" stroke="currentColor" role="img" '
                f'aria-label="the loss along {name}: {escape(words)}">{texts}</svg>'
                f'<figcaption><span style="color:{CURVE}">━ loss</span> &nbsp; <span style="color:{TANGENT}">╍ tangent'
                f'</span> &nbsp; {escape(words)}</figcaption></figure>')


def nudge_curve(leaf: str, at: tuple[int, ...], x: Any, loss: float, gradient: float,
                change: Callable[[Any], float]) -> NudgeCurve:
    """The curve of one element of a leaf. x: the leaf in float64; change(x): how much the loss changes with another x.

    The curve reaches far enough to show its curvature: to where the loss differs from the tangent by half of what the
    tangent predicts, but at least a 16th of the leaf's size and at most 1024 times its size.
    """
    def change_by(delta: float) -> float:
        moved = x.copy()
        moved[at] += delta
        return change(moved)

    size = size_of(x)
    reach = size if gradient == 0.0 else 0.0
    for wider in [share * size for share in REACHES] if not reach else []:
        bends = [abs(change_by(delta) - gradient * delta) for delta in (-wider, wider)]
        if reach and not np.isfinite(bends).all():
            break
        reach = wider
        if max(bends) >= abs(gradient * reach) / 2.0:
            break
    deltas = np.linspace(-reach, reach, POINTS)
    return NudgeCurve(leaf, at, float(x[at]), loss, gradient, deltas, np.array([change_by(d) if d else 0.0
                                                                              for d in deltas]))
