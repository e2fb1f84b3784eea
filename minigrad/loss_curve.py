"""The loss of a training run as a curve that redraws itself in a notebook."""
import html
import importlib
import math
import time
from typing import Any, Mapping

from minigrad.ipython import in_notebook, shell

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 140, 14, 34      # margins
MOST_POINTS = 400                               # of the curve; of more losses, means of as many in turn are drawn
TRAIN, VALIDATION = "#4c8fd6", "#e8590c"


class LossCurve:
    """Losses of training batches and of validation by step, drawn below the notebook's cell while it runs::

        curve = mg.LossCurve()
        for step in range(1000):
            loss = model.loss(*batch(step))
            loss.backward(); optimizer.step(); optimizer.zero_grad()
            curve.update(step, loss)

    Outside a notebook it prints lines of text. Both happen at most once in `seconds`, a validation is always shown.
    lines: label -> loss, drawn as dashed lines: that of the best possible predictor.
    """

    def __init__(self, lines: Mapping[str, float] | None = None, seconds: float = 1.0) -> None:
        self.lines, self.seconds = dict(lines or {}), seconds
        self.train: list[tuple[float, Any]] = []            # (step, loss), a Tensor until it is drawn
        self.validation: list[tuple[float, float]] = []
        self._next = -math.inf                              # when it may be drawn again
        self._handle: Any = None                            # of the picture in the notebook

    def update(self, step: int, loss: Any = None, val: Any = None) -> None:
        """Add the loss of a training batch, the validation loss, or both: numbers or Tensors of one element. A loss is
        read only when something is shown, so that a device need not be waited for at each step."""
        if loss is not None:
            self.train.append((step, getattr(loss, "detach", lambda: loss)()))      # without its graph
        if val is not None:
            self.validation.append((step, float(val)))
        if val is None and time.monotonic() < self._next:
            return
        if in_notebook():
            self._draw()
        else:
            shown = [f"{name} {float(x):.4f}" for name, x in (("loss", loss), ("val", val)) if x is not None]
            print(f"step {step:6} | {' | '.join(shown)}", flush=True)
        self._next = time.monotonic() + self.seconds

    def _draw(self) -> None:
        """Draw or redraw the picture below the cell that runs; once more at the end of that cell."""
        if self._handle is None:
            self._handle = importlib.import_module("IPython.display").display(self, display_id=True)
            shell().events.register("post_run_cell", self._cell_ended)
        else:
            self._handle.update(self)

    def _cell_ended(self, result: Any) -> None:
        shell().events.unregister("post_run_cell", self._cell_ended)
        self._handle.update(self)
        self._handle = None                     # in another cell, there is another picture

    def __repr__(self) -> str:
        last = [f"{name} {float(losses[-1][1]):.4f} at step {losses[-1][0]}"
                for name, losses in (("loss", self.train), ("val", self.validation)) if losses]
        return f"<loss curve: {', '.join(last) or 'no losses yet'}>"

    def _repr_html_(self) -> str:
        self.train = [(step, float(loss)) for step, loss in self.train]
        train, validation = _means(self.train), _finite(self.validation)
        if not train and not validation:
            return html.escape(repr(self))
        steps, losses = zip(*train, *validation)
        x0, x1 = float(min(steps)), float(max(steps))
        y0, y1 = float(min(*losses, *self.lines.values(), math.inf)), float(max(losses))
        x1, y1 = (high if high > low else low + 1.0 for low, high in ((x0, x1), (y0, y1)))
        inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

        def x(step: float) -> float:
            return LEFT + (step - x0) / (x1 - x0) * inner_width

        def y(loss: float) -> float:
            return TOP + (y1 - loss) / (y1 - y0) * inner_height

        parts = []
        for tick in ticks(y0, y1):
            parts += [_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), 'opacity=".15"'),
                      _text(LEFT - 6, y(tick) + 4, f"{tick:g}", "end")]
        for tick in filter(float.is_integer, ticks(x0, x1)):
            parts.append(_text(x(tick), HEIGHT - BOTTOM + 17, f"{tick:g}", "middle"))
        parts.append(_text(LEFT + 0.5 * inner_width, HEIGHT - 3, "step", "middle"))
        for points, color, width in ((train, TRAIN, 1.5), (validation, VALIDATION, 1.2)):
            path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>')
        dots = [(point, VALIDATION) for point in validation] + [(point, TRAIN) for point in train if len(train) == 1]
        parts += [f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3" fill="{color}"/>'
                  for (step, loss), color in dots]
        labels = [(loss, f"{name} {loss:.3f}", "currentColor") for name, loss in self.lines.items() if loss <= y1]
        parts += [_line(LEFT, y(loss), WIDTH - RIGHT, y(loss), 'stroke-dasharray="4 3" opacity=".7"')
                  for loss, _, _ in labels]
        labels += [(points[-1][1], f"{name} {points[-1][1]:.3f}", color) for name, points, color in (
            ("loss", train, TRAIN), ("validation", validation, VALIDATION)) if points]
        height = HEIGHT - BOTTOM + 19.0         # of the label below
        for loss, label, color in sorted(labels):
            height = min(y(loss) + 4.0, height - 15.0)
            parts.append(_text(WIDTH - RIGHT + 6, height, label, "start", color))
        return (f'<svg width="{WIDTH}" height="{HEIGHT}" style="max-width:100%;font:12px system-ui,sans-serif" '
                f'role="img" aria-label="{html.escape(repr(self))}">{"".join(parts)}</svg>')


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between two numbers."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 3.0))
    step = next(m * unit for m in (5, 2, 1) if (high - low) / (m * unit) >= 3.0)
    return [float(f"{k * step:.12g}") for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _finite(losses: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(step, loss) for step, loss in losses if math.isfinite(loss)]


def _means(losses: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The losses that are finite; of more than MOST_POINTS, means of as many in turn."""
    points = _finite(losses)
    n = -(-len(points) // MOST_POINTS) or 1
    groups = [points[k:k + n] for k in range(0, len(points), n)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def _line(x0: float, y0: float, x1: float, y1: float, style: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="currentColor" {style}/>'


def _text(x: float, y: float, text: str, anchor: str, color: str = "currentColor") -> str:
    legible = f"fill:color-mix(in srgb, {color} 70%, currentColor)"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{legible}">{html.escape(text)}</text>'
