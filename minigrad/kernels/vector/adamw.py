"""AdamW and clipping in place."""
import math
from itertools import accumulate

import numpy as np

from minigrad.kernels.vector.arrays import partition, scratch
from minigrad.kernels.vector.settings import settings
from minigrad.ops.sums import joint_norm


def adamw_in_place(params, grads, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
    """A step of the op adamw, written over params, a list of arrays, and over m and v, 1-D arrays of the moments of all
    params one after the other. m and v are updated a stretch at a time, across the borders of parameters: a few long
    NumPy calls take less time than several for each parameter."""
    flat = [p.reshape(-1) for p in params]                          # views; copies of those that are not contiguous
    rest = list(zip(flat, (g.reshape(-1) for g in grads)))[::-1]    # the next pair is the last
    for s in partition(m.size, settings.stretch):
        pairs, missing = [], s.stop - s.start                       # the parts of p and g that belong to this stretch
        while missing:
            p, g = rest.pop()
            if p.size > missing:
                rest.append((p[missing:], g[missing:]))
            pairs.append((p[:missing], g[:missing]))
            missing -= pairs[-1][0].size
        _step(pairs, m[s], v[s], lr, beta1, beta2, eps, weight_decay, t)
    write_back(params, flat)


def _step(pairs, m, v, lr, beta1, beta2, eps, weight_decay, t):
    """The formulas of adamw, written over m, v and the p of each pair (p, g)."""
    c1, c2 = 1.0 - beta1 ** t, 1.0 - beta2 ** t
    q = scratch("q", m, m.size)
    ends = list(accumulate(g.size for _, g in pairs))
    parts = [(p, g, q[end - g.size:end]) for (p, g), end in zip(pairs, ends)]

    for _, g, part in parts:
        np.multiply(g, 1.0 - beta1, out=part)
    m *= beta1
    m += q
    for _, g, part in parts:
        np.multiply(g, math.sqrt(1.0 - beta2), out=part)
    q *= q
    v *= beta2
    v += q
    np.sqrt(v, out=q)
    q += eps * math.sqrt(c2)                                        # sqrt(c2) (r + eps)
    np.divide(m, q, out=q)
    q *= lr * math.sqrt(c2) / c1                                    # lr u
    for p, _, part in parts:
        if weight_decay:
            p *= 1.0 - lr * weight_decay
        p -= part


def norm_of(grads):
    """The joint L2 norm of gradients, a 0-d array."""
    flat = [g.reshape(-1) for g in grads]
    parts = [g[i:i + settings.stretch] for g in flat for i in range(0, g.size, settings.stretch)]
    with np.errstate(over="ignore"):
        norm = math.sqrt(sum(float(part @ part) for part in parts))
    if not 1e-15 < norm < math.inf:                                 # squares may be too small or too large for float32
        return joint_norm(np, parts)
    return np.asarray(norm)


def clip_in_place(grads, max_norm, norm):
    """Scale gradients of this joint L2 norm in place to a norm of at most max_norm."""
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1.0:                                            # also for NaN
        for g in grads:
            g *= scale


def write_back(arrays, flat):
    """Copy each 1-D array of `flat` into the array that it was made from by reshape(-1), if it is not a view of it."""
    for a, new in zip(arrays, flat):
        if not a.flags.c_contiguous:
            a[...] = new.reshape(a.shape)
