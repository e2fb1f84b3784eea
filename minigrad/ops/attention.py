"""Scaled dot-product attention."""
import math
from typing import Any

import numpy as np

from minigrad.ops.op import Fused
from minigrad.ops.sample import Sample
from minigrad.ops.sums import in_float32, largest, total
from minigrad.random import Key, keep_mask


def allowed_pairs(xp: Any, T: int, S: int, causal: bool, mask: Any) -> Any:
    """Which of the S keys each of the T queries may attend to: booleans (..., T, S), or None if all. causal: query i
    may attend to the keys 0 .. S - T + i, so the last query to all. TypeError for a mask that is not boolean."""
    if mask is not None and mask.dtype != bool:
        raise TypeError(f"attention: mask must be boolean, True where a query may attend, got dtype {mask.dtype}")
    if mask is not None:
        mask = xp.asarray(mask)                                     # a host mask is copied to the device
        mask = mask if mask.ndim > 1 else xp.broadcast_to(mask, (T, S))
    if not causal or T == 1:
        return mask
    past = xp.tri(T, S, S - T, dtype=bool)
    return past if mask is None else past & mask


def without_unused(xp: Any, q: Any, k: Any, v: Any, allowed: Any) -> tuple[Any, Any, Any]:
    """q, k and v with 0 in the queries without an allowed key and in the keys that no query may attend to: these may
    hold anything, and 0 * NaN is NaN in a product."""
    has_key = allowed.any(axis=-1)[..., None]                       # (..., T, 1)
    has_query = allowed.any(axis=-2)[..., None]                     # (..., S, 1)
    return xp.where(has_key, q, 0.0), xp.where(has_query, k, 0.0), xp.where(has_query, v, 0.0)


# The score of a masked pair, minus the row's maximum: exp of it is 0. The number is exact in float16. Hardly any other
# array holds it, so the stepper can tell it from values.
FAR_BELOW = -12344.0


def highest(xp: Any, S: Any, allowed: Any) -> Any:
    """The highest score of each query among the keys that it may attend to: (..., T, S) -> (..., T, 1). 0 if there is
    none, or if all are -inf."""
    m = largest(S if allowed is None else xp.where(allowed, S, -math.inf), -1)
    return xp.where(m == -math.inf, 0.0, m)


def scale_of(q: Any) -> float:
    """1 / sqrt(D) for q (..., T, D); 1 if D = 0, where all scores are 0."""
    return 1.0 / math.sqrt(max(q.shape[-1], 1))


