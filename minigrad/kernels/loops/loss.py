"""Cross-entropy, alone and with the linear layer before it: the forward computes the gradients with the loss."""
import numpy as np
from numba import prange

from minigrad.kernels.loops.compiling import inner, jit
from minigrad.kernels.loops.math import exp
from minigrad.kernels.loops.threads import parts

BLOCK = 1024                                    # numbers whose sum in float32 loses no digits


@jit
def cross_entropy(z, t, share, losses, n):
    """For logits z (N, V), targets t (N,) and the share (N,) of each row in the result, write the losses (N,) of the
    rows, and over z the gradient of their sum. A row whose share is 0 may hold anything.

    p = exp(z - max(z)) / sum(exp(z - max(z)))    loss = -log(p[t]) * share    dz = (p - onehot(t)) * share
    """
    N, V = z.shape
    number = z.dtype.type
    for part in prange(n):
        for i in range(N * part // n, N * (part + 1) // n):
            z_i, target = z[i], t[i]
            if share[i] == 0:
                losses[i] = number(0)
                for j in range(V):
                    z_i[j] = number(0)
                continue
            most = z_i[0]
            for j in range(V):
                most = max(most, z_i[j])
            picked = z_i[target] - most
            total = 0.0
            for j in range(V):
                z_i[j] = exp(z_i[j] - most)
                total += z_i[j]
            scale = number(share[i] / total)
            for j in range(V):
                z_i[j] *= scale
            z_i[target] -= share[i]
            losses[i] = number(np.log(total) - picked) * share[i]
