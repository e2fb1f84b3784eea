"""Cross-entropy, alone and with the linear layer before it: the forward computes the gradients with the loss, from the
same exponentials."""
from typing import Any

import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import empty_like, ones, partition, pieces, rows_of, scratch
from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.settings import settings
from minigrad.ops import loss


def losses_and_gradient(z, t, counted, share, dz):
    """share (N,) * cross-entropy of each row of logits z (N, V) with targets t (N,)  ->  (N,), 0 for a row that is not
    counted (N,). The gradient of the sum of the result with respect to z is written to dz (N, V), which may be z
    itself, unless dz is None."""
    losses = np.empty(len(z), z.dtype)
    for s in pieces(z):
        e = scratch("z", z, *z[s].shape) if dz is None else dz[s]
        losses[s] = of_piece(z[s], t[s], counted[s], share[s], e)
    return losses


@np.errstate(invalid="ignore")                                      # rows that do not count may hold anything
def of_piece(z, t, counted, share, e):
    """losses_and_gradient of a piece, with the gradient written to e."""
    rows = np.arange(len(z))
    np.subtract(z, z.max(axis=1, keepdims=True), out=e)
    picked = e[rows, t]                                             # (N,)
    np.exp(e, out=e)
    total = e @ ones(z.shape[1], z)
    e *= (share / total)[:, None]                                   # p * share
    e[rows, t] -= share
    np.log(total, out=total)
    total -= picked
    total *= share
    if not counted.all():
        e[~counted] = 0.0
        total[~counted] = 0.0
    return total


class CrossEntropy(Kernel, loss.CrossEntropy, register=False):
    """Saves dlogits for dy = 1; the backward multiplies it by dy. With label smoothing, the textbook runs."""
    unaliased = drops = 0,
    losses = staticmethod(losses_and_gradient)

    def forward(self, logits, *, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        counted, t = self.check(logits, targets, ignore_index, label_smoothing, reduction)
        if label_smoothing:
            return super().forward(logits, targets=targets, ignore_index=ignore_index,
                                   label_smoothing=label_smoothing, reduction=reduction)
        z = rows_of(logits)                                                         # (N, V)
        share = (counted / loss.count(np, counted, reduction, z.dtype)).astype(z.dtype)     # (N,)
        dz = empty_like(z) if self.needs[0] else None
        losses = self.losses(z, t, counted, share, dz)
        self.save(dz=dz, counted=counted, shape=logits.shape)
        return losses.reshape(targets.shape) if reduction == "none" else losses.sum()

    def backward(self, dy, **saved):
        if "z" in saved:                                                            # the textbook's forward ran
            return super().backward(dy, **saved)
        dz, counted, shape = saved.values()
        if dy.ndim:                                                 # reduction "none": an entry for each row
            dy = np.where(counted, dy.reshape(-1), 0.0)
        return scaled(dz, dy.reshape(-1, 1), self.may_overwrite).reshape(shape)


def scaled(a, by, may_overwrite):
    """a * by, written over a if may_overwrite."""
    if may_overwrite and by.size == 1 and by == 1.0:
        return a
    return np.multiply(a, by, out=a if may_overwrite else None)


class LinearCrossEntropy(Kernel, loss.LinearCrossEntropy, register=False):
    """Saves dx and dw for dy = 1, where they are needed. They are computed for a chunk of rows at a time, together with
    its logits, which the backward would have to compute again."""
    unaliased, drops = (0, 1), (0,)
    losses = staticmethod(losses_and_gradient)
    product: Any = staticmethod(np.matmul)

    def forward(self, x, w, *, targets, ignore_index=-100, reduction="mean", rows=1024):
        self.check(x, w, targets, reduction, rows)
        x2, V = rows_of(x), w.shape[0]                              # (N, C)
        counted, t = loss.counted_targets(targets, ignore_index, V)
        if not counted.all():
            x2 = np.where(counted[:, None], x2, 0.0)
        share = (counted / loss.count(np, counted, reduction, x.dtype)).astype(x.dtype)
        losses, chunks = np.empty(len(x2), x.dtype), partition(len(x2), settings.logits // V)
        dx = empty_like(x2) if self.needs[0] else None
        dw = None if not self.needs[1] else np.zeros_like(w) if len(chunks) != 1 else empty_like(w)
        for chunk in chunks:
            z = empty((chunk.stop - chunk.start, V), x.dtype)       # (rows, V)
            self.product(x2[chunk], w.T, out=z)
            losses[chunk] = self.losses(z, t[chunk], counted[chunk], share[chunk], z)
            if dx is not None:                                      # z is now dlogits
                self.product(z, w, out=dx[chunk])
                dx[chunk][~counted[chunk]] = 0.0
            if dw is not None and len(chunks) == 1:
                self.product(z.T, x2, out=dw)
            elif dw is not None:
                dw += np.matmul(z.T, x2[chunk])
        self.save(dx=dx, dw=dw, shape=x.shape)
        return losses.sum()

    def backward(self, dy, dx, dw, shape):
        dx, dw = (None if a is None else scaled(a, dy, self.may_overwrite) for a in (dx, dw))
        return None if dx is None else dx.reshape(shape), dw
