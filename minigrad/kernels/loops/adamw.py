"""AdamW and clipping in place."""
import math

import numpy as np
from numba import prange

from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.threads import parts


@jit
def adamw(p, g, m, v, beta1, beta2, decay, rate, eps, n):
    """m = beta1 m + (1 - beta1) g    v = beta2 v + (1 - beta2) g^2    p = decay p - rate m / (sqrt(v) + eps)"""
    N, one = p.size, m.dtype.type(1)
    for part in prange(n):
        here = slice(N * part // n, N * (part + 1) // n)
        p_here, g_here, m_here, v_here = p[here], g[here], m[here], v[here]
        for i in range(p_here.size):
            m_here[i] = beta1 * m_here[i] + (one - beta1) * g_here[i]
            v_here[i] = beta2 * v_here[i] + (one - beta2) * g_here[i] * g_here[i]
            p_here[i] = decay * p_here[i] - rate * m_here[i] / (np.sqrt(v_here[i]) + eps)


@jit
def sum_of_squares(a, sums, n):
    """sums (n,): that of a's elements for each thread, in float64."""
    N = a.size
    for part in prange(n):
        here, total = a[N * part // n:N * (part + 1) // n], 0.0
        for i in range(here.size):
            total += np.float64(here[i]) * np.float64(here[i])
        sums[part] = total


@jit
def scale(a, by, n):
    """a *= by"""
    N = a.size
    for part in prange(n):
        here = a[N * part // n:N * (part + 1) // n]
        for i in range(here.size):
            here[i] *= by
