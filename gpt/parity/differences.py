"""How far the sides differ in one batch: outputs of all layers, gradients, weights after a step of AdamW."""
import math
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import numpy as np

from gpt.parity.sides import make_side

DTYPES = ("float32", "float64")
SIDES = ("kernels", "plain")                    # that are compared with the reference
# What is compared: the measure that is bounded, its bounds, and a title. AdamW divides each gradient by its size. Where
# a gradient is nothing but rounding, as that of the bias of the keys, the step is up to lr in either direction, by
# chance: so the weights after a step are bounded for equal gradients, and only shown for each side's own.
BOUNDS: dict[str, tuple[str, dict[str, float], str]] = {
    "outputs": ("rel", {"float32": 1e-4, "float64": 1e-9}, "output"),
    "gradients": ("norm", {"float32": 1e-4, "float64": 1e-9}, "gradient"),
    "AdamW": ("rel", {"float32": 1e-5, "float64": 1e-9}, "weight after AdamW with equal gradients"),
    "whole step": ("rel", dict.fromkeys(DTYPES, math.inf), "weight after AdamW with own gradients"),
}


class Difference(NamedTuple):
    """Of two arrays a and b. max: max|a - b|; rel: that / max|b|; norm: |a - b| / |b| with L2 norms."""
    dtype: str
    side: str
    what: str                                   # a key of BOUNDS
    name: str                                   # of the layer or the parameter
    max: float
    rel: float
    norm: float

    @property
    def bounded(self) -> float:
        """The measure that is bounded."""
        return float(getattr(self, BOUNDS[self.what][0]))

    @property
    def bound(self) -> float:
        return BOUNDS[self.what][1][self.dtype]

    @property
    def ok(self) -> bool:
        return self.bounded <= self.bound       # False for NaN


def measure(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """max, rel and norm of a Difference of a and b: infinite where b is 0 and a is not."""
    gap = np.subtract(a, b, dtype=np.float64).ravel()
    size = np.abs(b, dtype=np.float64).ravel()

    def ratio(x: Any, y: Any) -> float:
        return float(x / y) if y else 0.0 if x == 0 else float("inf")

    np.abs(gap, out=gap)
    return float(gap.max()), ratio(gap.max(), size.max()), ratio(np.linalg.norm(gap), np.linalg.norm(size))


def compare(folder: Path, reference: str, dtype: str, x: np.ndarray, y: np.ndarray, progress: Any) -> list[Difference]:
    """The differences of each side of minigrad from the reference, in one dtype, for the batch x, y (B, T). Only the
    weights and gradients of two sides are in memory at a time."""
    found: list[Difference] = []

    def add(side: str, what: str, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
        if a.keys() != b.keys():
            raise ValueError(f"{side} and {reference} name different {what}: {sorted(a.keys() ^ b.keys())[:4]}")
        found.extend(Difference(dtype, side, what, name, *measure(a[name], b[name])) for name in b)

    def outputs(side: Any) -> dict[str, np.ndarray]:
        return {**side.outputs(x), "loss": np.array(side.learn(x, y))}

    other = make_side(folder, dtype, reference)
    other_outputs, other_gradients = outputs(other), other.gradients()
    other.update()
    other_weights = other.weights()
    del other                                   # and the moments
    progress.update()
    for name in SIDES:
        side = make_side(folder, dtype, name)
        add(name, "outputs", outputs(side), other_outputs)
        add(name, "gradients", side.gradients(), other_gradients)
        side.update()
        add(name, "whole step", side.weights(), other_weights)
        del side
        side = make_side(folder, dtype, name)
        side.set_gradients(other_gradients)
        side.update()
        add(name, "AdamW", side.weights(), other_weights)
        del side
        progress.update()
    return found
