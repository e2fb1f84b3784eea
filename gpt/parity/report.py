"""What the command prints and writes: tables, the verdict, the figures as JSON."""
import math
import re
from typing import Any, Iterable, Mapping

from gpt.parity.curves import BOUND, Curves, distance
from gpt.parity.differences import BOUNDS, DTYPES, SIDES, Difference

NAMED = 5                                       # differences above their bounds that the verdict names
REFERENCES = {"transformers": "transformers' GPT2LMHeadModel, eager attention, without dropout; PyTorch's AdamW",
              "composed": "minigrad itself, as transformers or PyTorch is not installed: the textbook ops, each fused one "
                          "as the primitives that it is composed of (mg.unfused)"}


def kind(name: str) -> str:
    """The name of a tensor without its layer: h.*.attn.c_attn.weight."""
    return re.sub(r"^h\.\d+", "h.*", name)


def worst(found: Iterable[Difference]) -> Difference:
    """The one with the largest measure of those that are bounded; NaN is larger than any."""
    return max(found, key=lambda d: (math.isnan(d.bounded), d.bounded))


def print_table(found: list[Difference], dtype: str) -> None:
    """Print a row for each kind of tensor with the worst of its layers, 94 columns wide."""
    print(f"\n{dtype:32}{'kernels':^28} {'plain':^28}\n{'':32}{'    max     rel    norm     ' * 2}  bound")
    for what, (measure, bounds, title) in BOUNDS.items():
        rows = [d for d in found if d.what == what and d.dtype == dtype]
        named = {"": rows} if what.startswith("AdamW") else {
            name: [d for d in rows if kind(d.name) == name] for name in dict.fromkeys(kind(d.name) for d in rows)}
        for name, alike in named.items():
            cells = [cell(worst(d for d in alike if d.side == side)) for side in SIDES]
            bound = bounds[dtype]
            print(f"{name or title:32}{' '.join(cells)} {bound:6.0e} {measure}" if bound < math.inf else
                  f"{name or title:32}{' '.join(cells)}   none")


def cell(d: Difference) -> str:
    """Three measures of a difference, and its layer."""
    layer = re.match(r"h\.(\d+)", d.name)
    at = f"h.{layer[1]}" if layer else ""
    return f"{d.absolute:8.1e}{d.relative:8.1e}{d.norm:8.1e}{'' if d.ok else '!'} {at}".ljust(28)


def above(found: list[Difference], curves: Curves, other: str) -> list[str]:
    """The differences above their bounds, the largest ratio first, in words."""
    high = sorted((d for d in found if not d.ok), key=lambda d: -d.bounded / d.bound)
    said = [f"{BOUNDS[d.what][2]} {d.name}, {d.dtype}, {d.side}: {d.bounded:.1e} > {d.bound:.0e}" for d in high]
    for name, (gap, step) in distances(curves, other).items():
        if not gap <= BOUND:
            said.append(f"the loss of {name} at step {step}: {gap:.1e} > {BOUND:.0e} nats")
    return said


def distances(curves: Curves, other: str) -> dict[str, tuple[float, int]]:
    """The largest distance of each curve from that of the reference, and its step."""
    return {name: distance(curves, name, other) for name in curves if name != other}