class Attention(Fused):
    """q (..., T, D), k (..., S, D), v (..., S, E); mask (..., T, S), causal, dropout, key  ->  y (..., T, E)

    axes      T query, S key, D feature, E feature
    forward   S = q @ k^T / sqrt(D)    S = -inf where the key comes after the query [if causal]
              S = -inf where the mask is False [if mask is given]    A = P = softmax_key(S) [if not dropout]
              P = softmax_key(S) [if dropout]    A = P * keep / (1 - dropout) [if dropout]    y = A @ v
    backward  dv = A^T @ dy    dA = dP = dy @ v^T [if not dropout]    dA = dy @ v^T [if dropout]
              dP = dA * keep / (1 - dropout) [if dropout]    dS = P * (dP - sum_key(dP * P)) / sqrt(D)
              dq = dS @ k    dk = dS^T @ q
    why       each output row is a weighted average of the rows of v. The weights of a query, a row of P, are the
              softmax of its scores, one for each key; they are 0 if no key is allowed. dS is the gradient of q k^T, not
              of S: so it has the factor 1 / sqrt(D)
    identity  each row of dS sums to 0, as softmax ignores a constant shift: sum(dS, axis=-1) = 0;
              y depends on q and k only through their product: sum(dq * q) = sum(dk * k);
              y is linear in v: sum(dv * v) = sum(dy * y)
    source    Vaswani et al. 2017, "Attention is all you need", eq. 1
    """
    wide = True

    @staticmethod
    def check(q, k, v, mask=None):
        if min(q.ndim, k.ndim, v.ndim) < 2 or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] or (
                q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]):
            raise ValueError(f"attention: q {q.shape}, k {k.shape}, v {v.shape} do not fit: "
                             "expected q (..., T, D), k (..., S, D), v (..., S, E)")
        scores = (*q.shape[:-1], k.shape[-2])
        if mask is not None and (mask.ndim > q.ndim or any(
                n not in (1, m) for n, m in zip(mask.shape[::-1], scores[::-1]))):
            raise ValueError(f"attention: a mask of shape {mask.shape} does not broadcast to (..., T, S) {scores}")

    def forward(self, q, k, v, *, causal=False, mask=None, dropout=0.0, key=None):
        self.check(q, k, v, mask)
        xp, scale = self.xp, scale_of(q)
        allowed = allowed_pairs(xp, q.shape[-2], k.shape[-2], causal, mask)
        if mask is not None:
            q, k, v = without_unused(xp, q, k, v, allowed)
        S = q @ k.swapaxes(-1, -2) * scale                          # (..., T, S)
        S = S - highest(xp, S, allowed)
        if allowed is not None:
            S = xp.where(allowed, S, FAR_BELOW)
        P = xp.exp(S)
        Z = total(P, -1, keepdims=True)                             # at least 1, or 0 without an allowed key
        P = P / (Z if allowed is None else xp.where(Z == 0, 1.0, Z))
        keep = self.keep_mask(key, P.shape, dropout) if dropout else None
        A = P * keep * (1.0 / (1.0 - dropout)) if dropout else P
        self.save(q=q, k=k, v=v, P=P, keep=keep, dropout=dropout, scale=scale)
        return A @ v

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        A = P * keep * (1.0 / (1.0 - dropout)) if dropout else P
        dv = A.swapaxes(-1, -2) @ dy
        dA = dy @ v.swapaxes(-1, -2)                                # (..., T, S)
        dP = dA * keep * (1.0 / (1.0 - dropout)) if dropout else dA
        dS = P * (dP - total(dP * P, -1, keepdims=True)) * scale
        dq = dS @ k
        dk = dS.swapaxes(-1, -2) @ q
        return dq, dk, dv

    @staticmethod
    @in_float32
    def composed(F, q, k, v, *, causal=False, mask=None, dropout=0.0, key=None):
        Attention.check(q, k, v, mask)
        allowed = allowed_pairs(q.xp, q.shape[-2], k.shape[-2], causal, mask)
        if mask is not None:
            q, k, v = without_unused(F, q, k, v, allowed)
        S = F.matmul(q, k.swapaxes(-1, -2)) * scale_of(q)
        S = S - highest(q.xp, S.data, allowed)                      # a constant: it cancels
        if allowed is not None:
            S = F.where(allowed, S, FAR_BELOW)
        P = F.exp(S)
        Z = F.sum(P, axis=-1, keepdims=True)
        P = P / F.where(Z == 0, 1.0, Z)                             # 0 for a query without an allowed key
        if dropout:
            P = F.where(q.xp.asarray(keep_mask(key, P.shape, dropout)), P, 0.0) * (1.0 / (1.0 - dropout))
        return F.matmul(P, v)

    _mask = np.array([[True, False, True, True, False], [False] * 5, [False, True, True, True, True]])
    samples = [
        Sample((2, 5, 3), (2, 5, 3), (2, 5, 4)),
        Sample((2, 5, 3), (2, 5, 3), (2, 5, 4), causal=True),
        Sample((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3), mask=_mask),
        Sample((3, 2), (5, 2), (5, 3), causal=True, mask=_mask),
        Sample((2, 5, 3), (2, 5, 3), (2, 5, 4), causal=True, dropout=0.3, key=Key(seed=1)),
    ]
