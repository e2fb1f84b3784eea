"""The validation loss of a model, and samples of its text."""
import math

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.parallel import World

from gpt.model import GPT
from gpt.text.batches import pairs
from gpt.text.dataset import Data


def evaluate(model: GPT, windows: np.ndarray, batch_size: int, world: World | None = None
             ) -> tuple[float, float | None]:
    """Mean loss over windows (W, T + 1) in nats per token, without dropout, and its standard error, computed from the
    windows' means; None for one window. The processes of a world share the batches."""
    batches = range(0, len(windows), batch_size)
    model.eval()
    means = []                                  # on the device until the end, so that no batch waits for it
    with mg.no_grad():
        for start in batches[world.rank::world.size] if world else batches:
            x, y = pairs(windows[start:start + batch_size])                                         # (B, T)
            logits, _ = model(x)                                                                    # (B, T, V)
            means.append(F.cross_entropy(logits, y, reduction="none").mean(axis=1))                 # (B,)
        losses = F.concatenate(means).numpy() if means else np.empty(0, np.float32)                 # (W,)
    if world:
        parts = [losses[start:start + batch_size] for start in range(0, len(losses), batch_size)]
        losses = np.concatenate(world.interleave(parts))
    losses = losses.astype(np.float64)
    model.train()
    return float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else None


def samples(model: GPT, data: Data, rows: int, length: int, seed: int) -> list[str]:
    """`rows` texts that the model generates from a newline, `length` tokens each, at temperature 0.8; they depend on
    the arguments alone. Where the text has no newline, from its first validation token."""
    try:
        start = np.asarray(data.tokenizer.encode("\n"))
    except ValueError:
        start = np.asarray(data.val[:1])
    idx = model.generate(np.tile(start, (rows, 1)), length, temperature=0.8, seed=seed)             # (rows, 1 + length)
    return [data.tokenizer.decode(row) for row in idx]
