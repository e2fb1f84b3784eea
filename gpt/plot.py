"""The loss curve as a picture."""
from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib.figure import Figure

GREY, BLUE, ORANGE = "#808080", "#4c78a8", "#d95f02"


def loss_curve(path: Path, title: str, train: Sequence[tuple[int, float]], val: Sequence[tuple[int, float, float]],
               lines: dict[str, float]) -> None:
    """Draw a run as PNG: train (step, loss), val (step, loss, standard error) and, dashed, what predictors that learn
    nothing reach: label -> loss. All in nats per token."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for label, loss in lines.items():
        axes.axhline(loss, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate(f"{label}  {loss:.2f}", (1, loss), xycoords=("axes fraction", "data"), xytext=(-6, 3),
                      textcoords="offset points", ha="right", color=GREY, fontsize=9)
    steps, losses = np.array(train).T
    axes.plot(steps, losses, ".", markersize=3, color=BLUE, alpha=0.4, label="training batches")
    width = min(9, len(losses))
    mean = np.convolve(losses, np.full(width, 1.0 / width), mode="valid")
    axes.plot(steps[width // 2:][:len(mean)], mean, color=BLUE, linewidth=1.5, label=f"mean of {width} of them")
    steps, losses, errors = np.array(val).T
    axes.errorbar(steps, losses, errors, fmt="o", color=ORANGE, markersize=4, capsize=2, clip_on=False,
                  label="validation, ± standard error")
    axes.annotate(f"{losses[-1]:.2f}", (steps[-1], losses[-1]), xytext=(8, 0), textcoords="offset points",
                  va="center", color=ORANGE, weight="bold")
    axes.set(title=title, xlabel="step", ylabel="loss (nats per character)", xlim=(0, steps[-1]))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=110)
