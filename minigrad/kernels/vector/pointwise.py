"""Addition and GELU."""
import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import empty_like, pieces, scratch
from minigrad.kernels.vector.buffers import empty
from minigrad.ops import pointwise


class Add(Kernel, pointwise.Add, register=False):
    """y = a + b, written to reused memory. The backward needs neither a nor b, so the graph drops them."""
    drops = 0, 1

    def forward(self, a, b):
        shape = np.broadcast_shapes(np.shape(a), np.shape(b))
        return np.add(a, b, out=empty(shape, np.result_type(a, b)))


class Gelu(Kernel, pointwise.Gelu, register=False):
    """Saves the derivative of y, named slope, instead of x: it has the same size, and the backward is one product.

    forward   z = (1 + tanh(k (x + c x^3))) / 2    y = x z    slope = z + 2 x (1 - z) z du,  du = k (1 + 3 c x^2)
    backward  dx = dy * slope

    A piece with an |x| > 10 is computed by the textbook's op.
    """
    unaliased = drops = 0,

    def forward(self, x):
        shape, x1 = x.shape, np.ascontiguousarray(x).reshape(-1)
        y = empty_like(x1)
        slope = empty_like(x1) if self.needs[0] else None
        for s in pieces(x1):
            self.piece(x1[s], y[s], None if slope is None else slope[s])
        self.save(slope=slope, shape=shape)
        return y.reshape(shape)

    def backward(self, dy, slope, shape):
        dx = slope if self.may_overwrite else empty_like(slope)
        np.multiply(dy.reshape(-1), slope, out=dx)
        return dx.reshape(shape)

    def piece(self, x, y, slope):
        """Compute y (n,), and slope (n,) unless it is None, in place, for x (n,)."""
        z = scratch("z", x, len(x))
        q = z if slope is None else slope
        with np.errstate(over="ignore"):
            np.multiply(x, x, out=q)
        if not q.max(initial=0.0) <= self.far ** 2:                 # also for NaN
            op = pointwise.Gelu()
            op.xp = np
            y[...] = op.forward(x)
            if slope is not None:
                slope[...] = op.backward(np.ones_like(x), **op.saved)
            return
        np.multiply(q, self.k * self.c, out=z)
        z += self.k
        z *= x                                                      # k (x + c x^3)
        np.tanh(z, out=z)
        z *= 0.5
        z += 0.5
        np.multiply(x, z, out=y)
        if slope is not None:
            q *= 6.0 * self.k * self.c
            q += 2.0 * self.k                                       # 2 du
            q *= y
            q *= np.subtract(1.0, z, out=scratch("q", x, len(x)))
            q += z
