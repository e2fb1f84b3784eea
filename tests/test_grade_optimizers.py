"""The exercises adamw_step and lion_step: right answers are right, and each mistake gets the sentence that names it."""
import math

import numpy as np
import pytest

from faulty_ops import ADAMW_MISTAKES
from minigrad.grade import check
from minigrad.step.rerun import new_op


def adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1 ** t), v / (1 - beta2 ** t)
    return p - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * p), m, v


def lion(p, g, m, lr, beta1, beta2, weight_decay):
    u = np.sign(beta1 * m + (1 - beta1) * g)
    return p - lr * (u + weight_decay * p), beta2 * m + (1 - beta2) * g


def assert_says(exercise, mine, words):
    verdict = check(exercise, mine)
    assert verdict.verdict == "wrong"
    assert words in " ".join(verdict.explanation.split()), verdict


def test_a_right_step_is_right():
    assert check("adamw_step", adamw)
    assert check("lion_step", lion)


def test_a_step_that_decays_first_and_returns_a_list_is_right():
    def decays_first(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
        p_new, m, v = adamw(p, g, m, v, t, lr, beta1, beta2, eps, 0.0)
        return [p_new - p + p * (1 - lr * weight_decay), m, v]
    assert check("adamw_step", decays_first)


# What the sentence on each planted mistake contains.
SENTENCES = {
    "NoBiasCorrection": "the bias correction is missing",
    "StepsFromZero": "a step ahead: t is 1 at the first step",
    "OnlyMCorrected": "v is not: divide v by 1 - beta2 ** t",
    "DecayInMoments": "the decay is added to the gradient",
    "BetasSwapped": "the betas are swapped",
    "VariancesOfG": "it averages g * g, not g",
    "EpsInRoot": "eps is added to the root",
    "Ascent": "it goes up",
    "DecayWithoutLr": "multiply weight_decay by lr",
    "NoDecay": "weight_decay is not used",
    "DecayGrows": "weights grow",
    "DecayAfterStep": "shrinks the weight after the step",
}


@pytest.mark.parametrize("faulty", ADAMW_MISTAKES, ids=lambda op: op.__name__)
def test_each_planted_mistake_in_adamw_gets_the_sentence_that_names_it(faulty):
    op = new_op(faulty, [True] * 9)

    def mine(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
        return op.forward(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t=t)
    assert_says("adamw_step", mine, SENTENCES[faulty.__name__])


def test_there_is_a_sentence_for_each_planted_mistake():
    assert SENTENCES.keys() == {op.__name__ for op in ADAMW_MISTAKES}


def sgd(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    return p - lr * g, m, v


def keeps_corrected_moments(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    p, m, v = adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay)
    return p, m / (1 - beta1 ** t), v / (1 - beta2 ** t)


def forgets_m(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    return adamw(p, g, 0 * m, v, 1 if t == 1 else math.inf, lr, 0.0, beta2, eps, weight_decay)


def without_memory(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    return p - lr * np.sign(g), m, v


def without_eps(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    with np.errstate(invalid="ignore"):
        return adamw(p, g, m, v, t, lr, beta1, beta2, 0.0, weight_decay)


def without_root(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    _, m, v = adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay)
    return p - lr * m / (1 - beta1 ** t) / (v / (1 - beta2 ** t) + eps), m, v


def only_v_corrected(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    p_new, m, v = adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay)
    return p - (p - p_new) * (1 - beta1 ** t), m, v


def writes_into_p(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    p -= lr * g
    return p, m, v


@pytest.mark.parametrize("mine, words", [
    (sgd, "depends on the size of the gradient"),
    (without_root, "depends on the size of the gradient"),
    (only_v_corrected, "m is not: divide m by 1 - beta1 ** t"),
    (keeps_corrected_moments, "m_new and v_new are the averages before it"),
    (without_memory, "m_new should be beta1"),
    (without_eps, "add eps to the denominator"),
    (writes_into_p, "make a new one"),
    (lambda p, g, m, v, *rest: (p, m, v), "p_new is p"),
    (lambda *given: None, "is a `return` missing?"),
    (lambda p, *rest: p, "3 values: p_new, m_new, v_new"),
    (lambda p, *rest: (p, p), "3 values: p_new, m_new, v_new"),
    (lambda *given: "p", "a str"),
    (lambda *given: ("p", "m", "v"), "m_new of step 1 is a str"),
    (lambda p, *rest: ("p", p, abs(p)), "p_new of step 1 is a str"),
    (lambda p, *rest: (None, p, abs(p)), "p_new of step 1 is None"),
    (lambda p, *rest: (p * math.nan, p, abs(p)), "NaN"),
    (lambda p, *rest: (p[0], p, abs(p)), "shape (3,), should be (2, 3)"),
    (lambda p, g: (p, g, g), "raised TypeError"),
])
def test_a_wrong_step_of_adamw_gets_a_sentence(mine, words):
    assert_says("adamw_step", mine, words)


def lion_variant(direction, memory):
    def mine(p, g, m, lr, beta1, beta2, weight_decay):
        return p - lr * (direction(g, m, beta1, beta2) + weight_decay * p), memory(g, m, beta1, beta2)
    return mine


def mixed(g, m, beta):
    return beta * m + (1 - beta) * g


@pytest.mark.parametrize("mine, words", [
    (lion_variant(lambda g, m, b1, b2: mixed(g, m, b1), lambda g, m, b1, b2: mixed(g, m, b2)), "lr times a sign"),
    (lion_variant(lambda g, m, b1, b2: -np.sign(mixed(g, m, b1)), lambda g, m, b1, b2: mixed(g, m, b2)), "it goes up"),
    (lion_variant(lambda g, m, b1, b2: np.sign(mixed(g, m, b1)), lambda g, m, b1, b2: mixed(g, m, b1)),
     "beta1 mixes the direction, beta2 the memory"),
    (lion_variant(lambda g, m, b1, b2: np.sign(mixed(g, m, b1)), lambda g, m, b1, b2: m + g), "m_new should be beta2"),
    (lion_variant(lambda g, m, b1, b2: np.sign(mixed(g, m, b2)), lambda g, m, b1, b2: mixed(g, m, b2)),
     "it follows m_new, or mixes with beta2"),
    (lion_variant(lambda g, m, b1, b2: np.sign(g), lambda g, m, b1, b2: mixed(g, m, b2)), "it follows g alone"),
    (lion_variant(lambda g, m, b1, b2: np.where(mixed(g, m, b1) < 0, -1, 1), lambda g, m, b1, b2: mixed(g, m, b2)),
     "the sign of 0 is 0"),
    (lambda p, g, m, lr, b1, b2, wd: lion(p, g, m, lr, b1, b2, 0.0), "weight_decay is not used"),
    (lambda p, g, m, lr, b1, b2, wd: lion(p, g, m, lr, b1, b2, wd / lr), "multiply weight_decay by lr"),
    (lambda p, g, m, lr, b1, b2, wd: lion(p, g, m, lr, b1, b2, -wd), "weights grow"),
    (lambda p, g, m, lr, b1, b2, wd: (lion(p, g, m, lr, b1, b2, 0.0)[0] * (1 - lr * wd), b2 * m + (1 - b2) * g),
     "shrinks the weight after the step"),
    (lambda *given: None, "is a `return` missing?"),
    (lambda p, *rest: [p], "2 values: p_new, m_new"),
    (lambda p, *rest: (list(p), p), "p_new is a list"),
])
def test_a_wrong_step_of_lion_gets_a_sentence(mine, words):
    assert_says("lion_step", mine, words)
