"""What the command prints and writes: tables, the verdict, the figures as JSON."""
import math
import re
from typing import Any, Iterable

from gpt.parity.curves import BOUND, Curves, distance
from gpt.parity.differences import BOUNDS, DTYPES, SIDES, Difference

NAMED = 5                                       # differences above their bounds that the verdict names
REFERENCES = {"transformers": "transformers' GPT2LMHeadModel, eager attention, without dropout; PyTorch's AdamW",
              "composed": "minigrad itself, as transformers or PyTorch is not installed: the textbook's ops, fused "
                          "ones as the primitives that they are composed of (mg.unfused)"}
LEGEND = """
max = max|a - b|, rel = max|a - b| / max|b|, norm = |a - b| / |b|, of the worst layer. Where a
gradient is nothing but rounding, as that of the bias of the keys, AdamW's step is up to the
learning rate in either direction, by chance."""


def kind(d: Difference) -> str:
    """The name of a tensor without its layer, h.*.attn.c_attn.weight; of weights after a step, all are of one kind."""
    return "all weights" if d.what in ("AdamW", "whole step") else re.sub(r"^h\.\d+", "h.*", d.name)


def worst(found: Iterable[Difference]) -> Difference:
    """The one with the largest measure of those that are bounded; NaN is larger than any."""
    return max(found, key=lambda d: (math.isnan(d.bounded), d.bounded))


def print_tables(found: list[Difference]) -> None:
    """Print a row for each kind of tensor, with the worst of its layers, in 91 columns."""
    print(LEGEND)
    for dtype in DTYPES:
        print(f"\n{dtype:30}{'kernels':33}plain\n{'':27}{'    max     rel    norm          ' * 2}".rstrip())
        for what, (measure, bounds, title) in BOUNDS.items():
            rows = [d for d in found if d.what == what and d.dtype == dtype]
            bound = "not bounded" if math.isinf(bounds[dtype]) else f"{measure} at most {bounds[dtype]:.0e}"
            print(f"{title}: {bound}")
            for name in dict.fromkeys(kind(d) for d in rows):
                alike = [d for d in rows if kind(d) == name]
                cells = [cell(worst(d for d in alike if d.side == side)) for side in SIDES]
                print(f"  {name:25}{' '.join(cells)}".rstrip())


def cell(d: Difference) -> str:
    """Three measures of a difference, and its layer; ! where it is above its bound."""
    layer = re.match(r"h\.\d+", d.name)
    return f"{d.max:7.1e} {d.rel:7.1e} {d.norm:7.1e}{' ' if d.ok else '!'}{layer[0] if layer else '':7}"


def above(found: list[Difference], curves: Curves, other: str) -> list[str]:
    """The differences above their bounds, the largest ratio first, and then the curves, in words."""
    high = sorted((d for d in found if not d.ok), key=lambda d: (not math.isnan(d.bounded), -d.bounded / d.bound))
    said = [f"{BOUNDS[d.what][2]} of {d.name} ({d.dtype}, {d.side}: {d.bounded:.1e} > {d.bound:.0e})" for d in high]
    return said + [f"loss of {name} at step {step} ({gap:.1e} > {BOUND:.0e} nats)"
                   for name, (gap, step) in distances(curves, other).items() if not gap <= BOUND]


def verdict(found: list[Difference], curves: Curves, other: str, parameters: int) -> tuple[str, bool]:
    """The last line, and whether all is within the bounds."""
    high = above(found, curves, other)
    if high:
        more = f" and {len(high) - NAMED} more" if len(high) > NAMED else ""
        return f"ABOVE THE BOUNDS: {'; '.join(high[:NAMED])}{more}", False
    double = worst(d for d in found if d.dtype == "float64" and d.bound < math.inf)
    single = worst(d for d in found if (d.dtype, d.what) == ("float32", "gradients"))
    trained = "".join(f", {len(curves[name])} steps {gap:.1e} nats"
                      for name, (gap, _) in distances(curves, other).items() if name == SIDES[0])
    return (f"parity with {other}: {parameters:,} parameters, float64 {double.bounded:.1e}, float32 gradients "
            f"{single.bounded:.1e}{trained}"), True


def distances(curves: Curves, other: str) -> dict[str, tuple[float, int]]:
    """The largest distance of each curve from that of the reference, and its step."""
    return {name: distance(curves, name, other) for name in curves if name != other}


def figures(found: list[Difference]) -> list[dict[str, Any]]:
    """The differences for JSON."""
    return [{**d._asdict(), "bound": d.bound if d.bound < math.inf else None, "ok": d.ok} for d in found]
