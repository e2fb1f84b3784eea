"""Embedding: rows of a table."""
import numpy as np
from numba import prange

from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector import embedding as vector
from minigrad.kernels.vector.arrays import rows_of
from minigrad.kernels.vector.buffers import empty


@jit
def embedding_backward(dy, idx, first, following, dw, n):
    """dw (V, C): row v is the sum of the rows of dy (N, C) whose idx (N,) is v. Each thread adds up some rows of dw.

    first (V,), following (N,): memory for a list of rows of dy for each v: the first one, and the next after each.
    """
    (N, C), V = dy.shape, len(dw)
    for v in range(V):
        first[v] = -1
    for i in range(N - 1, -1, -1):
        following[i] = first[idx[i]]
        first[idx[i]] = i
    for part in prange(n):
        total = np.empty(C)                                         # float64
        for v in range(V * part // n, V * (part + 1) // n):
            for j in range(C):
                total[j] = 0.0
            i = first[v]
            while i >= 0:
                dy_i = dy[i]
                for j in range(C):
                    total[j] += dy_i[j]
                i = following[i]
            dw_v = dw[v]
            for j in range(C):
                dw_v[j] = total[j]


class Embedding(vector.Embedding, register=False):
    min_size = 64

    def backward(self, dy, idx, shape):
        dy2, dw = rows_of(dy), empty(shape, dy.dtype)               # (N, C), (V, C)
        idx = np.ascontiguousarray(idx, np.int64).reshape(-1)
        first, following = np.empty(shape[0], np.int64), np.empty_like(idx)
        embedding_backward(dy2, idx, first, following, dw, parts(dy2.size + dw.size, 0.2))
        return dw
