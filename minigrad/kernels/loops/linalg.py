"""Matrix products and the linear layer."""
import numpy as np
from numba import prange

from minigrad.kernels.executor import Kernel
from minigrad.kernels.loops.blas import GEMM, call_gemm, get_threads, set_threads
from minigrad.kernels.loops.compiling import inner, jit
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector.arrays import rows_of
from minigrad.kernels.vector.buffers import empty
from minigrad.ops import linalg

A_B, A_BT, AT_B = range(3)                  # kinds of products: a @ b, a @ b^T, a^T @ b


@inner
def row_step(x):
    """How many elements each row of a matrix starts after the row before it."""
    return max(x.strides[0] // x.itemsize, x.shape[1], 1)           # the stride of a single row may be anything


@inner
def gemm(kind, a, b, c, alpha, beta):
    """c = alpha * product + beta * c, for matrices whose rows are contiguous. BLAS stores matrices column by column: in
    its eyes a is a^T, and the product is c^T = b^T @ a^T."""
    call_gemm(np.uint8(84 if kind == A_BT else 78), np.uint8(84 if kind == AT_B else 78),   # the letters T and N
              c.shape[1], c.shape[0], a.shape[0] if kind == AT_B else a.shape[1],
              alpha, b.ctypes.data, row_step(b), a.ctypes.data, row_step(a), beta, c.ctypes.data, row_step(c))


@jit
def product(kind, a, b, bias, c, by_rows, n):
    """c (N, M) = product + bias. Each thread computes some rows of c, or some columns. bias: (M,), or (0,) for none."""
    N, M = c.shape
    T = c.dtype.type
    blas_threads = get_threads()
    set_threads(1)
    for part in prange(n):
        top, bottom = (N * part // n, N * (part + 1) // n) if by_rows else (0, N)
        left, right = (0, M) if by_rows else (M * part // n, M * (part + 1) // n)
        gemm(kind, a[:, top:bottom] if kind == AT_B else a[top:bottom, :],
             b[left:right, :] if kind == A_BT else b[:, left:right], c[top:bottom, left:right], T(1), T(0))
        if bias.size:
            added = bias[left:right]
            for i in range(top, bottom):
                y = c[i][left:right]
                for j in range(y.size):
                    y[j] += added[j]
    set_threads(blas_threads)


@jit
def sum_rows(x, total, n):
    """total (C,) = the sum of the rows of x (N, C), added up in float64. Each thread adds some of the columns."""
    N, C = x.shape
    for part in prange(n):
        left, right = C * part // n, C * (part + 1) // n
        sums = np.zeros(right - left)
        for i in range(N):
            row = x[i][left:right]
            for j in range(row.size):
                sums[j] += row[j]
        total[left:right] = sums


def matmul(a, b, out, bias=None):
    """out (N, M) = a @ b + bias. BLAS reads a or b where it is, if it is contiguous or transposed; else a copy. A
    single row is multiplied by NumPy, whose gemv reads b once, where gemm copies it first."""
    (N, M), K = out.shape, len(b)
    if not (GEMM and out.size and K) or N == 1:
        np.matmul(a, b, out=out)
        if bias is not None:
            out += bias
        return
    n = parts(out.size * K, 0.02)                                   # nanoseconds for each multiplication
    kind = AT_B if a.flags.fnc else A_BT if b.flags.fnc else A_B    # fnc: the transpose of a contiguous one
    a, b = a.T if kind == AT_B else a, b.T if kind == A_BT else b
    bias = np.empty(0, out.dtype) if bias is None else bias
    product(kind, *map(np.ascontiguousarray, (a, b, bias)), out, N >= M if kind == AT_B else N >= 32 * n, n)


class Linear(Kernel, linalg.Linear, register=False):
    """y = x @ w + b    dx = dy @ w^T    dw = x^T @ dy    db = the sum of the rows of dy

    Where w needs no gradient, the graph drops x."""
    unaliased = 0, 1, 2

    def forward(self, x, w, b=None):
        self.check(x, w, b)
        x2 = rows_of(x)                                             # (N, I)
        y = empty((len(x2), w.shape[1]), x.dtype)                   # (N, O)
        matmul(x2, w, y, b)
        self.save(x2=x2 if self.needs[1] else None, w=w, shape=x.shape)
        self.drops = () if self.needs[1] else (0,)
        return y.reshape(x.shape[:-1] + w.shape[1:])

    def backward(self, dy, x2, w, shape):
        dy2, dx, dw, db = rows_of(dy), None, None, None             # (N, O)
        if self.needs[0]:
            dx = empty((len(dy2), len(w)), dy.dtype)
            matmul(dy2, w.T, dx)
            dx = dx.reshape(shape)
        if self.needs[1]:
            dw = empty(w.shape, dy.dtype)
            matmul(x2.T, dy2, dw)
        if any(self.needs[2:]):
            db = empty(dy2.shape[1:], dy.dtype)
            sum_rows(dy2, db, parts(dy2.size, 0.2))
        return (dx, dw, db)[:len(self.needs)]
