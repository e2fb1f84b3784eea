"""top_p, min_p: which tokens are kept before one is sampled."""
from typing import Any, Callable

import numpy as np

from minigrad.grade.answer import array, call
from minigrad.grade.verdict import must
from minigrad.words import plural

PEAKED, WIDE, TIED = [0.05, 0.7, 0.2, 0.05], [0.1, 0.15, 0.2, 0.25, 0.3], [0.25, 0.125, 0.25, 0.25, 0.125]


def kept_tokens(mine: Callable[..., Any], given: list[float], limit: float) -> np.ndarray:
    """Which tokens an answer keeps (V,). Wrong unless the others have probability 0, and those that it keeps have the
    ratios of p and sum to 1."""
    p = np.array(given)
    case = f"p = {given}, limit {limit:g}"
    q = array(call(mine, p, limit), p.shape, f"the result for {case},").astype(np.float64)
    kept = np.asarray(q > 0.0)
    must(bool(kept.any()), f"{case}: no token is kept, so there is nothing to sample; keep at least one")
    must(bool((q >= 0.0).all()), f"{case}: the result has negative probabilities: {np.round(q, 4).tolist()}")
    must(bool(np.isclose(q.sum(), 1.0)), f"{case}: the result sums to {q.sum():.4g}, not to 1: divide what is kept by "
         "its sum")
    must(bool(np.allclose(q[kept], p[kept] / p[kept].sum())), f"{case}: the tokens that are kept have other ratios "
         f"than in p: {np.round(q, 4).tolist()}")
    lost, least = p[~kept].max(initial=0.0), p[kept].min()
    must(lost <= least, f"{case}: a token of probability {lost:g} is dropped, and one of {least:g} is kept: sort by "
         "probability")
    return kept


def grade_top_p(mine: Callable[..., Any]) -> None:
    """mine(p, limit): p (V,) cut to the smallest set of most likely tokens that sum to limit or more."""
    for given, limit in ((WIDE, 0.5), (WIDE, 0.8), (PEAKED, 0.85), (PEAKED, 0.3), (WIDE, 1e-6), (TIED, 0.5),
                         (TIED, 0.6), (WIDE, 1.0), (PEAKED, 1.0), ([1.0], 0.5)):
        p, case = np.array(given), f"p = {given}, limit {limit:g}"
        kept = kept_tokens(mine, given, limit)
        ranked = np.sort(p)[::-1].cumsum()
        n, needed = int(kept.sum()), int(np.argmax(ranked >= min(limit, ranked[-1]) - 1e-12)) + 1
        must(n >= needed, f"{case}: {plural(n, 'token')} kept, which sum to {p[kept].sum():.4g}, less than the limit: "
             "the token with which the sum reaches the limit stays")
        tied = " (of equally likely tokens, only as many as are needed)" if given is TIED else ""
        must(n <= needed, f"{case}: {plural(n, 'token')} kept, but {needed} reach the limit{tied}")


def grade_min_p(mine: Callable[..., Any]) -> None:
    """mine(p, limit): p (V,) cut to the tokens with at least limit times the largest probability."""
    for given, limit in ((WIDE, 0.25), (WIDE, 0.6), (PEAKED, 0.1), (WIDE, 0.05), (PEAKED, 0.2), (TIED, 0.5),
                         (TIED, 0.6), (WIDE, 0.0), (PEAKED, 1.0), (TIED, 1.0), ([1.0], 0.5)):
        p, case = np.array(given), f"p = {given}, limit {limit:g}"
        kept = kept_tokens(mine, given, limit)
        least = limit * p.max()
        want = p >= least
        n, needed = int(kept.sum()), int(want.sum())
        above = " (the limit is a share of the largest probability, not a probability)" if (
            n == int((p >= limit).sum())) else ""
        equal = " (a token at exactly that probability stays)" if n == int((p > least).sum()) else above
        must(n == needed, f"{case}: {plural(n, 'token')} kept, but {needed} have at least {limit:g} x {p.max():g} = "
             f"{least:g}{equal}")


EXERCISES = {"top_p": grade_top_p, "min_p": grade_min_p}
