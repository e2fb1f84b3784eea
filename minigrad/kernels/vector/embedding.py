"""Embedding: rows of a table."""
import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import rows_of
from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.settings import settings
from minigrad.ops import embedding


class Embedding(Kernel, embedding.Embedding, register=False):
    """The gradient of a small table is a matrix product with one-hot rows. For a large one, the rows of dy are sorted
    by index, and the rows of each index are summed."""
    unaliased = 0,

    def forward(self, w, *, idx):
        self.check(w, idx)
        idx = np.asarray(idx)
        y = empty((*idx.shape, w.shape[1]), w.dtype)
        np.take(w, idx, axis=0, out=y, mode="clip")                 # the fastest mode; check raises if out of range
        self.save(idx=idx, shape=w.shape)
        return y

    def backward(self, dy, idx, shape):
        V, _ = shape
        idx, dy2 = idx.reshape(-1), rows_of(dy)                     # (N,), (N, C)
        if V <= settings.vocabulary:
            onehot = (np.arange(V)[:, None] == idx).astype(dy.dtype)        # (V, N)
            return np.matmul(onehot, dy2, out=empty(shape, dy.dtype))
        dw = np.zeros(shape, dy.dtype)
        order = np.argsort(idx, kind="stable")
        first = np.flatnonzero(np.diff(idx[order], prepend=-1))     # where each group of equal indices begins
        dw[idx[order[first]]] = np.add.reduceat(dy2[order], first, axis=0)
        return dw
