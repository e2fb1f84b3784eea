"""The exercises of docs/attention.md: right answers, and what is said of wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def turned(a):
    return a.swapaxes(-1, -2)


def scores(dy, v, P):
    """The gradient of the scores, without the factor 1 / sqrt(d)."""
    dP = dy @ turned(v)
    return P * (dP - (dP * P).sum(axis=-1, keepdims=True))


def without_dropout(dy, q, k, v, P, scale):
    dS = scores(dy, v, P) * scale
    return dS @ k, turned(dS) @ q, turned(P) @ dy


def attention(dy, q, k, v, P, keep, dropout, scale):
    kept = 1.0 if keep is None else keep / (1.0 - dropout)
    dP = (dy @ turned(v)) * kept
    dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True)) * scale
    return dS @ k, turned(dS) @ q, turned(P * kept) @ dy


def sloped(dy, q, k, v, slope, P, distance, scale):
    dS = scores(dy, v, P)
    dslope = -(dS * distance).sum(axis=(-1, -2)).reshape(-1, len(slope)).sum(axis=0)
    return dS @ k * scale, turned(dS) @ q * scale, turned(P) @ dy, dslope


ANSWERS = {"attention.backward": attention, "sloped_attention.backward": sloped}


@pytest.mark.parametrize("exercise", ANSWERS)
def test_a_right_answer_is_right(exercise):
    assert check(exercise, ANSWERS[exercise])


def test_the_sum_in_the_softmax_may_be_taken_from_dy_and_the_output():
    def mine(dy, q, k, v, slope, P, distance, scale):
        dS = P * (dy @ turned(v) - (dy * (P @ v)).sum(axis=-1, keepdims=True))
        dslope = -np.einsum("...hts,ts->...h", dS, distance)
        return (dS @ k * scale, turned(dS) @ q * scale, turned(P) @ dy,
                dslope.sum(axis=tuple(range(dslope.ndim - 1))))
    assert check("sloped_attention.backward", mine)


def why(exercise, answer):
    verdict = check(exercise, answer)
    assert verdict.verdict == "wrong"
    return " ".join(repr(verdict).split())


def wrong_attention(change):
    """An answer that is right but for what `change` makes of its gradients."""
    def mine(dy, q, k, v, P, keep, dropout, scale):
        return change(*attention(dy, q, k, v, P, keep, dropout, scale), dy, q, k, v, P, scale)
    return mine


@pytest.mark.parametrize("change, words", [
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (P * (dy @ turned(v)) * scale @ k, dk, dv),
     "a projection term is missing or wrong: off by (one number per row) x P @ k"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (dq, dk, P @ dy), "this is P @ dy instead of P^T @ dy"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (dq / scale, dk / scale, dv),
     "1.732 times too large: missing factor scale"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (dq * scale, dk * scale, dv),
     "1.732 times too small: an extra factor scale"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (dq, scores(dy, v, P) * scale @ q, dv),
     "dk differs at 30 of 30 entries"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (-dq, dk, dv), "the sign is flipped"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (dq, dk), "it returns 2 gradients, should be 3: return dq, dk, dv"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (dq, dk, P.T @ dy), "raised ValueError: matmul"),
    (lambda dq, dk, dv, dy, q, k, v, P, scale: (dq, dk, dv.sum(axis=0)), "dv has shape (5, 4), should be (2, 5, 4)"),
])
def test_what_is_said_of_a_wrong_attention(change, words):
    assert words in why("attention.backward", wrong_attention(change))


def test_an_attention_without_dropout_is_right_on_the_inputs_without_dropout():
    said = why("attention.backward", without_dropout)
    assert "causal=True, dropout=0.3" in said and "(right on 4 inputs before it)" in said


def wrong_slope(change):
    """An answer whose dslope is what `change` makes of the gradient of the scores."""
    def mine(dy, q, k, v, slope, P, distance, scale):
        return *sloped(dy, q, k, v, slope, P, distance, scale)[:3], change(scores(dy, v, P), slope, distance, scale)
    return mine


def over_pairs(a):
    return a.sum(axis=(-1, -2))


@pytest.mark.parametrize("change, words", [
    (lambda dS, slope, distance, scale: over_pairs(dS * distance), "the sign is flipped"),
    (lambda dS, slope, distance, scale: -over_pairs(dS * distance), "dslope has shape (2, 3), should be (3,)"),
    (lambda dS, slope, distance, scale: -over_pairs(dS * distance), "not summed over axis 0, along which"),
    (lambda dS, slope, distance, scale: -over_pairs(dS * distance) * scale, "too small: an extra factor scale"),
    (lambda dS, slope, distance, scale: -over_pairs(dS * distance) * slope, "an extra factor slope"),
    (lambda dS, slope, distance, scale: -(dS * distance).sum(), "dslope has shape (), should be (2,)"),
    (lambda dS, slope, distance, scale: 0.0 * slope, "all zeros"),
    (lambda dS, slope, distance, scale: None, "dslope is None"),
])
def test_what_is_said_of_a_wrong_slope(change, words):
    assert words in why("sloped_attention.backward", wrong_slope(change))


@pytest.mark.parametrize("exercise, n", [("attention.backward", 3), ("sloped_attention.backward", 4)])
@pytest.mark.parametrize("value, words", [
    (None, "the result is None: is a `return` missing?"),
    ("dq", "the result is a str"),
    (7, "the result is an int"),
    (np.ones(3), "it returns 1 gradient, should be"),
    ([np.ones(3)] * 9, "it returns 9 gradients, should be"),
])
def test_an_answer_of_another_type_is_wrong_with_a_sentence(exercise, n, value, words):
    assert words in why(exercise, lambda dy, **saved: value)
    assert "dq is a list, should be an array" in why(exercise, lambda dy, **saved: ([1.0],) * n)
    assert "entries are NaN" in why(exercise, lambda dy, q, k, v, P: (q * np.nan, k, v, np.ones(2))[:n])
