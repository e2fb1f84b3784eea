"""Texts to train on, and what can be predicted of them without a model."""
import hashlib
import http.client
import math
import os
import platform
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import numpy as np
from tqdm import tqdm

from gpt import fables
from gpt.tokenizer import CharTokenizer

if TYPE_CHECKING:
    from gpt.data import Data

FABLES_CHARACTERS = 2_000_000
PYTHON_CHARACTERS = 4_000_000
# Not prose for a model: tests, other people's packages, and `encodings`, which is tables of numbers.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings"}
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
COUNTED_TOKENS = 10_000_000             # more hardly help the counts, and cost memory
MAX_ORDER = 5


# ---- texts ----

def load_text(dataset: str, seed: int = 1337) -> str:
    """"fables": the built-in language, a function of the seed; "python": the beginning of the running interpreter's
    standard library; "shakespeare": plays, fetched once; else the name of a UTF-8 text file. ValueError says what is
    wrong with it."""
    if dataset == "fables":
        return fables.text(FABLES_CHARACTERS, seed)
    if dataset == "python":
        return python_source()
    if dataset == "shakespeare":
        return shakespeare()
    if not Path(dataset).exists():
        raise ValueError(f"{dataset}: No such file; --dataset takes fables, python, shakespeare or a UTF-8 text file")
    text = read_text(Path(dataset))
    if not text:
        raise ValueError(f"the text is too short: {dataset} is empty")
    return text


def describe(dataset: str) -> str:
    """What to call it in a header."""
    if dataset == "python":
        return f"python, the library of {platform.python_version()} (another version, another text)"
    return dataset


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


def shakespeare() -> str:
    """A million characters of Shakespeare's plays (Karpathy 2015), from the cache: $MINIGRAD_CACHE or
    ~/.cache/minigrad. Fetched into it the first time; ValueError says where to put the file where that fails."""
    cache = Path(os.environ.get("MINIGRAD_CACHE") or "~/.cache/minigrad").expanduser()
    path = cache / "tinyshakespeare.txt"
    if not path.exists():
        try:
            fetched = _fetch(SHAKESPEARE_URL)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()                   # it is also the answer, and holds its socket
            raise ValueError(f"cannot fetch Shakespeare ({error}): get {SHAKESPEARE_URL} where there is a network, and "
                             f"put it here as {path.absolute()}") from None
        _check(fetched, f"what came from {SHAKESPEARE_URL}", f"get it from elsewhere, put it as {path.absolute()}")
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(fetched)
        os.replace(partial, path)               # never half a file under this name
    _check(path.read_bytes(), str(path.absolute()), f"delete it, to fetch {SHAKESPEARE_URL} again")
    return read_text(path)


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        size = int(response.headers.get("Content-Length", 0)) or None
        with tqdm(total=size, desc=url.rpartition("/")[2], unit="B", unit_scale=True, disable=None) as bar:
            chunks = []
            while chunk := response.read(1 << 16):
                chunks.append(chunk)
                bar.update(len(chunk))
    return b"".join(chunks)


def _check(data: bytes, what: str, fix: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise ValueError(f"{what} is not the Shakespeare that is known here: its SHA-256 is {found}, not "
                         f"{SHAKESPEARE_SHA256}; {fix}")


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark, as text; each line's end becomes one newline. ValueError for
    one that is not text: it gives the offset of the first bad byte."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}; "
                         "save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path} is not text: byte 0x00 at offset {data.index(0)}, as in binary files; give a text "
                         "saved as UTF-8")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


# ---- reference lines ----

def reference_lines(data: "Data", windows: np.ndarray) -> dict[str, float]:
    """What predictors that learn nothing lose on validation windows (n, T + 1), in nats per token: label -> loss.

    "ln V" knows the vocabulary alone. "1-gram" .. of the fables, one token a character, are exact: the best that any
    predictor with n - 1 characters of context can do on average. Of other texts they are counted in the training
    tokens. "best possible" is the least that any predictor loses on these very windows on average, "entropy rate" what
    it would lose with a context without end: both only of the fables, whose grammar is known.
    """
    V = len(data.tokenizer)
    lines = {"ln V": math.log(V)}
    if data.name != "fables":
        return lines | _counted(data.train, windows, V)
    source = fables.source()
    text = data.tokenizer.decode(windows.ravel())
    if len(text) == windows.size:               # a token is a character
        lines |= {f"{n}-gram": float(loss) for n, loss in enumerate(source.ngram_losses(), start=1)}
        characters = CharTokenizer(source.vocabulary).encode(text).reshape(windows.shape)           # (n, T + 1)
        lines["best possible"] = float(source.bayes_losses(characters).mean())
    else:
        lines |= _counted(data.train, windows, V)
    lines["entropy rate"] = source.entropy_rate() * data.val_bytes_per_token                # a byte is a character
    return lines


def _counted(tokens: np.ndarray, windows: np.ndarray, vocab_size: int) -> dict[str, float]:
    orders = min(MAX_ORDER, int(_CODE_BITS / math.log2(max(vocab_size, 2))))
    losses = ngram_losses(tokens[:COUNTED_TOKENS], windows, vocab_size, orders)
    return {f"{n}-gram": loss for n, loss in enumerate(losses, start=1)}


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


_CODE_BITS = 62


def _ngrams(tokens: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Each n neighbours along the last axis as one number: the context's times vocab_size, plus the last token."""
    if vocab_size ** n > 2 ** _CODE_BITS:
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
