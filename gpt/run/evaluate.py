"""The validation loss of a model, and samples of its text."""
import math

import numpy as np

import minigrad as mg
from minigrad import functional as F
from minigrad.parallel import World

from gpt.model import GPT
from gpt.text.batches import IGNORED, trimmed
from gpt.text.dataset import Data
from gpt.text.pairs import Pairs, end_tokens
from gpt.text.tokenizer import Tokenizer


def evaluate(model: GPT, windows: tuple[np.ndarray, np.ndarray], batch_size: int, world: World | None = None
             ) -> tuple[float, float | None]:
    """Mean loss over the counted targets of windows x, y (W, T) in nats per token, without dropout, and its standard
    error, None for one window. The processes of a world share the batches."""
    x, y = windows
    batches = range(0, len(x), batch_size)
    model.eval()
    sums = []                                   # on the device until the end, so that no batch waits for it
    with mg.no_grad():
        for start in batches[world.rank::world.size] if world else batches:
            idx, targets = trimmed(x[start:start + batch_size], y[start:start + batch_size])        # (B, T)
            logits, _ = model(idx)                                                                  # (B, T, V)
            sums.append(F.cross_entropy(logits, targets, reduction="none").sum(axis=1))             # (B,)
        losses = F.concatenate(sums).numpy() if sums else np.empty(0, np.float32)                   # (W,)
    if world:
        parts = [losses[start:start + batch_size] for start in range(0, len(losses), batch_size)]
        losses = np.concatenate(world.interleave(parts))
    model.train()
    return mean_loss(losses, (y != IGNORED).sum(axis=1))


def mean_loss(losses: np.ndarray, counts: np.ndarray) -> tuple[float, float | None]:
    """The mean loss of the counted targets of n windows, and its standard error, None for one window. losses, counts
    (n,): of each window, the sum of its losses and the number of its targets.

    The standard error is that of a ratio of two sums, which takes the windows as drawn independently (Cochran 1977,
    "Sampling techniques", equation 2.46): where all counts are equal, it is that of the mean of the windows' means.
    """
    losses, total, n = losses.astype(np.float64), float(counts.sum()), len(losses)
    mean = float(losses.sum()) / total
    if n < 2:
        return mean, None
    return mean, math.sqrt(n / (n - 1) * np.square(losses - mean * counts).sum()) / total


def samples(model: GPT, data: Data, rows: int, length: int, seed: int) -> list[str]:
    """`rows` texts that the model generates, of `length` tokens, at temperature 0.8; they depend on the arguments
    alone. A text starts after the token <|endoftext|>, or else from a newline, or else from the first validation token.
    Of pairs: held-out prompts and their continuations, which stop where the completion ends."""
    tokenizer = data.tokenizer
    if isinstance(data.val, Pairs):
        return [continued(model, tokenizer, prompt, length, seed + i)
                for i, prompt in enumerate(data.val.prompts(rows))]
    end = tokenizer.end_of_text
    try:
        start = np.asarray(tokenizer.encode("\n") if end is None else [end])
    except ValueError:
        start = np.asarray(data.val.tokens[:1])
    idx = model.generate(np.tile(start, (rows, 1)), length, temperature=0.8, seed=seed)             # (rows, 1 + length)
    return [tokenizer.decode(row if end is None else row[1:]) for row in idx]


def continued(model: GPT, tokenizer: Tokenizer, prompt: np.ndarray, length: int, seed: int) -> str:
    """A prompt (T,), and what the model adds, up to `length` tokens or to the first end of a completion."""
    end, new = end_tokens(tokenizer), []
    for token in model.stream(prompt[None], length, temperature=0.8, seed=seed):
        if token[0] in end:
            break
        new.append(token[0])
    return tokenizer.decode([*prompt, *new])
