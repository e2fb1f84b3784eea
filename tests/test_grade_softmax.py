"""The exercises of docs/softmax_cross_entropy.md: right answers, and what is said of wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def softmax(dy, p, axis):
    return p * (dy - (dy * p).sum(axis=axis, keepdims=True))


def log_softmax(dy, y, axis):
    return dy - np.exp(y) * dy.sum(axis=axis, keepdims=True)


def onehot(p, t):
    return np.eye(p.shape[1])[t]


def z_loss(dy, p, lse, t, weight):
    return dy * (p - onehot(p, t) + 2.0 * weight * lse[:, None] * p) / len(t)


ANSWERS = {"softmax.backward": softmax, "log_softmax.backward": log_softmax, "cross_entropy_z_loss.backward": z_loss}


@pytest.mark.parametrize("exercise", ANSWERS)
def test_a_right_answer_is_right(exercise):
    assert check(exercise, ANSWERS[exercise])


def test_the_z_loss_is_right_in_another_order_of_its_terms_and_without_what_it_does_not_need():
    def mine(dy, p, lse, weight, t):
        share = np.full(len(t), dy / len(t))
        dlogits = p * (share * (1.0 + 2.0 * weight * lse))[:, None]
        dlogits[np.arange(len(t)), t] -= share
        return dlogits
    assert check("cross_entropy_z_loss.backward", mine)


def why(exercise, answer):
    verdict = check(exercise, answer)
    assert verdict.verdict == "wrong"
    return " ".join(repr(verdict).split())


COUPLED = "a projection term is missing or wrong: off by (one number per row) x "


@pytest.mark.parametrize("answer, words", [
    (lambda dy, p, axis: p * dy, COUPLED + "p"),
    (lambda dy, p, axis: p * (dy - dy.sum(axis=axis, keepdims=True)), COUPLED + "p"),
    (lambda dy, p, axis: p * (1.0 - p) * dy,
     "this is dy * (1 * p - 1 * p^2), elementwise: only part of the derivative"),
    (lambda dy, p, axis: softmax(dy, p, -1), "a sum is over the wrong one of axes 1 and 2"),
    (lambda dy, p, axis: p * dy - (dy * p).sum(axis=axis, keepdims=True), "two terms are missing or wrong"),
    (lambda dy, p, axis: 0.0 * dy, "all zeros"),
    (lambda dy, x, axis: dy, "it takes x, but softmax saves p, axis"),
])
def test_what_is_said_of_a_wrong_softmax(answer, words):
    assert words in why("softmax.backward", answer)


@pytest.mark.parametrize("answer, words", [
    (lambda dy, y, axis: dy, COUPLED + "exp(y)"),
    (lambda dy, y, axis: dy - np.exp(y) * (dy * np.exp(y)).sum(axis=axis, keepdims=True), COUPLED + "exp(y)"),
    (lambda dy, y, axis: dy - dy.sum(axis=axis, keepdims=True), "two terms are missing or wrong"),
    (lambda dy, y, axis: log_softmax(dy, y, -1), "a sum is over the wrong one of axes 1 and 2"),
    (lambda dy, y, axis: dy - y * dy.sum(axis=axis, keepdims=True), "the right gradient sums to 0 along axis 1"),
])
def test_what_is_said_of_a_wrong_log_softmax(answer, words):
    assert words in why("log_softmax.backward", answer)


@pytest.mark.parametrize("answer, words", [
    (lambda dy, p, lse, t, weight: dy * (p - onehot(p, t)) / len(t), COUPLED + "p"),
    (lambda dy, p, lse, t, weight: dy * (p - onehot(p, t) + weight * lse[:, None] * p) / len(t), COUPLED + "p"),
    (lambda dy, p, lse, t, weight: dy * (p - onehot(p, t) + 2.0 * weight * lse[:, None]) / len(t),
     "two terms are missing or wrong, a mean and a projection: off by (one number per row) + (one number per row) x p"),
    (lambda dy, p, lse, t, weight: z_loss(dy, p, lse, t, weight) * len(t), "3 times too large: missing 1/3"),
    (lambda dy, p, lse, t, weight: z_loss(dy, p, lse, t, weight) * len(t) / p.shape[1], "1/5 instead of 1/3"),
    (lambda dy, p, lse, t, weight: z_loss(np.ones(()), p, lse, t, weight), "missing factor dy"),
    (lambda dy, p, lse, t, weight: dy * (p + 2.0 * weight * lse[:, None] * p) / len(t), "wrong only at [i, t[i]]"),
    (lambda dy, p, lse, t, weight: -z_loss(dy, p, lse, t, weight), "the sign is flipped"),
    (lambda dy, p, z: p, "it takes z, but cross_entropy_z_loss saves p, lse, t, weight"),
])
def test_what_is_said_of_a_wrong_cross_entropy_with_z_loss(answer, words):
    assert words in why("cross_entropy_z_loss.backward", answer)


@pytest.mark.parametrize("exercise", ANSWERS)
@pytest.mark.parametrize("value, words", [
    (None, "the result is None: is a `return` missing?"),
    ("dx", "a str"),
    (3, "an int"),
    (np.full((3, 5), np.nan), "15 of 15 entries are NaN or infinite"),
    (np.ones((3, 1)), "has shape (3, 1), should be (3, 5)"),
    (np.ones((3, 5), int), "integers lose the fractions"),
    ((np.ones((3, 5)), np.ones(5)), "it returns 2 gradients, should be 1"),
])
def test_an_answer_of_another_type_or_shape_is_wrong_with_a_sentence(exercise, value, words):
    assert words in why(exercise, lambda dy, **saved: value)
