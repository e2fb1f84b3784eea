"""From logits to the next token: repetition penalty, temperature, top-k, top-p, sampling; and beam search."""
from typing import Callable

import numpy as np

from minigrad.random import Key, bits


def penalized(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """logits (B, V) with a repetition penalty on the tokens seen (B, T): their positive logits are divided by it, their
    negative ones multiplied by it. Keskar et al. (2019, section 4.1) divide both, which makes a token with a negative
    logit more likely. ValueError unless the penalty is positive, and for one that makes a logit infinite."""
    if not penalty > 0.0:
        raise ValueError(f"repetition_penalty must be positive, 1 for none, got {penalty}")
    if penalty == 1.0:
        return logits
    z = np.take_along_axis(logits, seen, axis=-1)                       # (B, T)
    result = logits.copy()
    with np.errstate(over="ignore", divide="ignore"):
        z = np.where(z > 0.0, z / penalty, z * penalty).astype(result.dtype)
    if not np.isfinite(z).all():
        raise ValueError(f"repetition_penalty={penalty:g} makes logits infinite: use one nearer to 1")
    np.put_along_axis(result, seen, z, axis=-1)
    return result


def probabilities(logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None,
                  top_p: float | None = None) -> np.ndarray:
    """logits (..., V)  ->  the probabilities (..., V) to sample from, in float64. ValueError for a value out of range.

    temperature: divides the logits; 0 is greedy. top_k: keeps the k most likely tokens. top_p: keeps the smallest set
    of most likely tokens whose probabilities, after temperature and top_k, sum to top_p or more (Holtzman et al. 2020).
    Among equally likely tokens the lower one ranks first.
    """
    if not temperature >= 0.0:
        raise ValueError(f"temperature must be 0 (greedy) or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if temperature == 0.0:
        temperature, top_k = 1.0, 1
    z = logits.astype(np.float64)
    with np.errstate(over="ignore"):                                    # a tiny temperature makes differences -inf
        p = np.exp((z - z.max(axis=-1, keepdims=True)) / temperature)
    V = p.shape[-1]
    if top_k is not None and top_k < V:                                 # without sorting, which takes 20 times as long
        least = np.partition(logits, V - top_k, axis=-1)[..., V - top_k, None]
        above, ties = logits > least, logits == least
        kept = above | ties & (ties.cumsum(axis=-1) <= top_k - above.sum(axis=-1, keepdims=True))
        p[~kept] = 0.0
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None and top_p < 1.0:
        order = np.argsort(-p, axis=-1, kind="stable")                  # most likely first
        ranked = np.take_along_axis(p, order, axis=-1)
        ranked[ranked.cumsum(axis=-1) - ranked >= top_p] = 0.0          # if those before sum to top_p
        np.put_along_axis(p, order, ranked / ranked.sum(axis=-1, keepdims=True), axis=-1)
    return p


def next_tokens(logits: np.ndarray, key: Key, temperature: float = 1.0, top_k: int | None = None,
                top_p: float | None = None) -> np.ndarray:
    """logits (B, V)  ->  one token per row (B,), sampled from `probabilities`. The same key gives the same tokens."""
    cumulative = probabilities(logits, temperature, top_k, top_p).cumsum(axis=-1)   # (B, V)
    u = (bits(key.fold("next token"), (len(logits), 1)) + 0.5) / 2 ** 32            # (B, 1), in (0, 1)
    return (cumulative <= u * cumulative[:, -1:]).sum(axis=-1)


def beam_search(next_logits: Callable[[np.ndarray, np.ndarray], np.ndarray], start: np.ndarray, max_new_tokens: int,
                width: int, repetition_penalty: float = 1.0) -> np.ndarray:
    """Beam search for the most probable continuation of start (T,)  ->  (T + max_new_tokens,). ValueError for a width
    below 1.

    Each step extends every beam by every token and keeps the `width` most probable beams: width 1 is greedy, width
    V ** (max_new_tokens - 1) finds the optimum. Ties go to the earlier beam, then to the lower token.
    next_logits(beams (b, T), parents (b,)) -> (b, V): beam i extends beam parents[i] of the step before.
    """
    if width < 1:
        raise ValueError(f"beam must be at least 1, got {width}")
    beams, log_p, parents = start[None], np.zeros(1), np.zeros(1, dtype=np.int64)
    for _ in range(max_new_tokens):
        z = penalized(next_logits(beams, parents), beams, repetition_penalty).astype(np.float64)    # (b, V)
        z = z - z.max(axis=-1, keepdims=True)
        extended = log_p[:, None] + z - np.log(np.exp(z).sum(axis=-1, keepdims=True))               # (b, V)
        best = np.argsort(-extended, axis=None, kind="stable")[:width]
        parents, tokens = np.unravel_index(best, extended.shape)
        beams = np.column_stack([beams[parents], tokens])                                           # (width, T + 1)
        log_p = extended[parents, tokens]
    return beams[0]
