"""batch: windows from random starts. bits_per_byte: a loss that does not depend on the tokenizer."""
import math
from typing import Any, Callable

import numpy as np

from minigrad.grade.answer import array, call, number, results
from minigrad.grade.verdict import Wrong, must
from minigrad.words import plural

BATCHES, ROWS = 300, 8


def grade_batch(mine: Callable[..., Any]) -> None:
    """mine(tokens, block_size, rows, rng): x and y (rows, block_size), windows from random starts."""
    N, T = 20, 4
    tokens = np.random.default_rng(0).permutation(np.arange(100, 100 + N))      # (N,), all different
    rng = np.random.default_rng(1)
    drawn = np.array([starts(mine, tokens, T, ROWS, rng) for _ in range(BATCHES)])      # (BATCHES, ROWS)
    must((drawn != drawn[0]).any(), "every call returns the same batch: draw from the rng that is given")
    must((drawn != drawn[:, :1]).any(), "all rows of a batch are the same window: draw a start for each row")
    first, second = (starts(mine, tokens, T, ROWS, np.random.default_rng(2)) for _ in range(2))
    must((first == second).all(), "two rngs with the same seed give different batches: draw from the rng that is given")

    counts = np.bincount(drawn.ravel(), minlength=N - T)                        # (N - T,)
    never = np.flatnonzero(counts == 0).tolist()
    must(never != [N - T - 1], f"the last window is never drawn: it starts at token {N - T - 1} of {N}, and its last "
         "target is the last token; N tokens have N - block_size windows")
    must(not never, f"windows that start at some tokens are never drawn: {never} of 0 to {N - T - 1}")
    least, most = int(counts.argmin()), int(counts.argmax())
    must(2 * counts[least] > drawn.size / counts.size > counts[most] / 2, f"the windows are not equally likely: of "
         f"{drawn.size:,} rows {counts[most]} start at token {most}, and {counts[least]} at token {least}")

    starts(mine, tokens[:T + 1], T, 3, rng)                                     # a text with one window
    starts(mine, tokens.astype(np.uint16), 3, 50, rng)                          # more rows than windows


def starts(mine: Callable[..., Any], tokens: np.ndarray, T: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Where the windows of a batch start (rows,). Wrong unless each lies in the text and y is x, one token on."""
    N = len(tokens)
    x, y = (array(a, (rows, T), name) for a, name in zip(results(call(mine, tokens, T, rows, rng), "x", "y"), "xy"))
    must(x.dtype.kind in "iu" and y.dtype.kind in "iu", f"x is an array of {x.dtype} and y of {y.dtype}, should be "
         "integers as the tokens are")
    position = {token: i for i, token in enumerate(tokens.tolist())}
    at = np.array([[position.get(token, N) for token in row] for row in x.tolist()])    # (rows, T)
    must(at.max() < N, "x has numbers that are no tokens of the text: it must have the tokens, not their positions")
    follow = at[:, :1] + np.arange(T)                                           # (rows, T)
    for r in np.flatnonzero((at != follow).any(axis=1)):
        must((at[r] != follow[r] % N).any(), f"x[{r}] passes the end of the text and goes on at its beginning: the "
             "last window starts at token N - block_size - 1")
        raise Wrong(f"  x[{r}] is not {plural(T, 'token')} that stand one after the other in the text")
    must((x != y).any(), "y is x: each question holds its own answer; y must have the token after each of x")
    must(at.max() < N - 1, "x has the last token of the text, after which there is none to guess: the last window "
         "starts at token N - block_size - 1")
    must((y[:, :-1] != tokens[at[:, :-1] + 2]).any(), "y is x two tokens on: it must be one token on")
    must((y[:, 1:] != x[:, :-1]).any(), "y is x one token back: it must be one token on")
    must((y == tokens[at + 1]).all(), "y does not have the token after each of x")
    return at[:, 0]


def grade_bits_per_byte(mine: Callable[..., Any]) -> None:
    """mine(losses, text): losses (n,) in nats, one for each token of text."""
    rng = np.random.default_rng(0)
    for text, n in (("αδα: 70 €", 7), ("αδα: 70 €", 14), ("ada hides a fig", 15), ("ada hides a fig", 4), ("🦊\n", 1)):
        losses = rng.uniform(0.5, 3.0, n)                                       # (n,)
        nats, size = float(losses.sum()), len(text.encode("utf-8"))
        bits = nats / math.log(2)
        mistakes = {
            nats / n: "this is the loss per token, which depends on the tokenizer",
            bits / n: "these are bits per token: divide the sum by the number of bytes",
            nats / size: "these are nats per byte: a bit is ln 2 nats",
            nats * math.log(2) / size: "it is multiplied by ln 2: a bit is ln 2 nats, so divide",
            bits / len(text): "these are bits per character, and a character has 1 to 4 bytes",
            nats / len(text): "these are nats per character: divide by ln 2 and by the number of bytes",
            bits: "these are the bits of the whole text: divide by the number of its bytes",
            bits / n / size: "it is divided by the tokens too: sum the losses, do not average them",
            math.exp(nats / n): "this is the perplexity",
            size / bits: "this is bytes divided by bits",
        }
        case = f"{text!r} as {plural(n, 'token')}"
        got, want = number(call(mine, losses, text), f"the result for {case}"), bits / size
        known = [f": {sentence}" for value, sentence in mistakes.items() if math.isclose(got, value, rel_tol=1e-6)]
        must(math.isclose(got, want, rel_tol=1e-6), f"{case}: it returns {got:.4f}, and {bits:.4f} bits in "
             f"{plural(size, 'byte')} are {want:.4f}" + "".join(known[:1]))


EXERCISES = {"batch": grade_batch, "bits_per_byte": grade_bits_per_byte}
