"""Layer norm."""
import math

import numpy as np
from numba import prange

from minigrad.kernels.executor import Kernel
from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector.arrays import empty_like, rows_of
from minigrad.ops import norm

LONGEST = 1 << 14                               # of longer rows, sums in float32 would lose digits


@jit
def layer_norm(x, w, b, eps, xhat, rstd, y, n):
    """Write xhat, y (N, C) and rstd (N,), for x (N, C) and w, b (C,).

    rstd = 1 / sqrt(var(x) + eps)    xhat = (x - mean(x)) * rstd    y = xhat * w + b
    """
    N, C = x.shape
    number = x.dtype.type
    for part in prange(n):
        for i in range(N * part // n, N * (part + 1) // n):
            x_i, h, y_i = x[i], xhat[i], y[i]
            total = number(0)
            for j in range(C):
                total += x_i[j]
            mean = total / number(C)
            total = number(0)
            for j in range(C):
                h[j] = x_i[j] - mean
                total += h[j]
            mean = total / number(C)                                # the rounding error of the mean
            squares = number(0)
            for j in range(C):
                h[j] -= mean
                squares += h[j] * h[j]
            r = number(1) / np.sqrt(squares / number(C) + eps)
            rstd[i] = r if 0 < r < np.inf else np.nan
            for j in range(C):
                h[j] *= r
                y_i[j] = h[j] * w[j] + b[j]


@jit
def layer_norm_backward(dy, xhat, rstd, w, sums, n):
    """Write dx (N, C) over xhat, and the sums of dw and db over the rows of each thread to sums (n, 2, C), or nothing
    to sums (n, 2, 0).

    dw = sum_rows(dy * xhat)    db = sum_rows(dy)    dxhat = dy * w    shift = mean(dxhat)    scale = mean(dxhat * xhat)
    dx = rstd * (dxhat - shift - xhat * scale)
    """
    N, C = dy.shape
    number = dy.dtype.type
    for part in prange(n):
        dw, db = sums[part, 0], sums[part, 1]                       # float64
        for i in range(N * part // n, N * (part + 1) // n):
            dy_i, h, r = dy[i], xhat[i], rstd[i]
            total, product = 0.0, 0.0
            if dw.size:
                for j in range(C):
                    dxhat = dy_i[j] * w[j]
                    total += dxhat
                    product += dxhat * h[j]
                    dw[j] += dy_i[j] * h[j]
                    db[j] += dy_i[j]
            else:
                for j in range(C):
                    dxhat = dy_i[j] * w[j]
                    total += dxhat
                    product += dxhat * h[j]
            shift, scale = number(total / C), number(product / C)
            for j in range(C):
                h[j] = r * (dy_i[j] * w[j] - shift - h[j] * scale)


class LayerNorm(Kernel, norm.LayerNorm, register=False):
    """The textbook's op computes very long rows, rows whose squares overflow, and rows of variance 0 if eps is 0."""
    unaliased, drops, min_size = (0, 1, 2), (0,), 64

    def forward(self, x, w, b=None, *, eps=1e-5):
        self.check(x, w, b, eps)
        if w.size > LONGEST:
            return super().forward(x, w, b, eps=eps)
        x2, w = rows_of(x), np.ascontiguousarray(w)                 # (N, C), (C,)
        rstd, xhat, y = np.empty(len(x2), x2.dtype), empty_like(x2), empty_like(x2)
        b_or_0 = np.zeros_like(w) if b is None else np.ascontiguousarray(b)
        layer_norm(x2, w, b_or_0, x2.dtype.type(eps), xhat, rstd, y, parts(x2.size, 0.4))
        if math.isnan(rstd.sum()):
            return super().forward(x, w, b, eps=eps)
        self.save(xhat=xhat, rstd=rstd, w=w, shape=x.shape)
        return y.reshape(x.shape)

    def backward(self, dy, xhat, rstd, w, shape=None):
        if shape is None:                                           # the textbook's forward ran
            return super().backward(dy, xhat, rstd, w)
        dx, n = xhat if self.may_overwrite else xhat.copy(), parts(xhat.size, 0.4)
        sums = np.zeros((n, 2, len(w) if any(self.needs[1:]) else 0))
        layer_norm_backward(rows_of(dy), dx, rstd, w, sums, n)
        dw, db = sums.sum(axis=0).astype(dx.dtype) if any(self.needs[1:]) else (None, None)
        return (dx.reshape(shape), dw, db)[:len(self.needs)]
