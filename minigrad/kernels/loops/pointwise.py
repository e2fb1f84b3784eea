"""GELU, and the gradient of an addition to each element of a batch."""
import numpy as np
from numba import prange

from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.linalg import sum_rows
from minigrad.kernels.loops.math import exp
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector import pointwise as vector
from minigrad.kernels.vector.arrays import empty_like
from minigrad.kernels.vector.buffers import empty
from minigrad.ops import pointwise

FAR = pointwise.Gelu.far


@jit
def gelu(x, y, slope, k, c, n):
    """y and its derivative, slope, for x; all (N,).

    z = (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)),  u = k (x + c x^3)
    y = x * z    slope = z + 2 x * z * (1 - z) * du,  du = k (1 + 3 c x^2)    z is 0 or 1 to all digits if |x| > 10
    """
    N, number = x.size, x.dtype.type
    zero, one, two, three, far = number(0), number(1), number(2), number(3), number(FAR)
    for part in prange(n):
        here = slice(N * part // n, N * (part + 1) // n)
        x_here, y_here, slope_here = x[here], y[here], slope[here]
        for i in range(x_here.size):
            v = x_here[i]
            q = c * v * v
            z = one / (one + exp(-two * k * v * (one + q)))
            d = z + two * k * v * z * (one - z) * (one + three * q)
            y_here[i] = v if v > far else zero if v < -far else v * z
            slope_here[i] = one if v > far else zero if v < -far else d


class Add(vector.Add, register=False):
    """The forward is NumPy's: it is bound by memory. If b was added to each element of a batch, as positions are, the
    backward sums over the batch."""

    def forward(self, a, b):
        self.save(shape=np.shape(b))
        return super().forward(a, b)

    def backward(self, dy, shape):
        if not (self.needs[1] and shape and dy.size) or dy.shape == shape or dy.shape[-len(shape):] != shape:
            return dy, dy                                           # the engine sums over other axes
        db = empty(shape, dy.dtype)
        rows = np.ascontiguousarray(dy).reshape(-1, db.size)        # (batch, elements of b)
        sum_rows(rows, db.reshape(-1), parts(rows.size, 0.1))
        return dy, db


class Gelu(vector.Gelu, register=False):
    """Saves slope; the backward is NumPy's product of dy and slope, which is bound by memory too."""

    min_size = 64

    def forward(self, x):
        x1 = np.ascontiguousarray(x).reshape(-1)
        y, slope, number = empty_like(x1), empty_like(x1), x1.dtype.type
        gelu(x1, y, slope, number(self.k), number(self.c), parts(x1.size, 0.4))
        self.save(slope=slope, shape=x.shape)
        return y.reshape(x.shape)
