"""Training steps of several sides from the same weights on the same batches."""
from pathlib import Path
from typing import Any

import numpy as np

from gpt.parity.sides import make_side
from gpt.text.batches import batch

BOUND = 1e-2                                    # nats: the largest distance of two curves
Curves = dict[str, list[float]]


def train(folder: Path, names: list[str], tokens: np.ndarray, block_size: int, rows: int, steps: int, seed: int,
          progress: Any) -> Curves:
    """The losses of `steps` training steps in float32 of each side, in nats."""
    found: Curves = {}
    for name in names:
        side, found[name] = make_side(folder, "float32", name), []
        for step in range(steps):
            found[name].append(side.train(*batch(tokens, block_size, rows, seed, step)))
            progress.update()
        del side
    return found


def distance(curves: Curves, name: str, reference: str) -> tuple[float, int]:
    """The largest distance of a side's curve from the reference's, and its step."""
    gaps = np.abs(np.subtract(curves[name], curves[reference]))
    return float(gaps.max()), int(gaps.argmax())
