"""What the lessons draw with: figures that follow a page into dark mode, tables, and a text coloured by its losses."""
import html
import io
import re
from typing import Any, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from minigrad.html_tables import table as html_table
from minigrad.words import plural

BLUE, ORANGE, GREY = "#4c8ec8", "#e07b28", "#808080"        # legible on white and on black
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False,
         "figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False}


class Html:
    """HTML that a notebook and the site show. `text` is what print shows."""

    def __init__(self, markup: str, text: str) -> None:
        self.markup, self.text = markup, text

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def figure(width: float = 7.5, height: float = 3.2) -> Figure:
    """An empty figure, in inches, in the style of the lessons, which becomes matplotlib's."""
    matplotlib.rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def show(fig: Figure, alt: str) -> Html:
    """A figure as inline SVG, in which black is the text colour of the page. alt: what is to be seen, in words."""
    if not isinstance(alt, str) or len(alt.split()) < 4:
        raise ValueError(f"alt must say in words what the figure shows, for a reader who cannot see it; got {alt!r}")
    with matplotlib.rc_context({"svg.hashsalt": alt}):
        out = io.StringIO()
        fig.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg"):].replace("#000000", "currentColor").replace(
        "<svg ", '<svg fill="currentColor" style="width:100%;height:auto" ', 1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)              # the font is the page's
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)                 # each figure of a page has the same, and none is used
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    return Html(f'<figure role="img" aria-label="{html.escape(alt)}" style="margin:1em 0;font-family:sans-serif">'
                f"{svg}</figure>", alt)


def matrix(ax: Any, a: np.ndarray, title: str, rows: Sequence[Any], columns: Sequence[Any], most: float = 1.0) -> None:
    """Draw a small matrix (len(rows), len(columns)) with its numbers: blue below 0, red above, full colour at most."""
    a = np.asarray(a)
    if a.shape != (len(rows), len(columns)):
        raise ValueError(f"a has shape {a.shape}, and there are labels for {plural(len(rows), 'row')} and "
                         f"{plural(len(columns), 'column')}")
    ax.imshow(a, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for i, j in np.ndindex(a.shape):
        ink = "#fefefe" if abs(a[i, j]) > 0.6 * most else "#101010"
        ax.text(j, i, f"{a[i, j]:{'+' * bool(a.min() < 0)}.2f}", ha="center", va="center", color=ink, fontsize=9)
    ax.set(title=title, xticks=range(a.shape[1]), yticks=range(a.shape[0]))
    ax.set_xticklabels(columns)
    ax.set_yticklabels(rows)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """A table. Numbers are aligned on the right, floats have three decimals."""
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"rows[{i}] has {plural(len(row), 'value')}, the header has {len(header)}: {row}")
    texts = [[f"{x:,.3f}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    number = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?|")
    numbers = [i for i in range(len(header)) if all(number.fullmatch(row[i]) for row in texts)]
    escaped = [[html.escape(x) for x in row] for row in texts]
    return Html(html_table([html.escape(x) for x in header], escaped, numbers),
                "\n".join("  ".join(row) for row in [list(header), *texts]))


def strip(text: str, losses: dict[str, np.ndarray], most: float = 3.0) -> Html:
    """A text once for each of `losses`, label -> (len(text),) in nats: the higher the loss of a character, the darker
    it is, full colour at most."""
    for label, values in losses.items():
        if np.shape(values) != (len(text),):
            raise ValueError(f"the losses of {label!r} have shape {np.shape(values)}, but the text has "
                             f"{plural(len(text), 'character')}")
    lines, width, chunk = [], max(map(len, losses), default=0), 60
    for start in range(0, len(text), chunk):
        part = slice(start, start + chunk)
        for label, values in losses.items():
            cells = "".join(
                f'<span style="background:rgba(224,123,40,{min(loss / most, 1.0):.2f});padding:.15em 0" '
                f'title="{loss:.2f} nats">{html.escape(c if c != chr(10) else "⏎")}</span>'
                for c, loss in zip(text[part], values[part]))
            lines.append(f"{label:>{width}}  {cells}")
        lines.append("")
    return Html('<pre style="line-height:1.7;overflow-x:auto">' + "\n".join(lines) + "</pre>", text)
