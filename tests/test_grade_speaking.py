"""The exercises of docs/speaking.md: right answers, and what is said of wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def cut(p, kept):
    q = np.where(kept, p, 0.0)
    return q / q.sum()


def top_p(p, limit, strict=False, keep_one=True, renormalize=True, order=None):
    order = np.argsort(-p, kind="stable") if order is None else order(p)
    before = p[order].cumsum() - p[order]
    kept = np.zeros(len(p), bool)
    kept[order] = (p[order].cumsum() <= limit) if strict else before < limit - 1e-12
    if strict and keep_one and not kept.any():
        kept[order[0]] = True
    return cut(p, kept) if renormalize else np.where(kept, p, 0.0)


def test_top_p_is_right_whichever_of_equally_likely_tokens_it_keeps():
    assert check("top_p", top_p)
    assert check("top_p", lambda p, limit: top_p(p[::-1], limit)[::-1])


@pytest.mark.parametrize("answer, words", [
    (lambda p, limit: top_p(p, limit, strict=True), "the token with which the sum reaches the limit stays"),
    (lambda p, limit: top_p(p, limit, renormalize=False), "divide what is kept by its sum"),
    (lambda p, limit: top_p(p, limit, order=np.argsort), "sort by probability"),
    (lambda p, limit: top_p(p, limit, order=lambda p: np.arange(len(p))), "sort by probability"),
    (lambda p, limit: p, "but 2 reach the limit"),
    (lambda p, limit: cut(p, p >= np.sort(p)[::-1][(np.sort(p)[::-1].cumsum() < limit - 1e-12).sum()]),
     "only as many as are needed"),
    (lambda p, limit: cut(p, top_p(p, limit) > 0) ** 2, "not to 1"),
    (lambda p, limit: 0 * p, "keep at least one"),
    (lambda p, limit: None, "is a `return` missing?"),
    (lambda p, limit: list(p), "should be an array of shape (5,)"),
    (lambda p, limit: np.full(5, np.nan), "NaN"),
    (lambda p, limit: p[:2], "has shape (2,), should be (5,)"),
    (lambda p, limit: p == p.max(), "less than the limit"),
    (lambda p, limit: p > 0, "sums to 5, not to 1"),
])
def test_a_wrong_top_p_is_told_which_tokens_it_should_keep(answer, words):
    verdict = check("top_p", answer)
    assert verdict.verdict == "wrong" and words in verdict.explanation


def test_min_p_is_right():
    assert check("min_p", lambda p, limit: cut(p, p >= limit * p.max()))


@pytest.mark.parametrize("answer, words", [
    (lambda p, limit: cut(p, p >= limit) if (p >= limit).any() else p, "a share of the largest probability"),
    (lambda p, limit: cut(p, p > limit * p.max()), "at exactly that probability stays"),
    (lambda p, limit: np.where(p >= limit * p.max(), p, 0.0), "divide what is kept by its sum"),
    (lambda p, limit: cut(p, p <= np.median(p)), "sort by probability"),
    (lambda p, limit: cut(p, p >= limit * p.mean()), "have at least"),
    (lambda p, limit: 1.0, "should be an array of shape (5,)"),
])
def test_a_wrong_min_p_is_told_which_tokens_it_should_keep(answer, words):
    verdict = check("min_p", answer)
    assert verdict.verdict == "wrong" and words in verdict.explanation
