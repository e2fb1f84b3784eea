"""The table in the terminal: a row for each kind of tensor, with the worst of its layers."""
import re
from typing import Iterable

from gpt.parity.differences import BOUNDS, SIDES, Difference

TITLES = {"outputs": "outputs", "gradients": "gradients", "AdamW": "weights after a step of AdamW",
          "AdamW alone": "weights after a step of AdamW with the gradients of the reference"}


def kind(d: Difference) -> str:
    """What the rows of a table have in common: the name without the layer; of weights, all."""
    return re.sub(r"^h\.\d+", "h.*", d.name) if d.what in ("outputs", "gradients") else "all"


def worst(found: Iterable[Difference]) -> Difference:
    """The one with the largest measure of those that are bounded; NaN is larger than any."""
    return max(found, key=lambda d: (d.bounded != d.bounded, d.bounded))


def print_table(found: list[Difference], dtype: str) -> None:
    """Print the differences in one dtype, 95 columns wide."""
    print(f"\n{dtype:33}{'kernels':^27}   {'plain':^27}\n{'':33}" +
          "  absolute relative  by norm " * 2 + "  bound")
    for what, title in TITLES.items():
        measure, bounds = BOUNDS[what]
        print(f"{title}")
        rows = [d for d in found if d.what == what and d.dtype == dtype]
        for name in dict.fromkeys(map(kind, rows)):
            cells, at = "", ""
            for side in SIDES:
                d = worst(d for d in rows if kind(d) == name and d.side == side)
                at = at or d.name
                cells += f"{d.absolute:10.1e}{d.relative:9.1e}{d.norm:9.1e}" + (" " if d.ok else "!")
            print(f"  {name if name != 'all' else at:31}{cells}{bounds[dtype]:8.0e}")
