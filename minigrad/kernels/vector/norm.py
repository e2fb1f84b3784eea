"""Layer norm."""
import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import empty_like, ones, pieces, rows_of, scratch, sum_of_rows
from minigrad.ops import norm


class LayerNorm(Kernel, norm.LayerNorm, register=False):
    """The textbook's formulas, computed in place, piece by piece. Sums and means over an axis are products with a
    vector. Inputs whose squares overflow, and inputs of variance 0 if eps is 0, are computed by the textbook's op."""
    unaliased, drops = (0, 1, 2), (0,)

    def forward(self, x, w, b=None, *, eps=1e-5):
        self.check(x, w, b, eps)
        C, x2 = w.shape[0], rows_of(x)                              # (N, C)
        rstd, y = np.empty(len(x2), x2.dtype), empty_like(x2)
        xhat = empty_like(x2) if True in self.needs else y
        of_row = ones(C, x2)                                        # x @ of_row: the sum of each row
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for s in pieces(x2):
                c, r = xhat[s], rstd[s]
                np.subtract(x2[s], (x2[s] @ of_row / C)[:, None], out=c)
                c -= (c @ of_row / C)[:, None]                      # the rounding error of the mean
                np.vecdot(c, c, out=r)
                r /= C                                              # var(x)
                r += eps
                np.sqrt(r, out=r)
                np.divide(1.0, r, out=r)
                c *= r[:, None]
                np.multiply(c, w, out=y[s])
                if b is not None:
                    y[s] += b
        if not 0.0 < rstd.min() <= rstd.max() < np.inf:             # also for NaN
            return super().forward(x, w, b, eps=eps)
        self.save(xhat=xhat, rstd=rstd, w=w, shape=x.shape)
        return y.reshape(x.shape)

    def backward(self, dy, xhat, rstd, w, shape=None):
        if shape is None:                                           # the textbook's forward ran
            return super().backward(dy, xhat, rstd, w)
        C, dy2 = w.shape[0], rows_of(dy)                            # (N, C)
        dx = xhat if self.may_overwrite else empty_like(xhat)
        sums = np.zeros((2, C)) if any(self.needs[1:]) else None    # dw, db
        minus_mean = w * (-1.0 / C)                                 # g @ minus_mean = -mean(g * w)
        for s in pieces(xhat):
            n = s.stop - s.start
            g, d, q = dy2[s], dx[s], scratch("q", xhat, n, C)
            np.multiply(g, xhat[s], out=q)
            if sums is not None:
                sums += sum_of_rows(q), sum_of_rows(g)
            scale, shift = q @ minus_mean, g @ minus_mean           # (rows,): -mean(dxhat * xhat), -mean(dxhat)
            np.multiply(xhat[s], scale[:, None], out=q)
            np.multiply(g, w, out=d)                                # dxhat
            d += q
            d += shift[:, None]
            d *= rstd[s, None]
        dw, db = (None, None) if sums is None else sums.astype(xhat.dtype)
        return (dx.reshape(shape), dw, db)[:len(self.needs)]
