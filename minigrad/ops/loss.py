"""Cross-entropy."""
from typing import Any

import numpy as np

from minigrad import device
from minigrad.ops.op import Fused, Sample


class CrossEntropy(Fused):
    """logits (..., V); targets (...), ignore_index, label_smoothing, reduction  ->  loss () or, for "none", (...)

    forward   p = softmax(logits)    q = (1 - s) onehot(target) + s / V    loss_i = -sum(q log p)
              loss = sum(loss_i) / n over the n targets that count, 0 if none does; n = 1 for "sum" and "none"
    backward  dlogits = (p - q) * dy / n, 0 in rows that do not count
    why       the logarithm undoes the exponential of softmax, so its Jacobian collapses to p - q
    source    Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs";
              label smoothing s: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7
    """

    def forward(self, logits, *, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        counted, t = self.check(logits, targets, ignore_index, label_smoothing, reduction)
        xp, V, s = self.xp, logits.shape[-1], label_smoothing
        z = logits.reshape(-1, V)                                   # (N, V)
        m = xp.max(z, axis=1, keepdims=True)                        # (N, 1)
        shifted = z - m
        total = xp.sum(xp.exp(shifted), axis=1, keepdims=True)      # (N, 1)
        picked = shifted[xp.arange(len(t)), t]                      # (N,)
        if s:
            picked = (1.0 - s) * picked + s / V * shifted.sum(axis=1)
        loss = (xp.log(total[:, 0]) - picked) * counted             # (N,)
        n = count(xp, counted, reduction, z.dtype)
        self.save(z=z, m=m, total=total, t=t, counted=counted, n=n, s=s, shape=logits.shape)
        return loss.reshape(targets.shape) if reduction == "none" else loss.sum() / n

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        xp, V = self.xp, z.shape[1]
        p = xp.exp(z - m) / total                                   # (N, V)
        if s:
            p -= s / V
        p[xp.arange(len(t)), t] -= 1.0 - s                          # p - q
        share = dy.reshape(-1) * counted / n                        # (N,)
        return (p * share[:, None]).reshape(shape)

    @staticmethod
    def composed(F, logits, *, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        counted, t = CrossEntropy.check(logits, targets, ignore_index, label_smoothing, reduction)
        xp, V, s = logits.xp, logits.shape[-1], label_smoothing
        z = logits.reshape(-1, V)
        log_p = z - F.logsumexp(z, axis=1, keepdims=True)
        picked = (1.0 - s) * log_p[xp.arange(len(t)), t] + s / V * log_p.sum(axis=1)
        loss = F.where(counted, -picked, 0.0)
        if reduction == "none":
            return loss.reshape(targets.shape)
        return loss.sum() / count(xp, counted, reduction, z.dtype)

    @staticmethod
    def check(logits: Any, targets: Any, ignore_index: int, label_smoothing: float, reduction: str) -> tuple[Any, Any]:
        """Which of the N targets count, and the targets, 0 where they do not."""
        if targets.dtype.kind not in "iu":
            raise TypeError(f"cross_entropy: targets must be integers, got dtype {targets.dtype}")
        if logits.ndim < 1 or logits.shape[:-1] != targets.shape:
            raise ValueError(f"cross_entropy: logits {logits.shape} and targets {targets.shape} do not fit: "
                             "expected logits (..., V), targets (...)")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'cross_entropy: reduction must be "mean", "sum" or "none", got {reduction!r}')
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
        t = targets.reshape(-1)
        counted = t != ignore_index
        t = t * counted
        device.in_range("target", t, logits.shape[-1])
        return counted, t

    _t = np.array([1, 0, -100, 3])
    samples = [Sample((3, 5), targets=np.array([1, 0, 3])), Sample((2, 4, 5), targets=np.array([[1, 4, 4, 0], [-100, 2, 1, -100]])),
               Sample((4, 5), targets=_t, label_smoothing=0.1), Sample((4, 5), targets=_t, reduction="sum"),
               Sample((4, 5), targets=_t, reduction="none", label_smoothing=0.3), Sample((2, 5), targets=np.array([-100, -100])),
               Sample((5,), targets=np.array(2)), Sample((4, 5), targets=np.array([1, 0, 2, 3]), ignore_index=2)]


def count(xp: Any, counted: Any, reduction: str, dtype: Any) -> Any:
    """What the sum of the losses is divided by: how many targets count (1 if none does) for "mean", else 1."""
    return xp.maximum(counted.sum(), 1).astype(dtype) if reduction == "mean" else 1.0
