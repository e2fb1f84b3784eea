"""The graders of the exercises of docs/gradcheck.md: right answers, and what is said about wrong ones."""
import numpy as np
import pytest

from minigrad.gradcheck import Case, against_differences
from minigrad.grade import check
from minigrad.grade.wrong_backwards import WRONG


def said(exercise, mine):
    verdict = check(exercise, mine)
    assert verdict.verdict == "wrong"
    return verdict.explanation


# ---- numeric_gradient ----

def central(f, x, h=1e-5, sides=2, dtype="float64"):
    gradient, z = np.zeros(x.shape), x.astype(dtype)
    for i in np.ndindex(x.shape):
        z[i] = x[i] + h
        above = f(z)
        z[i] = x[i] - h * (sides - 1)
        gradient[i] = (above - f(z)) / (sides * h)
        z[i] = x[i]
    return gradient


def one_sided(f, x):
    return central(f, x, sides=1)


def undivided(f, x):
    return 2.0 * central(f, x)


def flipped(f, x):
    return -central(f, x)


def large_h(f, x):
    return central(f, x, h=1e-2)


def small_h(f, x):
    return central(f, x, h=1e-12)


def in_float32(f, x):
    return central(f, x, dtype="float32")


def not_put_back(f, x):
    gradient, z = np.zeros(x.shape), x.copy()
    for i in np.ndindex(x.shape):
        z[i] += 1e-5
        above = f(z)
        z[i] -= 2e-5
        gradient[i] = (above - f(z)) / 2e-5
    return gradient


def flat(f, x):
    return central(f, x).reshape(-1)


def in_place(f, x):
    x += 1e-5


@pytest.mark.parametrize("h", [1e-4, 1e-5, 1e-6])
def test_central_differences_of_a_sensible_step_are_right(h):
    assert check("numeric_gradient", lambda f, x: central(f, x, h))


@pytest.mark.parametrize("mine, words", [
    (one_sided, "as f(x + h) - f(x) is"), (undivided, "divide by 2 h"), (flipped, "its sign is flipped"),
    (large_h, "h is too large"), (small_h, "rounding is all that is left"),
    (in_float32, "rounding is all that is left"),
    (not_put_back, "put each element back"), (flat, "has shape (6,), should be (2, 3)"),
    (in_place, "it writes into an array that it is given"), (lambda f, x: None, "None: is a `return` missing?"),
    (lambda f, x: [1.0], "is a list, should be an array"), (lambda f, x: "no", "is a str, should be an array"),
    (lambda f, x: np.full(x.shape, np.nan), "4 of 4 entries are NaN"), (lambda f, x: np.full(x.shape, 7), "is 7, not"),
    (lambda f, x: np.full(x.shape, 7.0), "is 7, not"), (lambda f: 0.0, "raised TypeError"),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_wrong_numeric_gradient_is_told_its_mistake(mine, words):
    assert words in said("numeric_gradient", mine)


# ---- checker ----

def agrees(forward, backward, inputs, dy, h=1e-5, tolerance=1e-6, each=True):
    dxs = backward(dy, *inputs)
    for k, (x, dx) in enumerate(zip(inputs, dxs)):
        def value(z):
            return float((dy * forward(*inputs[:k], z, *inputs[k + 1:])).sum())

        numeric = central(value, x, h)
        if not each:                            # one entry
            dx, numeric = np.ravel(dx)[:1], np.ravel(numeric)[:1]
        if np.abs(dx - numeric).max() > tolerance * max(np.abs(numeric).max(), 1e-3):
            return False
    return True


def random_dy(forward, inputs):
    return np.random.default_rng(5).normal(size=np.shape(forward(*inputs)))


def full(forward, backward, inputs):
    return agrees(forward, backward, inputs, random_dy(forward, inputs))


def along_a_direction(forward, backward, inputs):
    dy, rng = random_dy(forward, inputs), np.random.default_rng(6)
    us = [rng.normal(size=x.shape) for x in inputs]
    h = 1e-5
    above, below = (float((dy * forward(*(x + s * h * u for x, u in zip(inputs, us)))).sum()) for s in (1, -1))
    along = sum(float((dx * u).sum()) for dx, u in zip(backward(dy, *inputs), us))
    return bool(abs(along - (above - below) / (2 * h)) < 1e-6 * max(abs(along), 1.0))


def ones(forward, backward, inputs):
    return agrees(forward, backward, inputs, np.ones(np.shape(forward(*inputs))))


def one_entry(forward, backward, inputs):
    return agrees(forward, backward, inputs, random_dy(forward, inputs), each=False)


def first_input(forward, backward, inputs):
    rest = inputs[1:]
    return agrees(lambda x: forward(x, *rest), lambda dy, x: backward(dy, x, *rest)[:1], inputs[:1],
                  random_dy(forward, inputs))


def too_strict(forward, backward, inputs):
    return agrees(forward, backward, inputs, random_dy(forward, inputs), tolerance=1e-15)


def crude(forward, backward, inputs):
    return agrees(forward, backward, inputs, random_dy(forward, inputs), h=0.1)


def spoils(forward, backward, inputs):
    inputs[0] += 1.0
    return True


@pytest.mark.parametrize("mine", [full, along_a_direction])
def test_a_check_by_elements_and_one_by_a_direction_are_right(mine):
    assert check("checker", mine)


@pytest.mark.parametrize("mine, words", [
    (ones, "With dy = 1 nothing is wrong: draw dy at random"), (one_entry, "it passes a wrong backward of"),
    (first_input, "it passes a wrong backward of linear((4, 3), (3, 5), (5,)): db is the mean"),
    (first_input, "wrong   db at 5 of 5 entries"), (too_strict, "it rejects the right backward of"),
    (crude, "it rejects the right backward of"), (lambda f, b, inputs: True, "it passes a wrong backward of linear"),
    (lambda f, b, inputs: False, "it rejects the right backward of add"),
    (spoils, "it writes into an array that it is given"),
    (lambda f, b, inputs: None, "None: is a `return` missing?"),
    (lambda f, b, inputs: "yes", "a str, should be True or False"),
    (lambda f, b, inputs: b([1.0, 2.0], *inputs), "raised ValueError"), (lambda f: True, "raised TypeError"),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_wrong_checker_is_told_its_mistake(mine, words):
    assert words in said("checker", mine)


def test_each_of_the_wrong_backwards_runs_and_differs_from_finite_differences():
    assert len(WRONG) == 12
    for op_class, sample in WRONG.items():
        assert not all(row.ok for row in against_differences(Case(op_class, sample, 0))), op_class.__name__
