"""Cross-entropy, alone and with the linear layer before it: the forward computes the gradients with the loss, from the
same exponentials."""
import numpy as np
from numba import prange

from minigrad.kernels.executor import Kernel
from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.linalg import A_B, A_BT, AT_B, matmul
from minigrad.kernels.loops.math import exp, largest
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector.arrays import empty_like, partition, rows_of
from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.loss import scaled
from minigrad.kernels.vector.settings import settings
from minigrad.ops import loss


@jit
def cross_entropy(z, t, share, losses, n):
    """Write the losses (N,) of logits z (N, V) with targets t (N,), each times its share (N,) of the result, and over z
    the gradient of their sum. A row with a share of 0 may hold anything.

    p = exp(z - max(z)) / sum(exp(z - max(z)))    loss = -log(p[t]) share    dz = (p - onehot(t)) share
    """
    N, V = z.shape
    number = z.dtype.type
    for part in prange(n):
        for i in range(N * part // n, N * (part + 1) // n):
            z_i, target = z[i], t[i]
            if share[i] == 0:
                for j in range(V):
                    z_i[j] = number(0)
                losses[i] = number(0)
                continue
            most = largest(z_i)
            picked, total = z_i[target] - most, 0.0                 # total: float64
            for j in range(V):
                z_i[j] = exp(z_i[j] - most)
                total += z_i[j]
            scale = number(share[i] / total)
            for j in range(V):
                z_i[j] *= scale
            z_i[target] -= share[i]
            losses[i] = number(np.log(total) - picked) * share[i]


def losses_of(z, t, share):
    """Run cross_entropy on logits z (N, V), which become the gradient. Returns the losses (N,)."""
    losses = np.empty(len(z), z.dtype)
    cross_entropy(z, t.astype(np.int64, copy=False), share, losses, parts(z.size, 0.7))
    return losses


def shares(counted, reduction, dtype):
    """How much the loss of each row counts in the result  ->  (N,)"""
    return (counted / loss.count(np, counted, reduction, dtype)).astype(dtype)


class CrossEntropy(Kernel, loss.CrossEntropy, register=False):
    """Saves dlogits for dy = 1; the backward multiplies it by dy. With label smoothing, the textbook runs."""
    unaliased = drops = 0,

    def forward(self, logits, *, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        counted, t = self.check(logits, targets, ignore_index, label_smoothing, reduction)
        if label_smoothing:
            return super().forward(logits, targets=targets, ignore_index=ignore_index,
                                   label_smoothing=label_smoothing, reduction=reduction)
        dz = rows_of(logits).copy()                                 # (N, V)
        losses = losses_of(dz, t, shares(counted, reduction, dz.dtype))
        self.save(dz=dz, counted=counted, shape=logits.shape)
        return losses.reshape(targets.shape) if reduction == "none" else losses.sum()

    def backward(self, dy, **saved):
        if "z" in saved:                                            # the textbook's forward ran
            return super().backward(dy, **saved)
        dz, counted, shape = saved.values()
        if dy.ndim:                                                 # reduction "none": an entry for each row
            dy = np.where(counted, dy.reshape(-1), 0.0)
        return scaled(dz, dy.reshape(-1, 1), self.may_overwrite).reshape(shape)


class LinearCrossEntropy(Kernel, loss.LinearCrossEntropy, register=False):
    """Saves dx and dw for dy = 1. They are computed for a chunk of rows at a time, together with its logits."""
    unaliased, drops = (0, 1), (0,)

    def forward(self, x, w, *, targets, ignore_index=-100, reduction="mean", rows=1024):
        self.check(x, w, targets, reduction, rows)
        x2, w2, V = rows_of(x), np.ascontiguousarray(w), w.shape[0]         # (N, C), (V, C)
        counted, t = loss.counted_targets(targets, ignore_index, V)
        if not counted.all():
            x2 = np.where(counted[:, None], x2, 0.0)
        share = shares(counted, reduction, x.dtype)
        losses, dx, dw = np.empty(len(x2), x.dtype), None, None
        if self.needs[0] or self.needs[1]:
            dx, dw = empty_like(x2), np.zeros_like(w2)
        for chunk in partition(len(x2), settings.logits // V):
            z = empty((chunk.stop - chunk.start, V), x.dtype)       # (rows, V)
            matmul(A_BT, x2[chunk], w2, z)
            losses[chunk] = losses_of(z, t[chunk], share[chunk])
            if dx is not None:                                      # z is now dlogits
                matmul(A_B, z, w2, dx[chunk])
                dx[chunk][~counted[chunk]] = 0.0
                if chunk.start == 0:
                    matmul(AT_B, z, x2[chunk], dw)
                else:
                    dw += z.T @ x2[chunk]
        self.save(dx=dx, dw=dw, shape=x.shape)
        return losses.sum()

    def backward(self, dy, dx, dw, shape):
        return scaled(dx, dy, self.may_overwrite).reshape(shape), scaled(dw, dy, self.may_overwrite)
