"""A text as tokens on disk, and as next-token pairs: x (rows, T) and the same text one token on, y (rows, T)."""
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt import tokenizer as tokenizers
from gpt.corpus import describe, load_text
from gpt.tokenizer import Tokenizer
from minigrad.random import bits, key


@dataclass
class Data:
    """A text as tokens: nine tenths to train on, the last tenth to validate on."""
    name: str                           # as it was asked for: fables, python, shakespeare, or the path of a file
    description: str                    # one line
    tokenizer: Tokenizer
    train: np.ndarray                   # (N,), memory-mapped, as is
    val: np.ndarray
    val_bytes_per_token: float          # what a token of val stands for, in bytes of UTF-8


def prepare(folder: Path, dataset: str, tokenizer: str = "char", vocab_size: int = 1024, seed: int = 1337,
            block_size: int = 1) -> Data:
    """Write a dataset into the folder of a run, which then needs no other file: tokenizer.json, tokens/train.bin and
    tokens/val.bin (bare little-endian integers of 2 bytes, or of 4 where the vocabulary is larger), tokens/meta.json.

    ValueError for a text that cannot be had or is too short for one window of block_size; then nothing is written.
    """
    text = load_text(dataset, seed)
    cut = len(text) * 9 // 10
    # A character that only the last tenth has needs a token too; nothing else is learned from there.
    made = tokenizers.make(tokenizer, text if tokenizer == "char" else text[:cut], vocab_size)
    parts = {"train": made.encode(text[:cut]), "val": made.encode(text[cut:])}
    held_out = len(parts["val"])
    if held_out < block_size + 1:
        fits = f"--block_size={held_out - 1} or " if held_out > 1 else ""
        raise ValueError(f"the text is too short: its last tenth, to validate on, has {held_out} tokens and a "
                         f"block_size of {block_size} needs {block_size + 1}; use {fits}a text of "
                         f"{10 * (block_size + 1)} tokens or more")

    dtype = "<u2" if len(made) <= 2 ** 16 else "<u4"
    meta = {"name": dataset, "dtype": dtype, "length": {part: len(tokens) for part, tokens in parts.items()},
            "val_bytes_per_token": len(text[cut:].encode()) / held_out,
            "description": f"{describe(dataset)}: {len(parts['train']):,} {made.unit} to train on, {held_out:,} "
                           f"held out; {len(made):,} different"}
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(made.to_json()), "utf-8")
    for part, tokens in parts.items():
        tokens.astype(dtype).tofile(folder / "tokens" / f"{part}.bin")
    (folder / "tokens" / "meta.json").write_text(json.dumps(meta, indent=2), "utf-8")       # last: now it is whole
    return open_data(folder)


def open_data(folder: Path) -> Data:
    """What `prepare` wrote. ValueError if a file is missing or damaged."""
    tokens, tokenizer = folder / "tokens", tokenizers.load(folder / "tokenizer.json")
    try:
        meta = json.loads((tokens / "meta.json").read_text("utf-8"))
        parts = {}
        for part in ("train", "val"):
            parts[part] = np.memmap(tokens / f"{part}.bin", dtype=meta["dtype"], mode="r")
            if len(parts[part]) != meta["length"][part]:
                raise ValueError(f"{part}.bin has {len(parts[part])} tokens, not {meta['length'][part]}")
        return Data(meta["name"], meta["description"], tokenizer, parts["train"], parts["val"],
                    meta["val_bytes_per_token"])
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no tokens: {error.filename} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the tokens in {tokens} are damaged: {error}") from None


def batch(tokens: np.ndarray, block_size: int, rows: int, seed: int, step: int,
          sampling: str = "permutation") -> tuple[np.ndarray, np.ndarray]:
    """x and y (rows, block_size), int64, y one token on. A function of its arguments alone: no step needs those before.

    "permutation": the tokens are cut into windows, end to end, and an epoch visits each of them once, in an order of
    its own; the next epoch cuts elsewhere. Row i of a step is visit number step * rows + i. "random": each row begins
    anywhere, as in nanoGPT. ValueError for another word, or for tokens too few for one window.
    """
    places = _places(tokens, block_size)
    if sampling == "permutation":
        n = max((places - 1) // block_size, 1)          # one window fewer than fit leaves room to move the cut
        visits = range(step * rows, (step + 1) * rows)
        starts = np.array([_epoch(n, places, block_size, seed, visit // n)[visit % n] for visit in visits])
    elif sampling == "random":
        fractions = bits(key(seed, step).fold("batch"), (rows,)) / 2 ** 32          # (rows,), in [0, 1)
        starts = (fractions * places).astype(np.int64)
    else:
        raise ValueError(f"--sampling must be permutation or random, got {sampling!r}")
    return pairs(_take(tokens, starts, block_size))


def windows(tokens: np.ndarray, block_size: int, n: int | None = None) -> np.ndarray:
    """n windows (n, block_size + 1), int64, spread evenly from the first token to the last. They share no token to
    predict: there are fewer where n do not fit, and as many as fit for None. ValueError if not even one does."""
    places = _places(tokens, block_size)
    fit = (len(tokens) - 1) // block_size
    n = fit if n is None else min(n, fit)
    return _take(tokens, np.arange(n) * (places - 1) // max(n - 1, 1), block_size)


def pairs(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, T + 1)  ->  x, y (n, T)."""
    return windows[:, :-1], windows[:, 1:]


def _places(tokens: np.ndarray, block_size: int) -> int:
    """How many places a window of block_size + 1 tokens can begin at."""
    if len(tokens) < block_size + 1:
        raise ValueError(f"{len(tokens)} tokens are too few: a block_size of {block_size} needs {block_size + 1}")
    return len(tokens) - block_size


@functools.lru_cache(maxsize=2)
def _epoch(n: int, places: int, block_size: int, seed: int, epoch: int) -> np.ndarray:
    """Where the n windows of an epoch begin, in the order of their visits (n,)."""
    draws = bits(key(seed, epoch).fold("epoch"), (n + 1,))
    return int(draws[n]) % min(block_size, places) + block_size * np.argsort(draws[:n], kind="stable")


def _take(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> np.ndarray:
    """block_size + 1 tokens from each start  ->  (len(starts), block_size + 1)."""
    return tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
