"""The exercises of docs/linear.md: right answers, and what is said of wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def turned(a):
    return a.swapaxes(-1, -2)


def matmul(dy, a, b):
    row, column = a.ndim == 1, b.ndim == 1
    a, b = (a[None, :] if row else a), (b[:, None] if column else b)
    dy = dy[..., None] if column else dy
    dy = dy[..., None, :] if row else dy
    da, db = dy @ turned(b), turned(a) @ dy
    return da[..., 0, :] if row else da, db[..., 0] if column else db


def embedding(dy, idx, shape):
    dw = np.zeros(shape)
    np.add.at(dw, idx, dy)
    return dw


def window_sum(dy, x, weight):
    T, dx, dweight = x.shape[-1], np.zeros_like(x), np.zeros_like(weight)
    for j in range(len(weight)):
        dx[..., :T - j] += weight[j] * dy[..., j:]
        dweight[j] = (dy[..., j:] * x[..., :T - j]).sum()
    return dx, dweight


ANSWERS = {"matmul.backward": matmul, "embedding.backward": embedding, "window_sum.backward": window_sum}


@pytest.mark.parametrize("exercise", ANSWERS)
def test_a_right_answer_is_right(exercise):
    assert check(exercise, ANSWERS[exercise])


def test_an_embedding_may_be_a_product_with_one_hot_rows():
    assert check("embedding.backward", lambda dy, idx, shape:
                 np.eye(shape[0])[idx].reshape(-1, shape[0]).T @ dy.reshape(-1, shape[1]))


def why(exercise, answer):
    verdict = check(exercise, answer)
    assert verdict.verdict == "wrong"
    return " ".join(repr(verdict).split())


@pytest.mark.parametrize("answer, words", [
    (lambda dy, a, b: (dy @ b.T, a.T @ dy), "matmul((3,), (3,)) (right on 1 input before it)"),
    (lambda dy, a, b: (dy @ b, a @ dy), "raised ValueError: matmul"),
    (lambda dy, a, b: (b @ dy.T, dy.T @ a), "transposed: this is the right gradient with its axes in the order (1, 0)"),
    (lambda dy, a, b: matmul(dy, a, b)[::-1], "this is db: a factor is missing, or the order is another"),
    (lambda dy, a, b: matmul(np.ones_like(dy), a, b), "da differs at"),
    (lambda dy, a, b: matmul(dy, a, -b), "the sign is flipped"),
    (lambda dy, a, b: matmul(dy, a, b)[0], "it returns 1 gradient, should be 2: return da, db"),
    (lambda dy, x, w: (dy @ w.T, x.T @ dy), "it takes x, but matmul saves a, b"),
])
def test_what_is_said_of_a_wrong_matmul(answer, words):
    assert words in why("matmul.backward", answer)


def assigned(dy, idx, shape):
    dw = np.zeros(shape)
    dw[idx] = dy
    return dw


def added_at_once(dy, idx, shape):
    dw = np.zeros(shape)
    dw[idx] += dy
    return dw


def averaged(dy, idx, shape):
    uses = np.bincount(np.ravel(idx), minlength=shape[0]).clip(min=1)
    return embedding(dy, idx, shape) / uses[:, None]


REPEATED = "only rows [1] are wrong, those that idx names more than once: add the gradients of all uses"


@pytest.mark.parametrize("answer, words", [
    (added_at_once, REPEATED),
    (assigned, REPEATED),
    (averaged, REPEATED),
    (lambda dy, idx, shape: dy, "dw has shape (2, 3, 3), should be (7, 3)"),
    (lambda dy, idx, shape: -embedding(dy, idx, shape), "the sign is flipped"),
    (lambda dy, idx, shape: np.zeros(shape), "all zeros"),
    (lambda dy, idx, w: embedding(dy, idx, w.shape), "it takes w, but embedding saves idx, shape"),
])
def test_what_is_said_of_a_wrong_embedding(answer, words):
    assert words in why("embedding.backward", answer)


def looking_back(dy, x, weight):
    dx = np.zeros_like(x)
    for j in range(len(weight)):
        dx[..., j:] += weight[j] * dy[..., :x.shape[-1] - j]
    return dx, window_sum(dy, x, weight)[1]


def for_each_row(dy, x, weight):
    T = x.shape[-1]
    dweight = np.stack([(dy[..., j:] * x[..., :T - j]).sum(axis=-1) for j in range(len(weight))], axis=-1)
    return window_sum(dy, x, weight)[0], dweight


def wrapped(dy, x, weight):
    return sum(w * np.roll(dy, -j, axis=-1) for j, w in enumerate(weight)), window_sum(dy, x, weight)[1]


def unshifted(dy, x, weight):
    return window_sum(dy, x, weight)[0], np.full_like(weight, (dy * x).sum())


@pytest.mark.parametrize("answer, words", [
    (looking_back, "this is the forward, of dy: ask in which outputs an entry of x is used, and how"),
    (for_each_row, "dweight has shape (2, 3, 4), should be (4,) why not summed over axis 0 and 1"),
    (wrapped, "dx differs at 2 of 7 entries"),
    (wrapped, "only entries [5, 6] are wrong"),
    (unshifted, "only entries [1, 2] are wrong"),
    (lambda dy, x, weight: window_sum(-dy, x, weight), "the sign is flipped"),
    (lambda dy, x, weight: window_sum(dy, x, weight)[0], "it returns 1 gradient, should be 2: return dx, dweight"),
    (lambda dy, x, weight: window_sum(dy, x, weight)[::-1], "dx has shape (3,), should be (7,)"),
])
def test_what_is_said_of_a_wrong_window_sum(answer, words):
    assert words in why("window_sum.backward", answer)


@pytest.mark.parametrize("exercise", ANSWERS)
@pytest.mark.parametrize("value, words", [
    (None, "the result is None: is a `return` missing?"),
    ("dx", "a str"),
    (7, "an int"),
    ([np.ones(3)] * 9, "it returns 9 gradients, should be|a list"),
    ((np.ones(3),) * 9, "it returns 9 gradients, should be"),
])
def test_an_answer_of_another_type_is_wrong_with_a_sentence(exercise, value, words):
    said = why(exercise, lambda dy, **saved: value)
    assert any(word in said for word in words.split("|"))


@pytest.mark.parametrize("exercise", ANSWERS)
def test_gradients_that_are_not_finite_are_wrong_with_a_sentence(exercise):
    def mine(dy, **saved):
        dxs = ANSWERS[exercise](dy, **saved)
        return tuple(dx * np.nan for dx in dxs) if type(dxs) is tuple else dxs * np.nan
    assert "entries are NaN or infinite" in why(exercise, mine)
