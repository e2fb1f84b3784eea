"""Embedding: rows of a table."""
import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import partition, rows_of
from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.settings import settings
from minigrad.ops import embedding


class Embedding(Kernel, embedding.Embedding, register=False):
    """The gradient of a small table is a matrix product with one-hot rows. For a large one, the rows of dy are sorted
    by index, and the rows of each index are summed. Sums of many rows are accumulated in float64."""
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
        dw = np.zeros(shape, dy.dtype)
        if V <= settings.vocabulary:
            total = np.zeros(shape)
            for s in partition(len(idx), settings.summed_rows):
                onehot = (np.arange(V)[:, None] == idx[s]).astype(dy.dtype)     # (V, rows)
                total += onehot @ dy2[s]
            dw[...] = total
            return dw
        order = np.argsort(idx, kind="stable")
        first = np.flatnonzero(np.diff(idx[order], prepend=-1))     # where each group of equal indices begins
        dw[idx[order[first]]] = np.add.reduceat(dy2[order], first, axis=0, dtype=np.float64)
        return dw
