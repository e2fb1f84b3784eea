"""The picture: differences of each layer and of each gradient, and the curves."""
from pathlib import Path
from typing import Any

import numpy as np

from gpt.parity.curves import Curves, distance
from gpt.parity.differences import BOUNDS, DTYPES, SIDES, Difference
from gpt.run.plot import BLUE, GREY, ORANGE

COLORS = {"float32": ORANGE, "float64": BLUE}
COLORS_OF = {"kernels": ORANGE, "plain": BLUE}
MARKERS = {"kernels": "o", "plain": "x"}
LEAST = 1e-18                                   # where a difference of 0 is drawn


def plot(path: Path, title: str, reference: str, found: list[Difference], curves: Curves) -> None:
    """Write a PNG. Both scales of differences are logarithmic; the dashed lines are the bounds."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.add_gridspec(2, 2)
    outputs, gradients = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, :])
    points(outputs, [d for d in found if d.what == "outputs"])
    points(gradients, [d for d in found if d.what == "gradients"])
    outputs.set(title="outputs; 0 is drawn at 1e-18", ylabel="max|a - b| / max|b|")
    gradients.set(title="gradients", ylabel="|a - b| / |b|")
    handles = gradients.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]), frameon=False)
    if any(curves.values()):
        draw_curves(figure.add_subplot(grid[0, 1]), reference, curves)
    figure.savefig(path, dpi=110)


def points(axes: Any, rows: list[Difference]) -> None:
    """A point for each array, dtype and side."""
    names = list(dict.fromkeys(d.name for d in rows))
    for dtype in DTYPES:
        for side in SIDES:
            values = [d.bounded for d in rows if (d.dtype, d.side) == (dtype, side)]
            axes.plot(range(len(names)), np.maximum(values, LEAST), MARKERS[side], markersize=4, fillstyle="none",
                      color=COLORS[dtype], label=f"{dtype}, {side}")
        axes.axhline(BOUNDS[rows[0].what][1][dtype], color=COLORS[dtype], linestyle="--", linewidth=0.8,
                     label=f"bound of {dtype}")
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8 if len(names) < 60 else 4)
    axes.spines[["top", "right"]].set_visible(False)


def draw_curves(axes: Any, reference: str, curves: Curves) -> None:
    """The losses of all sides; the largest distance in the title."""
    for name, losses in curves.items():
        axes.plot(losses, linewidth=3 if name == reference else 1, label=name,
                  color=GREY if name == reference else COLORS_OF[name])
    gap, step = max(distance(curves, name, reference) for name in curves if name != reference)
    axes.axvline(step, color=GREY, linestyle=":", linewidth=0.8)
    axes.set(title=f"training: largest distance {gap:.1e} nats, at step {step}", xlabel="step",
             ylabel="loss (nats per token)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
