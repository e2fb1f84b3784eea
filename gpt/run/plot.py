"""Plots of a run as PNG: its loss, its learning rate, and the norms of its tensors."""
import io
import warnings
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from gpt import files
from gpt.run.lr_schedule import decay_start
from gpt.run.options import Options

GREY, BLUE, ORANGE = "#707070", "#4c78a8", "#d95f02"
HEALTHY = -3                                    # log10 of a good ratio of update to weight
Row = Mapping[str, Any]                         # of metrics.jsonl or stats.jsonl


def draw(out_dir: Path, o: Options, title: str, metrics: Sequence[Row], stats: Sequence[Row],
         lines: Mapping[str, float], unit: str) -> None:
    """Draw loss.png, lr.png and, if there are statistics of tensors, stats.png. unit: singular noun for a token."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # about characters that the font lacks, and losses of 0 on a log scale
        loss_curve(out_dir / "loss.png", title, metrics, lines, unit)
        lr_curve(out_dir / "lr.png", metrics, o.warmup_iters, decay_start(o.lr_schedule, o.warmup_iters, o.max_iters),
                 o.max_iters)
        if stats:
            stats_maps(out_dir / "stats.png", stats)


def loss_curve(path: Path, title: str, metrics: Sequence[Row], lines: Mapping[str, float], unit: str = "token") -> None:
    """Draw the rows of metrics.jsonl: the losses of training batches, the validation loss ± its standard error, and
    dashed the losses of reference predictors: label -> loss. All in nats per token."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
    figure = _figure(8, 5)
    axes = figure.add_subplot()
    axes.set_yscale("log")                      # resolves the lines near the best possible loss
    steps, losses = _columns(metrics, "step", "train_loss")
    axes.plot(steps, losses, ".", markersize=3, color=BLUE, alpha=0.35, label="training batches")
    if len(losses) > 1:
        axes.plot(steps, moving_mean(losses, 9), color=BLUE, linewidth=1.5, label="mean of 9 of them")
    steps, losses, errors = _columns(metrics, "step", "val_loss", "val_se")
    axes.errorbar(steps, losses, errors, fmt="o-", color=ORANGE, linewidth=0.8, markersize=4, capsize=2, clip_on=False,
                  zorder=3, label="validation, ± standard error")
    axes.set(xlabel="step", ylabel=f"loss (nats per {unit})", xlim=(0, max(steps[-1], 1)))
    axes.set_title(title.encode(errors="replace").decode(), parse_math=False)       # it may have any characters
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for loss in lines.values():
        axes.axhline(loss, color=GREY, linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
    lowest, highest = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)) if highest > 3 * lowest else MaxNLocator(6))
    labels = {f"{label}  {loss:.3f}": (loss, GREY) for label, loss in lines.items()}
    labels[f"validation  {losses[-1]:.3f}"] = losses[-1], ORANGE
    low, high = np.log(axes.get_ylim())
    heights = {label: float(np.clip(np.nan_to_num((np.log(loss) - low) / (high - low)), 0.0, 1.0))   # a loss may be 0
               for label, (loss, _) in labels.items()}
    for label, height in spread(heights, 0.036).items():
        color = labels[label][1]
        axes.annotate(label, (1.0, heights[label]), (1.04, height), xycoords="axes fraction", va="center", color=color,
                      fontsize=9, annotation_clip=False, arrowprops=dict(
                          arrowstyle="-", color=color, linewidth=0.6, shrinkA=1, shrinkB=0, relpos=(0.0, 0.5)))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)       # below the axes it covers no line
    _save(figure, path)


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the `width` values around each value, an odd number; of fewer near both ends, as many on either
    side."""
    at = np.arange(len(values))
    half = np.minimum(width // 2, np.minimum(at, at[::-1]))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)


def spread(heights: Mapping[str, float], apart: float) -> dict[str, float]:
    """The heights in ascending order, moved up in one pass where two are closer than `apart`."""
    placed: dict[str, float] = {}
    lowest = -np.inf
    for label in sorted(heights, key=lambda label: heights[label]):
        placed[label] = lowest = max(heights[label], lowest + apart)
    return placed


def lr_curve(path: Path, metrics: Sequence[Row], warmup_iters: int, decay_start: int, max_iters: int) -> None:
    """Draw the learning rates in the rows of metrics.jsonl, with bands for the warmup and the decay."""
    figure = _figure(8, 3)
    axes = figure.add_subplot()
    steps, rates = _columns(metrics, "step", "lr")
    for label, start, end, at, ha, color in (("warmup", 0, warmup_iters, 0, "left", ORANGE),
                                             ("decay", decay_start, max_iters, max_iters, "right", BLUE)):
        if start < end:
            axes.axvspan(start, end, color=color, alpha=0.12, linewidth=0)
            axes.annotate(label, (at, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                          textcoords="offset points", ha=ha, color=color, annotation_clip=False)
    axes.plot(steps, rates, color="#202020", linewidth=1.5)
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, max_iters))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.1e}" if rate else "0")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def stats_maps(path: Path, stats: Sequence[Row]) -> None:
    """Draw the rows of stats.jsonl as heat maps of log10: one row per tensor, one column per step. A ratio of update to
    weight of about 1e-3, the middle of its colors, is healthy: a blue row hardly learns, a red one may diverge."""
    from matplotlib.colors import CenteredNorm
    from matplotlib.ticker import FuncFormatter, MultipleLocator
    tensors = list(dict.fromkeys(row["tensor"] for row in stats))
    steps = sorted({row["step"] for row in stats})
    at = {step: i for i, step in enumerate(steps)}
    figure = _figure(11, 1.4 + 0.17 * len(tensors))
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (field, title) in zip(panels, (("update_ratio", "update / weight, log10"),
                                             ("grad_norm", "gradient, log10 of the norm"),
                                             ("weight_norm", "weight, log10 of the norm"))):
        grid = np.full((len(tensors), len(steps)), np.nan)
        for row in stats:
            if row[field] > 0.0:                # a norm of 0 has no logarithm: biases start at 0
                grid[tensors.index(row["tensor"]), at[row["step"]]] = np.log10(row[field])
        colors = dict(cmap="coolwarm", norm=CenteredNorm(HEALTHY)) if field == "update_ratio" else dict(cmap="viridis")
        image = axes.imshow(grid, aspect="auto", interpolation="nearest", **colors)
        shown = np.linspace(0, len(steps) - 1, min(5, len(steps))).astype(int)
        axes.set_xticks(shown, [str(steps[i]) for i in shown])
        axes.set(title=title, xlabel="step")
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        if field == "update_ratio":
            bar.ax.axhline(HEALTHY, color="black", linewidth=1)
            bar.ax.yaxis.set_major_locator(MultipleLocator(1))
            bar.ax.yaxis.set_major_formatter(FuncFormatter(
                lambda x, _: "−3: healthy" if x == HEALTHY else f"{x:.0f}".replace("-", "−")))
    panels[0].set_yticks(range(len(tensors)), tensors, fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png, dpi=200)
    files.write_atomically(path, png.getvalue())


def _figure(width: float, height: float) -> Any:
    """An empty figure, its size in inches. Matplotlib is imported late: it takes half a second."""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def _columns(rows: Sequence[Row], *names: str) -> tuple[np.ndarray, ...]:
    """One array for each field, from the rows that have all of these fields; None becomes NaN."""
    found = [[row[name] for name in names] for row in rows if all(name in row for name in names)]
    return tuple(np.array(found, dtype=float).reshape(-1, len(names)).T)
