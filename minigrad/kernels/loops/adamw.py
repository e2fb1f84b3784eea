"""AdamW in place."""
import math

import numpy as np
from numba import prange

from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector.adamw import write_back


@jit
def adamw(p, g, m, v, beta1, beta2, rest1, rest2, decay, rate, eps, n):
    """m = beta1 m + rest1 g    v = beta2 v + rest2 g^2    p = decay p - rate m / (sqrt(v) + eps)"""
    N = p.size
    for part in prange(n):
        here = slice(N * part // n, N * (part + 1) // n)
        p_here, g_here, m_here, v_here = p[here], g[here], m[here], v[here]
        for i in range(p_here.size):
            m_here[i] = beta1 * m_here[i] + rest1 * g_here[i]
            v_here[i] = beta2 * v_here[i] + rest2 * g_here[i] * g_here[i]
            p_here[i] = decay * p_here[i] - rate * m_here[i] / (np.sqrt(v_here[i]) + eps)


def adamw_in_place(params, grads, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
    """A step of the op adamw, written over params, a list of arrays, and over m and v, 1-D arrays of the moments of all
    params one after the other.

    With c1 = 1 - beta1^t and c2 = 1 - beta2^t, lr m / c1 / (sqrt(v / c2) + eps) is rate m / (sqrt(v) + sqrt(c2) eps).
    rest1 = 1 - beta1 and rest2 = 1 - beta2 are computed in float64: the 1 - 0.999 of float32 is 1e-5 off.
    """
    root, end = math.sqrt(1.0 - beta2 ** t), 0                      # sqrt(c2)
    rate = lr * root / (1.0 - beta1 ** t)
    hyper = [m.dtype.type(h)
             for h in (beta1, beta2, 1.0 - beta1, 1.0 - beta2, 1.0 - lr * weight_decay, rate, eps * root)]
    flat = [p.reshape(-1) for p in params]                          # views; copies of those that are not contiguous
    for p, g in zip(flat, grads):
        start, end = end, end + p.size
        adamw(p, g.reshape(-1), m[start:end], v[start:end], *hyper, parts(p.size, 0.6))
    write_back(params, flat)
