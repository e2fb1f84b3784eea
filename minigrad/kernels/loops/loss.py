"""Cross-entropy, alone and with the linear layer before it: the forward computes the gradients with the loss, from the
same exponentials."""
import numpy as np
from numba import prange

from minigrad.kernels.loops.compiling import jit
from minigrad.kernels.loops.linalg import matmul
from minigrad.kernels.loops.math import exp, largest
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector import loss as vector


@jit
def cross_entropy(z, t, share, losses, n):
    """Write the losses (N,) of logits z (N, V) with targets t (N,), each times its share (N,) of the result, and over z
    the gradient of their sum. A row with a share of 0 may hold anything.

    p = exp(z - max(z)) / sum(exp(z - max(z)))    loss = -log(p[t]) share    dz = (p - onehot(t)) share
    """
    N, V = z.shape
    number = z.dtype.type
    for part in prange(n):
        for i in range(N * part // n, N * (part + 1) // n):
            z_i, target = z[i], t[i]
            if share[i] == 0:
                for j in range(V):
                    z_i[j] = number(0)
                losses[i] = number(0)
                continue
            most = largest(z_i)
            picked, total = z_i[target] - most, 0.0                 # total: float64
            for j in range(V):
                z_i[j] = exp(z_i[j] - most)
                total += z_i[j]
            scale = number(share[i] / total)
            for j in range(V):
                z_i[j] *= scale
            z_i[target] -= share[i]
            losses[i] = number(np.log(total) - picked) * share[i]


def losses_and_gradient(z, t, counted, share, dz):
    """As the vector kernels' function of this name."""
    losses, dz = np.empty(len(z), z.dtype), np.empty_like(z) if dz is None else dz
    if dz is not z:
        dz[...] = z
    cross_entropy(dz, t.astype(np.int64, copy=False), share, losses, parts(z.size, 0.7))
    return losses


class CrossEntropy(vector.CrossEntropy, register=False):
    min_size = 64
    losses = staticmethod(losses_and_gradient)


class LinearCrossEntropy(vector.LinearCrossEntropy, register=False):
    min_size = 64
    losses, product = staticmethod(losses_and_gradient), staticmethod(matmul)
