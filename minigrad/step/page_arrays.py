"""Numbers and arrays in the JSON of a page: each array once, in float32, sampled where the page would be too large."""
import base64
import hashlib
import math
from typing import Any

import numpy as np

from minigrad.step.heatmap import MASK, marked

PANELS = 12                                     # matrices shown of an array of more than two axes
CELLS = 4096, 2048, 1024, 512, 256, 128, 64     # numbers stored of one array, as many as the budget allows


def as_json(x: Any) -> Any:
    """A number for JSON, to 9 digits; NaN and infinity, which JSON lacks, as strings for JavaScript's Number()."""
    x = float(x)
    if math.isfinite(x):
        return float(f"{x:.9g}")
    return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


def floats(xs: Any) -> str:
    """Numbers for JSON: base64 of float32."""
    return base64.b64encode(np.asarray(xs, "<f4").tobytes()).decode()


class ArrayStore:
    """The arrays of a page, each stored once."""

    def __init__(self) -> None:
        self._samples: list[Any] = []           # an array; of a large one, for each of CELLS what is stored of it
        self.most: list[int] = []
        self._described: list[dict[str, Any]] = []
        self._positions: dict[Any, int] = {}

    def put(self, value: Any, most: int = CELLS[0]) -> int:
        """Store an array or a number, unless it is there already; its position in `encoded`. most: numbers of it."""
        a = np.asarray(value)
        key = a.shape, a.dtype.str, hashlib.sha1(np.ascontiguousarray(a).data).digest()
        if key not in self._positions:
            self._positions[key] = len(self.most)
            self.most.append(most)
            with np.errstate(all="ignore"):     # an array from empty() may hold any bits
                self._described.append(described(a))
                self._samples.append(np.array(a) if a.size <= most else
                                     {cells: sampled(a, min(most, cells)) for cells in CELLS})
        return self._positions[key]

    def encoded(self, cells: int) -> list[dict[str, Any]]:
        """All arrays for JSON: a description and at most `cells` numbers of each. "same": the position of an array of
        another shape that has the same numbers in the same order. cells: one of CELLS."""
        found: list[dict[str, Any]] = []
        known: dict[str, int] = {}
        for sample, most, description in zip(self._samples, self.most, self._described):
            with np.errstate(all="ignore"):
                numbers = sample[cells] if isinstance(sample, dict) else sampled(sample, min(most, cells))
            key = str(numbers)
            if "stride" not in numbers and key in known and sample.size > 8:
                numbers = {"same": known[key]}
            known.setdefault(key, len(found))
            found.append(description | numbers)
        return found


def described(a: Any) -> dict[str, Any]:
    """The shape of an array, and the largest magnitude, norm and mean of its numbers that are finite and no masks; the
    value of a 0-d array."""
    if a.ndim == 0:
        return {"shape": [], "value": as_json(a)}
    x = marked(a.astype(np.float64))
    is_usual = np.isfinite(x) & (x < MASK) & (x > -MASK)
    usual = x.reshape(-1) if is_usual.all() else x[is_usual]
    largest = max(abs(usual.max(initial=0.0)), abs(usual.min(initial=0.0)))
    return {"shape": a.shape, "max": as_json(largest), "norm": as_json(np.linalg.norm(usual)),
            "mean": as_json(usual.mean() if usual.size else 0.0)}


def sampled(a: Any, cells: int) -> dict[str, Any]:
    """At most `cells` numbers of an array.

    "floats": base64 of float32. "ints" of integers and booleans. "stride" [n, r, c] of a sampled
    array: its numbers are a[::n, ::r, ::c], where all axes but the last two are merged into the first.
    """
    if a.ndim == 0:
        return {}
    panels = a.reshape(math.prod(a.shape[:-2]), *((1,) + a.shape)[-2:])                     # (N, R, C)
    stride = strides(panels.shape, cells)
    found: dict[str, Any] = {"stride": stride} if max(stride) > 1 else {}
    shown = panels[::stride[0], ::stride[1], ::stride[2]]
    if a.dtype.kind in "biu":
        return found | {"ints": shown.astype(int).reshape(-1).tolist()}
    shown = shown.astype(np.float64)
    masked = np.isfinite(shown) & (np.abs(marked(shown)) >= MASK)
    if masked.any():                            # stored as infinities that stand for this number
        found["mask"] = as_json(shown[masked][0])
    return found | {"floats": floats(np.where(masked, np.copysign(np.inf, shown), shown))}


def strides(shape: tuple[int, ...], cells: int) -> list[int]:
    """Strides over panels, rows and columns that keep at most `cells` numbers; the longest axis is thinned first."""
    stride = [max(-(-shape[0] // PANELS), 1), 1, 1]
    while True:
        kept = [-(-n // s) for n, s in zip(shape, stride)]
        if math.prod(kept) <= cells:
            return stride
        stride[kept.index(max(kept))] += 1
