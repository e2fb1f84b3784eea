"""Cross-entropy."""
from typing import Any

import numpy as np

from minigrad import device
from minigrad.ops import sums
from minigrad.ops.op import Fused
from minigrad.ops.sample import Sample
from minigrad.ops.softmax import LogSoftmax
from minigrad.ops.sums import in_float32, largest


class CrossEntropy(Fused):
    """logits (..., V); targets (...), ignore_index, label_smoothing, reduction  ->  y () or, for "none", (...)

    axes      V vocabulary
    forward   p = softmax_vocabulary(logits)    q = one-hot rows of the targets [if not label_smoothing]
              q = (1 - s) onehot(targets) + s / V with s = label_smoothing [if label_smoothing]
              loss = -sum_vocabulary(q * log(p))
              loss = 0 where the target is ignore_index [if ignore_index in targets]
              n = number of targets [if reduction == "mean" and ignore_index not in targets]
              n = number of targets that are not ignore_index [if reduction == "mean" and ignore_index in targets]
              y = sum(loss) / n [if reduction == "mean"]    y = sum(loss) [if reduction == "sum"]
              y = loss [if reduction == "none"]
    backward  p = softmax_vocabulary(logits)    q = one-hot rows of the targets [if not label_smoothing]
              q = (1 - s) onehot(targets) + s / V with s = label_smoothing [if label_smoothing]
              n = number of targets [if reduction == "mean" and ignore_index not in targets]
              n = number of targets that are not ignore_index [if reduction == "mean" and ignore_index in targets]
              dlogits = (p - q) dy / n [if reduction == "mean"]    dlogits = (p - q) dy [if reduction == "sum"]
              dlogits = (p - q) * dy [if reduction == "none"]
              dlogits = 0 where the target is ignore_index [if ignore_index in targets]
    why       the logarithm cancels the exponential of softmax, so the gradient of -sum(q * log(p)) is p - q: the
              probability that the model gives minus the one that it should give. Rows whose target is ignore_index are
              replaced by 0, not multiplied by 0, as 0 * NaN is NaN
    identity  each row of dlogits sums to 0, as a constant shift of the row leaves p unchanged:
              sum(dlogits, axis=-1) = 0
    source    Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs";
              label smoothing s: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7
    """
    wide = True

    def forward(self, logits, *, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        xp, V, s = self.xp, logits.shape[-1], label_smoothing
        counted, t = map(xp.asarray, self.check(logits, targets, ignore_index, label_smoothing, reduction))
        z = xp.where(counted[:, None], logits.reshape(len(t), V), 0.0)      # (N, V)
        m = largest(z, 1)                                           # (N, 1)
        shifted = z - m
        total = sums.total(xp.exp(shifted), 1, keepdims=True)       # (N, 1)
        picked = shifted[xp.arange(len(t)), t]                      # (N,)
        if s:
            picked = (1.0 - s) * picked + s / V * sums.total(shifted, 1)
        loss = xp.where(counted, xp.log(total[:, 0]) - picked, 0.0)         # (N,)
        n = count(xp, counted, reduction, z.dtype)
        self.save(z=z, m=m, total=total, t=t, counted=counted, n=n, s=s, shape=logits.shape)
        return loss.reshape(targets.shape) if reduction == "none" else sums.total(loss) / n

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        xp, V = self.xp, z.shape[1]
        p = xp.exp(z - m) / total                                   # (N, V)
        if s:
            p -= s / V
        p[xp.arange(len(t)), t] -= 1.0 - s                          # p - q
        share = xp.where(counted, dy.reshape(-1) / n, 0.0)          # (N,)
        return (p * share[:, None]).reshape(shape)

    @staticmethod
    @in_float32
    def composed(F, logits, *, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        xp, V, s = logits.xp, logits.shape[-1], label_smoothing
        counted, t = map(xp.asarray, CrossEntropy.check(logits, targets, ignore_index, label_smoothing, reduction))
        z = F.where(counted[:, None], logits.reshape(len(t), V), 0.0)
        log_p = LogSoftmax.composed(F, z, axis=1)
        picked = log_p[xp.arange(len(t)), t]
        if s:
            picked = (1.0 - s) * picked + s / V * log_p.sum(axis=1)
        loss = F.where(counted, -picked, 0.0)
        if reduction == "none":
            return loss.reshape(targets.shape)
        return loss.sum() / count(xp, counted, reduction, z.dtype)

    @staticmethod
    def check(logits: Any, targets: Any, ignore_index: int, label_smoothing: float, reduction: str) -> tuple[Any, Any]:
        """As counted_targets, after checking the shapes and options: ValueError where they do not fit."""
        if logits.ndim < 1 or logits.shape[:-1] != targets.shape:
            raise ValueError(f"cross_entropy: logits {logits.shape} and targets {targets.shape} do not fit: "
                             "expected logits (..., V), targets (...)")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'cross_entropy: reduction must be "mean", "sum" or "none", got {reduction!r}')
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
        return counted_targets(targets, ignore_index, logits.shape[-1])

    _t = np.array([1, 0, -100, 3])
    samples = [
        Sample((3, 5), targets=np.array([1, 0, 3])),
        Sample((2, 4, 5), targets=np.array([[1, 4, 4, 0], [-100, 2, 1, -100]])),
        Sample((4, 5), targets=_t, label_smoothing=0.1),
        Sample((4, 5), targets=_t, reduction="sum"),
        Sample((4, 5), targets=_t, reduction="none", label_smoothing=0.3),
        Sample((2, 5), targets=np.array([-100, -100])),
        Sample((5,), targets=np.array(2)),
        Sample((4, 5), targets=np.array([1, 0, 2, 3]), ignore_index=2),
    ]


def counted_targets(targets: Any, ignore_index: int, V: int) -> tuple[Any, Any]:
    """(counted, t), both (N,), on the device of the targets: which targets are not ignore_index, and the targets with 0
    in place of ignore_index. TypeError unless they are integers, IndexError for one outside [0, V)."""
    if targets.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets must be integers, got dtype {targets.dtype}")
    t = targets.reshape(-1)
    counted = t != ignore_index
    t = t * counted
    device.in_range("target", t, V)
    return counted, t


def count(xp: Any, counted: Any, reduction: str, dtype: Any) -> Any:
    """The divisor of the sum of the losses: for "mean" the number of counted targets (1 if there are none), else 1."""
    return xp.maximum(counted.sum(), 1).astype(dtype) if reduction == "mean" else 1.0


class LinearCrossEntropy(Fused):
    """x (..., C), w (V, C); targets (...), ignore_index, reduction, rows  ->  y ()

    axes      V vocabulary, C feature
    forward   z = x @ w^T, a chunk of rows at a time    y = cross_entropy(z)
    backward  z = x @ w^T, a chunk of rows at a time    p = softmax_vocabulary(z)    q = one-hot rows of the targets
              n = number of targets [if reduction == "mean" and ignore_index not in targets]
              n = number of targets that are not ignore_index [if reduction == "mean" and ignore_index in targets]
              dz = (p - q) dy / n [if reduction == "mean"]    dz = (p - q) dy [if reduction == "sum"]
              dx = dz @ w    dw += dz^T @ x
    why       with a vocabulary of 50,000 tokens the logits z are by far the largest array of a GPT. Computing them
              twice, for a chunk of rows at a time, needs less memory than storing them from forward to backward
    identity  each column of dw sums to 0, as one vector added to all rows of w shifts each row of logits by a constant:
              sum(dw, axis=0) = 0; the loss depends on x and w only through their product: sum(dx * x) = sum(dw * w)
    """
    wide = True

    @staticmethod
    def check(x, w, targets, reduction, rows=1):
        if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[1] or x.shape[:-1] != targets.shape:
            raise ValueError(f"linear_cross_entropy: x {x.shape}, w {w.shape}, targets {targets.shape} do not fit: "
                             "expected x (..., C), w (V, C), targets (...)")
        if reduction not in ("mean", "sum"):
            raise ValueError(f'linear_cross_entropy: reduction must be "mean" or "sum", got {reduction!r}')
        if rows < 1:
            raise ValueError(f"linear_cross_entropy: rows must be at least 1, got {rows}")

    def forward(self, x, w, *, targets, ignore_index=-100, reduction="mean", rows=1024):
        self.check(x, w, targets, reduction, rows)
        xp, t = self.xp, targets.reshape(-1)                        # (N,)
        counted = xp.asarray(t != ignore_index)
        x2 = xp.where(counted[:, None], x.reshape(len(t), x.shape[-1]), 0.0)        # (N, C)
        n = count(xp, counted, reduction, x.dtype)
        self.save(x2=x2, w=w, t=t, counted=counted, n=n, ignore_index=ignore_index, rows=rows, shape=x.shape)
        return sum(self.chunk(x2, w, t, i, ignore_index, rows)[1] for i in range(0, max(len(t), 1), rows)) / n

    def chunk(self, x2, w, t, i, ignore_index, rows):
        """The op cross_entropy after its forward on the logits of rows i to i + rows, and the sum of their losses."""
        op = CrossEntropy()
        op.xp = self.xp
        logits = x2[i:i + rows] @ w.T                               # (rows, V)
        return op, op.forward(logits, targets=t[i:i + rows], ignore_index=ignore_index, reduction="sum")

    def backward(self, dy, x2, w, t, counted, n, ignore_index, rows, shape):
        dx: Any = self.xp.zeros_like(x2) if self.needs[0] else None
        dw: Any = self.xp.zeros_like(w) if self.needs[1] else None
        for i in range(0, len(t), rows):
            op, _ = self.chunk(x2, w, t, i, ignore_index, rows)
            dz = op.backward(dy / n, **op.saved)                    # (rows, V)
            if self.needs[0]:
                dx[i:i + rows] = self.xp.where(counted[i:i + rows, None], dz @ w, 0.0)
            if self.needs[1]:
                dw += dz.T @ x2[i:i + rows]
        return dx.reshape(shape) if self.needs[0] else None, dw

    @staticmethod
    @in_float32
    def composed(F, x, w, *, targets, ignore_index=-100, reduction="mean", rows=1024):
        LinearCrossEntropy.check(x, w, targets, reduction, rows)
        counted = x.xp.asarray(targets != ignore_index)
        logits = F.matmul(F.where(counted[..., None], x, 0.0), F.transpose(w))
        return CrossEntropy.composed(F, logits, targets=targets, ignore_index=ignore_index, reduction=reduction)

    samples = [Sample((5, 3), (7, 3), targets=np.array([1, 0, 6, 6, 2]), rows=2),
               Sample((2, 4, 3), (5, 3), targets=np.array([[1, 4, 4, 0], [-100, 2, 1, -100]]), rows=3),
               Sample((4, 3), (5, 3), targets=np.array([1, 0, -100, 3]), reduction="sum"),
               Sample((2, 3), (5, 3), targets=np.array([-100, -100]))]
