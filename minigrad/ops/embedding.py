"""Embedding: rows of a table, looked up by index."""
import numpy as np

from minigrad import device
from minigrad.ops.op import Fused
from minigrad.ops.sample import Sample
from minigrad.ops.sums import add_at, wider


class Embedding(Fused):
    """w (V, C); idx (...)  ->  y (..., C)

    axes      V vocabulary, C feature, ... batch, token
    forward   y = w[idx]
    backward  dw = 0    dw[idx] += dy, once for each index in idx
    why       a row of w that idx has several times gets the sum of the gradients of all its copies
    identity  y is linear in w: sum(dw * w) = sum(dy * y); each dy is added to one element of dw: sum(dw) = sum(dy)
    """

    @staticmethod
    def check(w, idx):
        if w.ndim != 2 or idx.dtype.kind not in "iu":
            raise TypeError(
                f"embedding: expected a table w (V, C) and integer idx, got w {w.shape} and idx of dtype {idx.dtype}"
            )
        device.in_range("token", idx, w.shape[0])

    def forward(self, w, *, idx):
        self.check(w, idx)
        idx = self.xp.asarray(idx)                                  # a host array is copied to the device
        self.save(idx=idx, shape=w.shape)
        return w[idx]

    def backward(self, dy, idx, shape):
        dw = self.xp.zeros(shape, wider(dy.dtype))
        add_at(dw, idx, dy)
        return dw.astype(dy.dtype)

    @staticmethod
    def composed(F, w, *, idx):
        Embedding.check(w, idx)
        return w[idx]

    samples = [
        Sample((7, 3), idx=np.array([[1, 3, 1], [0, 1, 6]])),
        Sample((4, 3), idx=np.array(2)),
        Sample((4, 3), idx=np.array([0, 3])),
    ]
