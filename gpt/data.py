"""Tokens as next-token pairs: x (B, T) and the same text one token on, y (B, T)."""
import numpy as np

from minigrad.random import Key, bits


def split(tokens: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first 90 % to train on, the last 10 % to validate on. ValueError if that is too short for one window."""
    held_out = len(tokens) // 10
    if held_out < block_size + 1:
        fits = f"--block_size={held_out - 1} or " if held_out > 1 else ""
        raise ValueError(f"the text is too short: its last tenth, to validate on, has {held_out} tokens and a "
                         f"block_size of {block_size} needs {block_size + 1}; use {fits}a text of "
                         f"{10 * (block_size + 1)} tokens or more")
    return tokens[:-held_out], tokens[-held_out:]


def random_batch(tokens: np.ndarray, block_size: int, rows: int, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """x and y (rows, block_size), each row from a random place: a function of the key."""
    places = len(tokens) - block_size
    fractions = bits(key.fold("batch"), (rows,)) / 2 ** 32              # (rows,), in [0, 1)
    return pairs(take_windows(tokens, (fractions * places).astype(np.int64), block_size))


def fixed_windows(tokens: np.ndarray, block_size: int, n: int) -> np.ndarray:
    """n windows (n, block_size + 1) spread evenly over the tokens, fewer where so many would overlap."""
    n = min(n, (len(tokens) - 1) // block_size)
    return take_windows(tokens, np.linspace(0, len(tokens) - 1 - block_size, n).astype(np.int64), block_size)


def take_windows(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> np.ndarray:
    """block_size + 1 tokens from each start  ->  (len(starts), block_size + 1)."""
    return tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)


def pairs(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, T + 1)  ->  x, y (n, T)."""
    return windows[:, :-1], windows[:, 1:]
