"""Pairs of a prompt and a completion, of which the completion alone is learned."""
import difflib
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np

from minigrad.random import bits, key

from gpt.files import json_object
from gpt.text.batches import IGNORED
from gpt.text.corpus import read_text
from gpt.text.tokenizer import Tokenizer

KEYS = ("prompt", "completion")
FORM = '{"prompt": "...", "completion": "..."}'


@dataclass
class Pairs:
    """Pairs as tokens. A row is a prompt, its completion and the end of the text; only the targets of the last two
    count, all others are -100."""
    tokens: np.ndarray                  # (N,), of all rows
    lengths: np.ndarray                 # (P, 2), of each row: tokens of the prompt; of the completion with its end

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, ended: bool = True) -> "Pairs":
        """The tokens of pairs. If `ended`, each completion ends with the token <|endoftext|>, or else a newline, if the
        tokenizer has one of them. An empty prompt becomes this token: ValueError if it has neither."""
        end = end_tokens(tokenizer)
        if not end and not all(prompt for prompt, _ in pairs):
            raise ValueError("a pair has an empty prompt, and the tokenizer has neither <|endoftext|> nor a newline to "
                             "begin with: give a prompt to each pair")
        after = end if ended else []
        parts = [np.asarray(part, dtype=np.int64) for prompt, completion in pairs for part in
                 (tokenizer.encode(prompt) if prompt else end, [*tokenizer.encode(completion), *after])]
        return cls(np.concatenate(parts), np.array([len(part) for part in parts]).reshape(-1, 2))

    def batch(self, block_size: int, rows: int, seed: int, step: int, sampling: str = "permutation",
              part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """The training batch of a step: x and y (rows of part, T), int64, padded on the right to the longest of all
        rows of the step. It depends on the arguments alone.

        "permutation": an epoch visits each pair once, in a random order; row i of a step is visit number
        step * rows + i. "random": each row is a random pair. Rows above block_size are cropped: see `rows`.
        """
        n = len(self.lengths)
        if sampling == "permutation":
            visits = range(step * rows, (step + 1) * rows)
            chosen = np.array([_epoch(n, seed, visit // n)[visit % n] for visit in visits])
        else:
            chosen = bits(key(seed, step).fold("batch"), (rows,)).astype(np.int64) * n >> 32
        x, y = self.rows(chosen, block_size)                                                    # (rows, T)
        return x[part], y[part]

    def windows(self, block_size: int, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """x, y (n, T) of the first n pairs, to validate on; of all for None."""
        return self.rows(slice(n), block_size)

    def rows(self, chosen: np.ndarray | slice, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        """x, y (n, T) of the chosen pairs, n of them. A row above block_size + 1 tokens loses the start of its prompt,
        and where the completion does not fit either, the end of it."""
        lengths, starts = self.lengths[chosen].astype(np.int64), self.starts()[chosen]          # (n, 2), (n,)
        prompt, size = lengths[:, 0], lengths.sum(axis=1)
        cropped = np.clip(size - block_size - 1, 0, np.maximum(prompt - 1, 0))
        prompt, size = prompt - cropped, np.minimum(size - cropped, block_size + 1)
        at = np.arange(size.max())                                                              # (T + 1,)
        inside = at < size[:, None]                                                             # (n, T + 1)
        positions = np.where(inside, (starts + cropped)[:, None] + at, 0)
        tokens = np.where(inside, self.tokens[positions], 0).astype(np.int64)
        targets = np.where(inside & (at >= prompt[:, None]), tokens, IGNORED)
        return tokens[:, :-1], targets[:, 1:]

    def row_length(self, block_size: int) -> float:
        """The mean number of tokens of a row of x, without padding."""
        return float(np.minimum(self.lengths.sum(axis=1) - 1, block_size).mean())

    def prompts(self, n: int) -> list[np.ndarray]:
        """The tokens (T,) of the first n prompts."""
        return [self.tokens[start:start + length] for start, length in zip(self.starts()[:n], self.lengths[:n, 0])]

    def starts(self) -> np.ndarray:
        """Where each row starts in tokens (P,)."""
        sizes = self.lengths.sum(axis=1, dtype=np.int64)
        return sizes.cumsum() - sizes


def end_tokens(tokenizer: Tokenizer) -> list[int]:
    """The token that ends a completion: <|endoftext|>, or else a newline; none if the tokenizer has neither."""
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    try:
        return list(tokenizer.encode("\n"))
    except ValueError:                          # it has no token for a newline
        return []


@functools.lru_cache(maxsize=2)
def _epoch(n: int, seed: int, epoch: int) -> np.ndarray:
    """The pairs in the order in which an epoch visits them (n,)."""
    return np.argsort(bits(key(seed, epoch).fold("epoch"), (n,)), kind="stable")


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(prompt, completion) of each line of a JSONL file; blank lines are left out. ValueError names the line that is no
    such pair."""
    found = []
    for number, row in json_lines(path, FORM):
        try:
            found.append(_pair(row))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return found


def json_lines(path: Path, form: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each line of a JSONL file; blank lines are left out. ValueError names a line that is no JSON
    of this form."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json_object(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error.msg}, column {error.colno}): expected {form}"
                                 ) from None
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            yield number, row


def _pair(row: dict[str, Any]) -> tuple[str, str]:
    for name in KEYS:
        if name not in row:
            near = difflib.get_close_matches(name, row.keys() - set(KEYS), n=1)
            raise ValueError(f"no {name!r}; " + (f"is {near[0]!r} misspelled?" if near else f"expected {FORM}"))
        if not isinstance(row[name], str):
            raise ValueError(f"{name!r} must be a string, got {row[name]!r:.40}")
        try:
            row[name].encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name!r} has half of a surrogate pair, which is no character") from None
    if not row["completion"]:
        raise ValueError("the completion is empty: there is nothing to learn")
    return row["prompt"], row["completion"]
