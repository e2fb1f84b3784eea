"""The linear layer."""
import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import rows_of, sum_of_rows
from minigrad.kernels.vector.buffers import empty
from minigrad.ops import linalg


class Linear(Kernel, linalg.Linear, register=False):
    """The textbook's matrix products, written to reused memory. Where w needs no gradient, the graph drops x."""
    unaliased = 0, 1, 2

    def forward(self, x, w, b=None):
        self.check(x, w, b)
        x2 = rows_of(x)                                             # (N, I)
        y = np.matmul(x2, w, out=empty((len(x2), w.shape[1]), x.dtype))     # (N, O)
        if b is not None:
            y += b
        self.save(x2=x2 if self.needs[1] else None, w=w, shape=x.shape)
        self.drops = () if self.needs[1] else (0,)
        return y.reshape(x.shape[:-1] + w.shape[1:])

    def backward(self, dy, x2, w, shape):
        dy2 = rows_of(dy)                                           # (N, O)
        dx = dw = db = None
        if self.needs[0]:
            dx = np.matmul(dy2, w.T, out=empty((len(dy2), w.shape[0]), dy.dtype)).reshape(shape)
        if self.needs[1]:
            dw = np.matmul(x2.T, dy2, out=empty(w.shape, dy.dtype))
        if any(self.needs[2:]):
            db = sum_of_rows(dy2).astype(dy.dtype)
        return (dx, dw, db)[:len(self.needs)]
