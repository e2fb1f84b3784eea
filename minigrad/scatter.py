"""A picture of gradients against what finite differences give for them."""
from typing import Any, Iterable

import numpy as np


COLORED = 6                                     # names with a color of their own, those furthest from the diagonal


def plot(pairs: Iterable[tuple[float, float, str]], title: str, path: Any = None) -> Any:
    """Draw (analytic, numeric, name) as points on symmetric logarithmic scales, with the diagonal. Writes a PNG to
    path, if there is one. Returns Matplotlib's axes, which a notebook shows."""
    import matplotlib.pyplot as plt             # late: it takes half a second
    from matplotlib.ticker import NullLocator
    found: dict[str, list[tuple[float, float]]] = {}
    for analytic, numeric, name in pairs:
        found.setdefault(name, []).append((numeric, analytic))
    clouds = {name: np.array(points).T for name, points in found.items()}                   # name -> (2, n)
    off = {name: np.nan_to_num(np.abs(cloud[0] - cloud[1]), nan=np.inf).max() for name, cloud in clouds.items()}
    nearest_first = sorted(clouds, key=lambda name: float(off[name]))
    numbers = np.abs(np.concatenate([np.zeros(1), *(cloud.ravel() for cloud in clouds.values())]))
    largest = numbers[np.isfinite(numbers)].max() or 1.0

    figure, axes = plt.subplots(figsize=(6.4, 6.4), layout="constrained")
    for name in nearest_first[:-COLORED]:
        axes.plot(*clouds[name], ".", color="#a0a0a0", label="others" if name == nearest_first[0] else None)
    for name in nearest_first[-COLORED:]:
        axes.plot(*clouds[name], ".", alpha=0.7, label=name)
    axes.axline((0.0, 0.0), slope=1.0, color="#707070", linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
    axes.set_title(title.replace("; ", "\n"), fontsize=10, parse_math=False)
    axes.set(xlabel="numeric: a central difference of the loss", ylabel="analytic: the backward", aspect="equal")
    ticks = [sign * 10.0 ** (np.floor(np.log10(largest)) - k) for k in range(3) for sign in (-1.0, 1.0)]
    for axis in "xy":
        getattr(axes, f"set_{axis}scale")("symlog", linthresh=1e-3 * largest, linscale=0.6)
        getattr(axes, f"set_{axis}lim")(-2.0 * largest, 2.0 * largest)
        getattr(axes, f"set_{axis}ticks")([0.0, *ticks])
        getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())
    axes.legend(loc="upper left", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if path is not None:
        figure.savefig(path, dpi=200)
        plt.close(figure)
    return axes
