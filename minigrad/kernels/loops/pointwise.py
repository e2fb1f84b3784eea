"""Addition and GELU, and the sum of rows, which is the gradient of what was added to each row."""
import numpy as np
from numba import prange

from minigrad.kernels.executor import Kernel
from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.math import exp
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector import pointwise as vector
from minigrad.kernels.vector.arrays import empty_like
from minigrad.ops import pointwise


FAR = pointwise.Gelu.far


@jit
def add(a, b, y, n):
    """y = a + b; all (N,)."""
    N = y.size
    for part in prange(n):
        here = slice(N * part // n, N * (part + 1) // n)
        a_here, b_here, y_here = a[here], b[here], y[here]
        for i in range(y_here.size):
            y_here[i] = a_here[i] + b_here[i]


@jit
def gelu(x, y, slope, k, c, n):
    """y and its derivative, slope, for x; all (N,).

    z = (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)),  u = k (x + c x^3)
    y = x z    slope = z + 2 x (1 - z) z du,  du = k (1 + 3 c x^2)    where |x| > 10, z is 0 or 1 to all digits
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
            s = z + two * k * v * z * (one - z) * (one + three * q)
            z = v * z
            z = v if v > far else z
            s = one if v > far else s
            y_here[i] = zero if v < -far else z
            slope_here[i] = zero if v < -far else s


@jit
def multiply(a, b, n):
    """a *= b; both (N,)."""
    N = a.size
    for part in prange(n):
        here = slice(N * part // n, N * (part + 1) // n)
        a_here, b_here = a[here], b[here]
        for i in range(a_here.size):
            a_here[i] *= b_here[i]
