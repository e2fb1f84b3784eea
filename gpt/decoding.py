"""From logits to the next token: temperature, top-k, top-p, and the draw."""
import numpy as np

from minigrad.random import Key, bits


def probabilities(logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None,
                  top_p: float | None = None) -> np.ndarray:
    """logits (..., V)  ->  the probabilities (..., V) to draw from, in float64.

    temperature: the logits are divided by it; 0 leaves the likeliest token alone. top_k: only the k likeliest. top_p:
    only the fewest that together reach this probability (Holtzman et al. 2020), counted after temperature and top_k.
    Of equal tokens the lower one counts as likelier.
    """
    if temperature < 0.0:
        raise ValueError(f"temperature must be 0 (greedy) or more, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if temperature == 0.0:
        temperature, top_k = 1.0, 1
    z = logits.astype(np.float64)
    with np.errstate(over="ignore"):                                    # a tiny temperature sends the others to -inf
        p = np.exp((z - z.max(axis=-1, keepdims=True)) / temperature)
    order = np.argsort(-z, axis=-1, kind="stable")                      # likeliest first
    ranked = np.take_along_axis(p, order, axis=-1)
    if top_k is not None:
        ranked[..., top_k:] = 0.0
    ranked /= ranked.sum(axis=-1, keepdims=True)
    if top_p is not None:
        likelier = ranked.cumsum(axis=-1) - ranked                      # what those before it reach
        ranked[likelier >= top_p] = 0.0
        ranked /= ranked.sum(axis=-1, keepdims=True)
    np.put_along_axis(p, order, ranked, axis=-1)
    return p


def next_tokens(logits: np.ndarray, key: Key, temperature: float = 1.0, top_k: int | None = None,
                top_p: float | None = None) -> np.ndarray:
    """logits (B, V)  ->  a token for each row (B,), drawn from `probabilities`. The same key draws the same tokens."""
    if not np.isfinite(logits).all():
        raise ValueError("the logits are not finite: the model's training diverged; try a smaller learning rate")
    cumulated = probabilities(logits, temperature, top_k, top_p).cumsum(axis=-1)    # (B, V)
    u = (bits(key.fold("next token"), (len(logits), 1)) + 0.5) / 2 ** 32            # (B, 1), in (0, 1)
    return (cumulated <= u * cumulated[:, -1:]).sum(axis=-1)
