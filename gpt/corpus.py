"""Texts to train on, and what counting alone can predict of them."""
import os
import sysconfig
from pathlib import Path
from typing import Iterator

import numpy as np

PYTHON_CHARACTERS = 4_000_000
# Not prose for a model: tests, other people's packages, and `encodings`, which is tables of numbers.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings"}


def load_text(dataset: str) -> str:
    """"python": the beginning of the running interpreter's standard library; else the name of a UTF-8 text file."""
    return python_source() if dataset == "python" else read_text(Path(dataset))


def python_source() -> str:
    """The first 4 million characters of the standard library's source, files in the order of their paths. It differs
    from one version of Python to the next."""
    root = Path(sysconfig.get_path("stdlib"))
    texts, size = [], 0
    for path in sorted(_python_files(root)):
        texts.append(read_text(path))
        size += len(texts[-1])
        if size >= PYTHON_CHARACTERS:
            break
    if not size:
        raise ValueError(f"there is no Python source of the standard library in {root}: give a text, --dataset=FILE")
    return "".join(texts)[:PYTHON_CHARACTERS]


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark, as text; each line's end becomes one newline. ValueError gives
    the offset of the first byte that is not UTF-8."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}; "
                         "save it as UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def ngram_losses(tokens: np.ndarray, windows: np.ndarray, vocab_size: int, max_order: int) -> list[float]:
    """How well counts of n-grams in `tokens` (N,) predict `windows` (W, T + 1), for n = 1 .. max_order: the mean loss
    in nats of the last T tokens of each window, each given at most the n - 1 before it in its window.

    Smoothed as in Witten & Bell (1991): after a context that was seen c times, with d different tokens behind it, the
    prediction from one token less has weight d / (c + d).
    """
    p = np.full(windows.shape, 1.0 / vocab_size)                                    # (W, T + 1)
    losses = []
    for n in range(1, max_order + 1):
        seen, counts = np.unique(_ngrams(tokens, n, vocab_size), return_counts=True)
        contexts, first, distinct = np.unique(seen // vocab_size, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        grams = _ngrams(windows, n, vocab_size)                                     # (W, T + 2 - n)
        context, shorter = grams // vocab_size, p[:, n - 1:]
        c, d = _look_up(context, contexts, totals), _look_up(context, contexts, distinct)
        p[:, n - 1:] = np.where(c > 0, (_look_up(grams, seen, counts) + d * shorter) / np.maximum(c + d, 1), shorter)
        losses.append(float(-np.log(p[:, 1:]).mean()))
    return losses


def _ngrams(tokens: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Each n neighbours along the last axis as one number: the context's times vocab_size, plus the last token."""
    if vocab_size ** n > 2 ** 62:
        raise ValueError(f"{n}-grams of {vocab_size} tokens do not fit 64 bits: use a lower order")
    size = tokens.shape[-1] - n + 1
    codes = np.zeros(tokens.shape[:-1] + (size,), dtype=np.int64)
    for i in range(n):
        codes = codes * vocab_size + tokens[..., i:i + size]
    return codes


def _look_up(codes: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each code, 0 for one that is not among the known, which are sorted."""
    at = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return np.where(known[at] == codes, values[at], 0)
