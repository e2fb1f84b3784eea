"""Windows of tokens as next-token pairs: x (rows, T), and y (rows, T), the same tokens shifted by one."""
import functools
from dataclasses import dataclass

import numpy as np

from minigrad.random import bits, key

IGNORED = -100                          # a target that does not count, as in F.cross_entropy


@dataclass
class Text:
    """A text as tokens, read in windows of consecutive tokens: rows in which each token is a target."""
    tokens: np.ndarray                  # (N,)

    def batch(self, block_size: int, rows: int, seed: int, step: int, sampling: str = "permutation",
              part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """x, y (rows of part, block_size): see `batch`."""
        return batch(self.tokens, block_size, rows, seed, step, sampling, part)

    def windows(self, block_size: int, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """x, y (n, block_size), to validate on: see `windows`."""
        return pairs(windows(self.tokens, block_size, n))

    def row_length(self, block_size: int) -> float:
        """The mean number of tokens of a row of x."""
        return block_size


def batch(tokens: np.ndarray, block_size: int, rows: int, seed: int, step: int,
          sampling: str = "permutation", part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """The training batch of a step: x and y (rows, block_size), int64, or a part of its rows. It depends on the
    arguments alone, so that a resumed run needs no batches of earlier steps.

    "permutation": the tokens are cut into consecutive windows, and an epoch visits each window once, in a random
    order; the next epoch shifts the cuts. Row i of a step is visit number step * rows + i. "random": each row starts
    at a random token, as in nanoGPT. ValueError for another sampling, or for too few tokens for one window.
    """
    n_starts = _n_starts(tokens, block_size)
    if sampling == "permutation":
        n = max((n_starts - 1) // block_size, 1)        # one window fewer than fit leaves room to shift the cuts
        visits = range(step * rows, (step + 1) * rows)[part]
        starts = np.array([_epoch(n, n_starts, block_size, seed, visit // n)[visit % n] for visit in visits])
    elif sampling == "random":
        fractions = bits(key(seed, step).fold("batch"), (rows,)) / 2 ** 32          # (rows,), in [0, 1)
        starts = (fractions[part] * n_starts).astype(np.int64)
    else:
        raise ValueError(f"--sampling must be permutation or random, got {sampling!r}")
    return pairs(_take(tokens, starts, block_size))


def windows(tokens: np.ndarray, block_size: int, n: int | None = None) -> np.ndarray:
    """n windows (n, block_size + 1), int64, spread evenly from the first token to the last. No token is a target
    twice: there are fewer windows where n do not fit, and as many as fit for None. ValueError if none fits."""
    n_starts = _n_starts(tokens, block_size)
    fit = (len(tokens) - 1) // block_size
    n = fit if n is None else min(n, fit)
    return _take(tokens, np.arange(n) * (n_starts - 1) // max(n - 1, 1), block_size)


def pairs(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, T + 1)  ->  x, y (n, T)."""
    return windows[:, :-1], windows[:, 1:]


def trimmed(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, y (rows, T) without the last columns in which no target counts: they are padding."""
    columns = np.flatnonzero((y != IGNORED).any(axis=0))
    width = columns[-1] + 1 if len(columns) else 1
    return x[:, :width], y[:, :width]


def _n_starts(tokens: np.ndarray, block_size: int) -> int:
    """The number of positions at which a window of block_size + 1 tokens can start."""
    if len(tokens) < block_size + 1:
        raise ValueError(f"{len(tokens)} tokens are too few: a block_size of {block_size} needs {block_size + 1}")
    return len(tokens) - block_size


@functools.lru_cache(maxsize=2)
def _epoch(n: int, n_starts: int, block_size: int, seed: int, epoch: int) -> np.ndarray:
    """The first positions of an epoch's n windows, in the order of their visits (n,)."""
    draws = bits(key(seed, epoch).fold("epoch"), (n + 1,))
    return int(draws[n]) % min(block_size, n_starts) + block_size * np.argsort(draws[:n], kind="stable")


def _take(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> np.ndarray:
    """block_size + 1 tokens from each start  ->  (len(starts), block_size + 1)."""
    return tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
