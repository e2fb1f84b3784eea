"""The exercises of docs/from_gpt2.md: right answers, and what is said of wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def completion_targets(prompt, completion, ignored=-1, shift=1):
    tokens = np.concatenate([prompt, completion])
    x, y = tokens[:-1], np.roll(tokens, -shift)[:-1]
    y[:len(prompt) + ignored] = -100
    return x, y


def test_completion_targets_is_right_where_the_last_token_of_the_prompt_predicts_the_completion():
    assert check("completion_targets", completion_targets)


@pytest.mark.parametrize("answer, words", [
    (lambda p, c: completion_targets(p, c, ignored=0), "the target of the last token of the prompt, y[3]"),
    (lambda p, c: completion_targets(p, c, ignored=-2), "targets within the prompt count"),
    (lambda p, c: completion_targets(p, c, shift=0), "y is"),
    (lambda p, c: (completion_targets(p, c)[1], completion_targets(p, c)[1]), "the model reads the prompt"),
    (lambda p, c: (completion_targets(p, c)[0], np.full(len(p) + len(c) - 1, -100)), "no target counts"),
    (lambda p, c: (np.concatenate([p, c]),) * 2, "should be (6,)"),
    (lambda p, c: completion_targets(p, c)[0], "x"),
    (lambda p, c: None, "is a `return` missing?"),
])
def test_wrong_completion_targets_are_told_which_targets_count(answer, words):
    verdict = check("completion_targets", answer)
    assert verdict.verdict == "wrong" and words in verdict.explanation


def lora_gradients(x, A, B, dy, s):
    return x.T @ (s * dy @ B.T), s * (x @ A).T @ dy


def test_lora_gradients_are_right():
    assert check("lora_gradients", lora_gradients)


@pytest.mark.parametrize("answer, words", [
    (lambda x, A, B, dy, s: (x.T @ dy @ B.T, lora_gradients(x, A, B, dy, s)[1]), "dA is 2 times what it should be"),
    (lambda x, A, B, dy, s: (lora_gradients(x, A, B, dy, s)[0], s * s * (x @ A).T @ dy), "dB is 0.5 times"),
    (lambda x, A, B, dy, s: (lora_gradients(x, A, B, dy, s)[0], s * (x @ A).T @ (dy + 1)), "dB is wrong"),
    (lambda x, A, B, dy, s: (0 * A, lora_gradients(x, A, B, dy, s)[1]), "dA is 0 times"),
    (lambda x, A, B, dy, s: lora_gradients(x, A, B, dy, s)[::-1], "should be (4, 2)"),
    (lambda x, A, B, dy, s: lora_gradients(x, A, B, dy, s)[0], "dA"),
])
def test_wrong_lora_gradients_are_told_by_how_much(answer, words):
    verdict = check("lora_gradients", answer)
    assert verdict.verdict == "wrong" and words in verdict.explanation
