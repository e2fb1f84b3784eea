"""Time per token against each size of the model: --scaling."""
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from gpt.bench import machine
from gpt.bench.matmul_floor import floor
from gpt.bench.options import Options
from gpt.bench.presets import Preset
from gpt.bench.sides import make_side
from gpt.bench.timing import time_in_turn
from gpt.run.plot import BLUE, GREY, ORANGE

SIZES = {"n_embd": (64, 128, 256, 512), "n_layer": (1, 2, 4, 8), "block_size": (32, 64, 128, 256)}
BATCH_SIZES = (3, 6, 12, 24)
COLORS = {"minigrad": ORANGE, "textbook": "#54a24b", "vector": "#b279a2", "PyTorch": BLUE, "torch.compile": "#202020",
          "floor": GREY}


def measure_scaling(o: Options, p: Preset, device: str) -> dict[str, Any]:
    """Microseconds per token around a preset, one size changed at a time: a row per point, printed and returned."""
    points = [(size, n, p._replace(shape=dataclasses.replace(p.shape, **{size: n})), o.threads)     # type: ignore
              for size, values in SIZES.items() for n in values]
    points += [("batch_size", n, p._replace(batch_size=n), o.threads) for n in BATCH_SIZES]
    points += [("threads", n, p, n) for n in range(1, o.threads + 1)]
    rows = []
    print(f"microseconds per token   {'  '.join(f'{name:>13}' for name in [*o.sides, 'floor'])}")
    for size, n, q, threads in points:
        with machine.on_threads(threads):
            sides = {name: make_side(name, q, device) for name in o.sides}
            times = time_in_turn(q, sides, floor(q, device), o.seconds / 10, o.steps)
        us = {name: 1e6 * float(np.median(t)) / q.tokens for name, t in times.items()}
        rows.append({"size": size, "value": n, "us_per_token": us})
        print(f"{size:>12} {n:>8}     {'  '.join(f'{t:13.2f}' for t in us.values())}", flush=True)
    return {"preset": o.preset, "machine": machine.describe(o.threads, device, "PyTorch" in o.sides), "scaling": rows}


def plot_scaling(path: Path, found: dict[str, Any]) -> None:
    """Write a picture of what `measure_scaling` found: a panel for each size, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
    rows, ran = found["scaling"], machine.executor_name(found["machine"])
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    figure = Figure(figsize=(2.4 * len(sizes), 3.5), layout="constrained")
    figure.suptitle(f"training around the preset {found['preset']}", fontsize=10)
    panels = figure.subplots(1, len(sizes), sharey=True)
    for axes, size in zip(panels, sizes):
        points = [row for row in rows if row["size"] == size]
        values = [row["value"] for row in points]
        for name in points[0]["us_per_token"]:
            axes.plot(values, [row["us_per_token"][name] for row in points], "o-", markersize=4, color=COLORS[name],
                      label=ran if name == "minigrad" else name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(values, [str(n) for n in values])
        axes.set_xlabel(size)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda us, _: f"{us:g}")
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("microseconds per token")
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=len(names[0]), frameon=False)
    figure.savefig(path, dpi=110)
