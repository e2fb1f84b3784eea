"""The losses of predictors that are no models, the dashed lines of the loss curve: uniform, n-gram counts, and for the
fables the exact optimum."""
import math
from typing import Any

import numpy as np

from gpt.text import fables
from gpt.text.batches import IGNORED
from gpt.text.dataset import Data
from gpt.text.tokenizer import CharTokenizer

COUNTED_TOKENS = 10_000_000             # more tokens hardly improve the counts, and cost memory
MAX_ORDER = 5
CODE_BITS = 62                          # an n-gram is coded as one int64


def reference_lines(data: Data, windows: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Losses of reference predictors on validation windows x, y (n, T), in nats per counted target: label -> loss.

    "ln V": the uniform distribution. "1-gram", "2-gram", ...: of the fables with one token per character, the exact
    expected loss of the best predictor that is given n - 1 characters; of other texts, predictions from counts in the
    training tokens. Of the fables alone, whose grammar is known: "best possible", the loss of the optimal predictor
    on these windows, and "entropy rate", its expected loss with unlimited context.
    """
    V = len(data.tokenizer)
    lines = {"ln V": math.log(V)}
    if data.name != "fables":
        return lines | _counted(data.train.tokens, *windows, V)
    source = fables.source()
    both = np.column_stack([windows[0], windows[1][:, -1]])                         # (n, T + 1)
    text = data.tokenizer.decode(both.ravel())
    if len(text) == both.size:               # one token per character
        lines |= {f"{n}-gram": float(loss) for n, loss in enumerate(source.ngram_losses(), start=1)}
        characters = CharTokenizer(source.vocabulary).encode(text).reshape(both.shape)           # (n, T + 1)
        lines["best possible"] = float(source.bayes_losses(characters).mean())
    else:
        lines |= _counted(data.train.tokens, *windows, V)
    lines["entropy rate"] = source.entropy_rate() * data.val_bytes_per_token        # a character of fables is one byte
    return lines


def _counted(tokens: np.ndarray, x: np.ndarray, y: np.ndarray, vocab_size: int) -> dict[str, float]:
    counted = y != IGNORED                                                          # (n, T)
    windows = np.column_stack([x, np.where(counted, y, 0)[:, -1]])                  # (n, T + 1)
    orders = min(MAX_ORDER, int(CODE_BITS / math.log2(max(vocab_size, 2))), windows.shape[1], len(tokens))
    losses = ngram_losses(tokens[:COUNTED_TOKENS], windows, vocab_size, orders, counted)
    return {f"{n}-gram": loss for n, loss in enumerate(losses, start=1)}


def ngram_losses(tokens: np.ndarray, windows: np.ndarray, vocab_size: int, max_order: int,
                 counted: Any = slice(None)) -> list[float]:
    """How well n-gram counts in `tokens` (N,) predict `windows` (W, T + 1), for n = 1 .. max_order: the mean loss in
    nats over the last T tokens of each window, each predicted from at most n - 1 tokens before it in its window.
    counted: booleans (W, T), which of them count; all, if left out.

    Smoothing of Witten & Bell (1991): after a context that occurred c times, followed by d different tokens, the
    prediction of the next lower order has weight d / (c + d). ValueError if the codes of n-grams exceed 64 bits.
    """
    p = np.full(windows.shape, 1.0 / vocab_size)                                    # (W, T + 1)
    losses = []
    for n in range(1, max_order + 1):
        seen, counts = np.unique(_ngrams(tokens, n, vocab_size), return_counts=True)
        contexts, first, distinct = np.unique(seen // vocab_size, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        grams = _ngrams(windows, n, vocab_size)                                     # (W, T + 2 - n)
        context, lower = grams // vocab_size, p[:, n - 1:]
        c, d = _look_up(context, contexts, totals), _look_up(context, contexts, distinct)
        p[:, n - 1:] = np.where(c > 0, (_look_up(grams, seen, counts) + d * lower) / np.maximum(c + d, 1), lower)
        losses.append(float(-np.log(p[:, 1:])[counted].mean()))
    return losses


def _ngrams(tokens: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """All n-grams along the last axis, each coded as one number: the code of its context times vocab_size, plus its
    last token."""
    if vocab_size ** n > 2 ** CODE_BITS:
        raise ValueError(f"{n}-grams of {vocab_size} tokens do not fit 64 bits: use a lower order")
    size = tokens.shape[-1] - n + 1
    codes = np.zeros(tokens.shape[:-1] + (size,), dtype=np.int64)
    for i in range(n):
        codes = codes * vocab_size + tokens[..., i:i + size]
    return codes


def _look_up(codes: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each code; 0 for a code that is not in `known`, which is sorted."""
    at = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return np.where(known[at] == codes, values[at], 0)
