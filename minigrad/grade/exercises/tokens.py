"""batch: windows from random starts. bits_per_byte: a loss that does not depend on the tokenizer."""
import math
from typing import Any, Callable

import numpy as np

from minigrad.grade.answer import array, call, number, results
from minigrad.grade.verdict import Wrong, must
from minigrad.words import plural

DRAWS = 300                                 # batches, of 8 rows


def grade_batch(mine: Callable[..., Any]) -> None:
    """mine(tokens, block_size, rows, rng): x and y (rows, block_size), windows from random starts."""
    T, rows = 4, 8
    tokens = np.random.default_rng(0).permutation(np.arange(100, 120))          # (20,), all different
    N = len(tokens)
    rng = np.random.default_rng(1)
    drawn = [_starts(mine, tokens, T, rows, rng) for _ in range(DRAWS)]         # DRAWS times (rows,)

    must(any(len(set(starts)) > 1 for starts in drawn), "all rows of a batch are the same window: draw a start for "
         "each row")
    must(any((starts != drawn[0]).any() for starts in drawn), "each call returns the same batch: draw from the rng "
         "that is given, and do not make a new one")
    again = [_starts(mine, tokens, T, rows, np.random.default_rng(2)) for _ in range(2)]
    must((again[0] == again[1]).all(), "two generators with the same seed give different batches: draw from the rng "
         "that is given")

    counts = np.bincount(np.concatenate(drawn), minlength=N - T)                # (N - T,)
    never = np.flatnonzero(counts == 0).tolist()
    must(never != [N - T - 1], f"the last window is never drawn, which starts at token {N - T - 1} of {N} and whose last "
         "target is the last token: there are N - block_size starts")
    must(not never, f"of {N - T} windows {len(never)} are never drawn, such as the one that starts at token {never[:1]}: "
         "a window may start at any of the first N - block_size tokens")
    even, most, least = DRAWS * rows / (N - T), int(counts.argmax()), int(counts.argmin())
    must(counts[most] < 1.5 * even and counts[least] > 0.5 * even, f"the windows are not equally likely: of "
         f"{DRAWS * rows} the one at token {most} came {counts[most]} times, the one at token {least} {counts[least]} "
         "times")

    _starts(mine, tokens[:T + 1], T, 3, rng)                                    # a text with one window
    _starts(mine, tokens[:7].astype(np.uint16), 3, 50, rng)                     # more rows than windows


def _starts(mine: Callable[..., Any], tokens: np.ndarray, T: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Where the windows of a batch start (rows,). Wrong unless each lies in the text and y is x, one token on."""
    N = len(tokens)
    got = results(call(mine, tokens, T, rows, rng), "x", "y")
    x, y = (array(a, (rows, T), name) for a, name in zip(got, "xy"))
    at = {int(token): i for i, token in enumerate(tokens)}
    unknown = [v for v in x.ravel().tolist() if v not in at]
    must(not unknown, f"x contains {unknown[:1]}, which is no token of the text: are these positions?")
    where = np.array([[at[int(v)] for v in row] for row in x])                  # (rows, T), positions
    starts = where[:, 0]
    follows = starts[:, None] + np.arange(T)
    for r in range(rows):
        if (where[r] == follows[r]).all():
            continue
        wraps = (where[r] == follows[r] % N).all()
        must(not wraps, f"x[{r}] passes the end of the text and goes on at its beginning: no window may start after "
             f"token N - block_size - 1")
        raise Wrong(f"  x[{r}] is not {T} tokens that stand one after the other in the text")
    must(not np.array_equal(x, y), "y is x itself: each question holds its own answer; y must be one token on")
    for shift in (2, -1):
        inside = (follows + shift < N) & (follows + shift >= 0)
        same = y == tokens[np.clip(follows + shift, 0, N - 1)]
        must(not same[inside].all(), f"y is x shifted by {shift}, it must be shifted by 1: the token after each of x")
    right = y == tokens[np.minimum(follows + 1, N - 1)]
    for r in range(rows):
        past = starts[r] + T >= N
        must(not past, f"x[{r}] ends at the last token of the text, after which there is none to guess: y[{r}] has "
             f"{y[r, -1]} there; no window may start after token N - block_size - 1")
        must(right[r, :-1].all() or not right[r, -1], f"y[{r}] is right in its last token alone: every token of x is a question")
        must(right[r].all(), f"y[{r}] is not x[{r}] one token on, at position {int(np.argmin(right[r]))}")
    return starts


def grade_bits_per_byte(mine: Callable[..., Any]) -> None:
    """mine(losses, text): losses (n,) in nats, one per token of text."""
    rng = np.random.default_rng(0)
    for text, n in (("αδα 🦊 日本", 9), ("αδα 🦊 日本", 18), ("ada hides a fig", 15), ("ada hides a fig", 4), ("é", 1)):
        losses = rng.uniform(0.5, 3.0, n)                                       # (n,)
        total, size = float(losses.sum()), len(text.encode("utf-8"))
        case = f"{text!r} as {plural(n, 'token')}"
        got = number(call(mine, losses, text), f"the result for {case}")
        want = total / math.log(2) / size
        mistakes = {
            total / n: "this is the mean loss in nats per token, which depends on the tokenizer",
            total / n / math.log(2): "these are bits per token: divide the sum by the number of bytes",
            total / size: "these are nats per byte: a bit is ln 2 nats",
            total * math.log(2) / size: "it is multiplied by ln 2: a bit is ln 2 nats, so divide",
            total / math.log(2) / len(text): "these are bits per character: divide by the bytes of UTF-8, of which a "
                                             "character has 1 to 4",
            total / len(text): "these are nats per character: divide by ln 2, and by the number of bytes",
            total / math.log(2): "these are the bits of the whole text: divide by the number of its bytes",
            size / (total / math.log(2)): "it is upside down: bits divided by bytes",
            math.exp(total / n): "this is the perplexity",
            total / math.log(2) / n / size: "it is divided by the tokens and by the bytes: sum the losses, do not "
                                            "average them",
        }
        if not math.isclose(got, want, rel_tol=1e-6):
            known = [sentence for value, sentence in mistakes.items() if math.isclose(got, value, rel_tol=1e-6)]
            raise Wrong(f"  {case} has {want:.4f} bits per byte, it returns {got:.4f}" + "".join(f": {s}" for s in known[:1]))


EXERCISES = {"batch": grade_batch, "bits_per_byte": grade_bits_per_byte}
