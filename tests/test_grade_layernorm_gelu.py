"""The exercises of docs/layernorm_gelu.md: right answers, and what is said of wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def mean(a):
    return a.mean(axis=-1, keepdims=True)


def rows(a):
    return a.reshape(-1, a.shape[-1]).sum(axis=0)


def layer_norm(dy, xhat, rstd, w):
    g = dy * w
    return rstd * (g - mean(g) - xhat * mean(g * xhat)), rows(dy * xhat), rows(dy)


def rms_norm(dy, xhat, r, w):
    g = dy * w
    return r * (g - xhat * mean(g * xhat)), rows(dy * xhat)


def swiglu(dy, x, gate, s):
    return dy * gate * s, dy * x * s * (1.0 + gate * (1.0 - s))


ANSWERS = {"layer_norm.backward": layer_norm, "rms_norm.backward": rms_norm, "swiglu.backward": swiglu}


@pytest.mark.parametrize("exercise", ANSWERS)
def test_a_right_answer_is_right(exercise):
    assert check(exercise, ANSWERS[exercise])


def test_rms_norm_is_right_with_the_projection_computed_from_sums():
    def mine(dy, xhat, r, w):
        g, C = dy * w, len(w)
        return r * g - r * xhat * (g * xhat).sum(axis=-1, keepdims=True) / C, rows(xhat * dy)
    assert check("rms_norm.backward", mine)


def why(exercise, answer):
    verdict = check(exercise, answer)
    assert verdict.verdict == "wrong"
    return " ".join(repr(verdict).split())


ALONG = "a projection term is missing or wrong: off by (one number per row) x xhat"
BOTH = ("two terms are missing or wrong, a mean and a projection: off by (one number per row) + (one number per row) "
        "x xhat")


def with_dx(right, dx):
    """The right answer with another dx, a function of dy, xhat, the reciprocal width of the row, and w."""
    if right is layer_norm:
        return lambda dy, xhat, rstd, w: (dx(dy, xhat, rstd, w), *layer_norm(dy, xhat, rstd, w)[1:])
    return lambda dy, xhat, r, w: (dx(dy, xhat, r, w), *rms_norm(dy, xhat, r, w)[1:])


@pytest.mark.parametrize("answer, words", [
    (with_dx(layer_norm, lambda dy, h, r, w: r * dy * w), BOTH),
    (with_dx(layer_norm, lambda dy, h, r, w: r * (dy * w - mean(dy * w))), ALONG),
    (with_dx(layer_norm, lambda dy, h, r, w: rms_norm(dy, h, r, w)[0]),
     "a term constant along axis 1 is missing or wrong: a mean or a sum"),
    (with_dx(layer_norm, lambda dy, h, r, w: r * (dy * w - mean(dy * w) - h * mean(dy * h))), ALONG),
    (with_dx(layer_norm, lambda dy, h, r, w: layer_norm(dy, h, r, 1.0)[0]), "missing factor w"),
    (with_dx(layer_norm, lambda dy, h, r, w: layer_norm(dy, h, 1.0, w)[0]), "missing factor rstd"),
    (with_dx(layer_norm, lambda dy, h, r, w: layer_norm(dy, h, r * r, w)[0]), "an extra factor rstd"),
    (lambda dy, xhat, rstd, w: (layer_norm(dy, xhat, rstd, w)[0], rows(dy), rows(dy)),
     "this is db: a factor is missing"),
    (lambda dy, xhat, rstd, w: (layer_norm(dy, xhat, rstd, w)[0], (dy * xhat).sum(0), dy.sum(0)),
     "dw has shape (3, 5), should be (5,) why not summed over axis 0"),
    (lambda dy, xhat, rstd, w: (layer_norm(dy, xhat, rstd, w)[0], rows(dy * xhat) / len(dy), rows(dy)),
     "2 times too small: an extra 1/2"),
])
def test_what_is_said_of_a_wrong_layer_norm(answer, words):
    assert words in why("layer_norm.backward", answer)


@pytest.mark.parametrize("answer, words", [
    (with_dx(rms_norm, lambda dy, h, r, w: r * dy * w), ALONG),
    (with_dx(rms_norm, lambda dy, h, r, w: r * (dy * w - h * (dy * w * h).sum(axis=-1, keepdims=True))), ALONG),
    (with_dx(rms_norm, lambda dy, h, r, w: layer_norm(dy, h, r, w)[0]),
     "a term constant along axis 2 is missing or wrong: a mean or a sum"),
    (with_dx(rms_norm, lambda dy, h, r, w: r * (dy * w - mean(dy * w))), BOTH),
    (with_dx(rms_norm, lambda dy, h, r, w: rms_norm(dy, h, r, 1.0)[0]), "missing factor w"),
    (lambda dy, xhat, r, w: (rms_norm(dy, xhat, r, w)[0], dy * xhat), "not summed over axis 0 and 1"),
    (lambda dy, xhat, r, w: rms_norm(dy, xhat, r, w)[::-1], "this is dw"),
    (lambda dy, xhat, r, w: rms_norm(dy, xhat, r, w)[0], "it returns 1 gradient, should be 2: return dx, dw"),
    (lambda dy, x, w, r: (dy, w), "it takes x, but rms_norm saves xhat, r, w"),
])
def test_what_is_said_of_a_wrong_rms_norm(answer, words):
    assert words in why("rms_norm.backward", answer)


def with_dgate(dgate):
    return lambda dy, x, gate, s: (dy * gate * s, dgate(dy, x, gate, s))


PART = ", elementwise: only part of the derivative, or that of another function"


@pytest.mark.parametrize("answer, words", [
    (with_dgate(lambda dy, x, gate, s: dy * x * s), "this is dy * x * (1 * s)" + PART),
    (with_dgate(lambda dy, x, gate, s: dy * x * s * (1.0 - s)), "this is dy * x * (1 * s - 1 * s^2)" + PART),
    (with_dgate(lambda dy, x, gate, s: dy * x * gate * s * (1.0 - s)),
     "this is dy * x * gate * (1 * s - 1 * s^2)" + PART),
    (with_dgate(lambda dy, x, gate, s: dy * s * (1.0 + gate * (1.0 - s))), "missing factor x"),
    (with_dgate(lambda dy, x, gate, s: dy * x * s * (1.0 + gate * s)),
     "a term is missing or wrong, elementwise: off by dy * x * gate * (-1 * s + 2 * s^2)"),
    (with_dgate(lambda dy, x, gate, s: dy * x * s * (1.0 - gate * (1.0 - s))),
     "a term is missing or wrong, elementwise: off by dy * x * gate * (-2 * s + 2 * s^2)"),
    (lambda dy, x, gate, s: (dy * gate, swiglu(dy, x, gate, s)[1]), "missing factor s"),
    (lambda dy, x, gate, s: swiglu(dy, x, gate, s)[::-1],
     "this is dgate: a factor is missing, or the order is another than dx, dgate"),
    (lambda dy, x, gate, s: dy * gate * s, "it returns 1 gradient, should be 2: return dx, dgate"),
])
def test_what_is_said_of_a_wrong_swiglu(answer, words):
    assert words in why("swiglu.backward", answer)


@pytest.mark.parametrize("exercise", ANSWERS)
@pytest.mark.parametrize("change, words", [
    (lambda dx: None, "dx is None"),
    (lambda dx: "dx", "dx is a str, should be an array of shape"),
    (lambda dx: dx.tolist(), "dx is a list, should be an array of shape"),
    (lambda dx: dx * np.nan, "entries are NaN or infinite"),
    (lambda dx: dx[..., :1], "dx has shape"),
    (lambda dx: dx.round().astype(int), "integers lose the fractions"),
])
def test_an_answer_of_another_type_or_shape_is_wrong_with_a_sentence(exercise, change, words):
    def mine(dy, **saved):
        dx, *others = ANSWERS[exercise](dy, **saved)
        return change(dx), *others
    assert words in why(exercise, mine)


@pytest.mark.parametrize("exercise", ANSWERS)
def test_a_forgotten_return_is_wrong_with_a_sentence(exercise):
    assert "the result is None: is a `return` missing?" in why(exercise, lambda dy, **saved: None)
