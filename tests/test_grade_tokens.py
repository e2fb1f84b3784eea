"""The exercises of docs/tokens.md: right answers, and what is said of wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def from_starts(tokens, T, starts, shift=1):
    at = np.asarray(starts)[:, None] + np.arange(T)             # (rows, T)
    return tokens[at], tokens[at + shift]


def batch(tokens, T, rows, rng):
    return from_starts(tokens, T, rng.integers(0, len(tokens) - T, rows))


def loop(tokens, T, rows, rng):
    x, y = [], []
    for _ in range(rows):
        start = int(rng.random() * (len(tokens) - T))
        x.append(tokens[start:start + T])
        y.append(tokens[start + 1:start + 1 + T])
    return np.stack(x), np.stack(y)


def wrapping(tokens, T, rows, rng):
    at = rng.integers(0, len(tokens), rows)[:, None] + np.arange(T)
    return tokens[at % len(tokens)], tokens[(at + 1) % len(tokens)]


def one_too_far(tokens, T, rows, rng):
    at = rng.integers(0, len(tokens) - T + 1, rows)[:, None] + np.arange(T)
    return tokens[at], tokens[(at + 1) % len(tokens)]


def clipped(tokens, T, rows, rng):
    return from_starts(tokens, T, np.minimum(rng.integers(0, len(tokens), rows), len(tokens) - T - 1))


@pytest.mark.parametrize("answer", [
    batch,
    loop,
    lambda *given: list(batch(*given)),
    lambda *given: tuple(a.astype(np.int64) for a in batch(*given)),
    lambda tokens, T, rows, rng: from_starts(tokens, T, rng.choice(len(tokens) - T, rows)),
])
def test_batches_from_random_starts_are_right(answer):
    assert check("batch", answer)


@pytest.mark.parametrize("answer, words", [
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.integers(0, len(tokens) - T - 1, rows)),
     "the last window is never drawn: it starts at token 15 of 20"),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.integers(1, len(tokens) - T, rows)),
     "windows that start at some tokens are never drawn: [0] of 0 to 15"),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, T * rng.integers(0, (len(tokens) - 1) // T, rows)),
     "are never drawn: [1, 2, 3, 5, "),
    (wrapping, "passes the end of the text and goes on at its beginning"),
    (one_too_far, "x has the last token of the text, after which there is none to guess"),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.integers(0, len(tokens), rows)), "raised IndexError"),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.permutation(len(tokens) - T)[:rows]),
     "x has shape (1, 4), should be (3, 4)"),                   # windows may repeat
    (clipped, "the windows are not equally likely: of 2,400 rows "),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.integers(0, len(tokens) - T, rows), shift=0),
     "y is x: each question holds its own answer"),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.integers(0, len(tokens) - T - 1, rows), shift=2),
     "y is x two tokens on"),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.integers(1, len(tokens) - T, rows), shift=-1),
     "y is x one token back"),
    (lambda *given: (batch(*given)[0], batch(*given)[1]), "y does not have the token after each of x"),
    (lambda tokens, T, rows, rng: batch(tokens, T, rows, np.random.default_rng(0)),
     "every call returns the same batch: draw from the rng that is given"),
    (lambda tokens, T, rows, rng: batch(tokens, T, rows, np.random.default_rng()),
     "two rngs with the same seed give different batches"),
    (lambda tokens, T, rows, rng: from_starts(tokens, T, rng.integers(0, len(tokens) - T, 1).repeat(rows)),
     "all rows of a batch are the same window"),
    (lambda tokens, T, rows, rng: from_starts(np.arange(len(tokens)), T, rng.integers(0, len(tokens) - T, rows)),
     "it must have the tokens, not their positions"),
    (lambda tokens, T, rows, rng: (rng.choice(tokens, (rows, T)), rng.choice(tokens, (rows, T))),
     "is not 4 tokens that stand one after the other in the text"),
    (lambda *given: (batch(*given)[0], batch(*given)[1][:, -1]), "y has shape (8,), should be (8, 4)"),
    (lambda *given: tuple(a.astype(float) for a in batch(*given)), "x is an array of float64 and y of float64"),
    (lambda *given: batch(*given)[0], "it returns 8 values, should be 2 values: x, y"),
    (lambda *given: None, "the result is None: is a `return` missing?"),
    (lambda *given: ("x", "y"), "x is a str, should be an array of shape (8, 4)"),
    (lambda *given: (np.full((8, 4), np.nan),) * 2, "x: 32 of 32 entries are NaN or infinite"),
    (lambda tokens, T, rows, rng: tokens.sort(), "it writes into an array that it is given: make a new one"),
])
def test_a_wrong_batch_is_told_what_is_wrong_with_its_windows(answer, words):
    verdict = check("batch", answer)
    assert verdict.verdict == "wrong"
    assert words in verdict.why


@pytest.mark.parametrize("answer", [
    lambda losses, text: losses.sum() / np.log(2) / len(text.encode("utf-8")),
    lambda losses, text: float(losses.mean() * len(losses) / (np.log(2) * len(text.encode()))),
    lambda losses, text: -np.log2(np.exp(-losses)).sum() / len(bytes(text, "utf-8")),
])
def test_the_bits_of_all_tokens_over_the_bytes_of_the_text_are_right(answer):
    assert check("bits_per_byte", answer)


@pytest.mark.parametrize("answer, words", [
    (lambda losses, text: losses.mean(), "this is the loss per token, which depends on the tokenizer"),
    (lambda losses, text: losses.mean() / np.log(2), "these are bits per token: divide the sum by the number of bytes"),
    (lambda losses, text: losses.sum() / len(text.encode()), "these are nats per byte: a bit is ln 2 nats"),
    (lambda losses, text: losses.sum() * np.log(2) / len(text.encode()), "it is multiplied by ln 2"),
    (lambda losses, text: losses.sum() / np.log(2) / len(text), "these are bits per character"),
    (lambda losses, text: losses.sum() / len(text), "these are nats per character"),
    (lambda losses, text: losses.sum() / np.log(2), "these are the bits of the whole text"),
    (lambda losses, text: losses.mean() / np.log(2) / len(text.encode()), "sum the losses, do not average them"),
    (lambda losses, text: np.exp(losses.mean()), "this is the perplexity"),
    (lambda losses, text: len(text.encode()) * np.log(2) / losses.sum(), "this is bytes divided by bits"),
    (lambda losses, text: losses.sum() / np.log(2) / len(text.encode("utf-16")), "bits in 14 bytes are "),
    (lambda losses, text: losses.sum() / np.log(2) / len(text.encode("ascii")), "raised UnicodeEncodeError"),
    (lambda losses, text: losses / np.log(2), "is an array of shape (7,), should be a number"),
    (lambda losses, text: 0.0, "it returns 0.0000"),
    (lambda losses, text: float("nan"), "tokens is nan"),
    (lambda losses, text: None, "is None: is a `return` missing?"),
    (lambda losses, text: "1.5", "is a str, should be a number"),
])
def test_wrong_bits_per_byte_are_told_what_they_are_instead(answer, words):
    verdict = check("bits_per_byte", answer)
    assert verdict.verdict == "wrong"
    assert words in verdict.why
