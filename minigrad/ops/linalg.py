"""Matrix products."""
import math

import numpy as np

from minigrad.ops.op import Fused, Primitive
from minigrad.ops.sample import Sample
from minigrad.ops.sums import in_float32, total


class Matmul(Primitive):
    """a (..., n, k), b (..., k, m)  ->  y (..., n, m)

    forward   y = a @ b
    backward  da = dy @ b^T    db = a^T @ dy
    why       y_ij = sum over k of a_ik b_kj, so da_ik = sum over j of dy_ij b_kj: both gradients are matrix products.
              If a has one axis it is a row vector, if b has one axis it is a column vector; leading axes broadcast
    identity  y is linear in each factor: sum(da * a) = sum(dy * y); sum(db * b) = sum(dy * y)
    """
    broadcasts = True

    def forward(self, a, b):
        left, right = np.shape(a), np.shape(b)
        if not left or not right or left[-1] != right[-2 if len(right) > 1 else 0]:
            raise ValueError(
                f"matmul: shapes {left} and {right} do not fit: the last axis of the first must be as long "
                "as the second to last axis of the second (its only axis if it is 1-D)"
            )
        self.save(a=a, b=b)
        return self.xp.matmul(a, b)

    def backward(self, dy, a, b):
        xp, row, column = self.xp, a.ndim == 1, b.ndim == 1
        a = xp.expand_dims(a, 0) if row else a
        b = xp.expand_dims(b, 1) if column else b
        dy = xp.expand_dims(dy, -1) if column else dy
        dy = xp.expand_dims(dy, -2) if row else dy
        da = xp.matmul(dy, b.swapaxes(-1, -2)) if self.needs[0] else None     # (..., n, k)
        db = xp.matmul(a.swapaxes(-1, -2), dy) if self.needs[1] else None     # (..., k, m)
        da = xp.squeeze(da, axis=-2) if row and self.needs[0] else da
        db = xp.squeeze(db, axis=-1) if column and self.needs[1] else db
        return da, db

    samples = [
        Sample((2, 3), (3, 5)),
        Sample((3,), (3,)),
        Sample((3,), (3, 5)),
        Sample((2, 3), (3,)),
        Sample((4, 2, 3), (4, 3, 5)),
        Sample((4, 1, 2, 3), (7, 3, 5)),
        Sample((2, 3), (4, 3, 5)),
        Sample((3,), (4, 3, 5)),
        Sample((4, 2, 3), (3,)),
    ]


class Linear(Fused):
    """x (..., I), w (I, O), b (O,)  ->  y (..., O)

    axes      I feature, O feature
    forward   y = x @ w + b [if b is given]    y = x @ w [if b is not given]
    backward  dx = dy @ w^T    dw = x^T @ dy    db = sum_rows(dy) [if b is given]
    why       every row of x is multiplied by the same w, and the same b is added to it. So dw and db are sums over the
              rows; in dw the matrix product x^T dy is that sum
    identity  y depends on x and w only through their product: sum(dx * x) = sum(dw * w);
              b is added to every row: sum(db) = sum(dy)
    """
    wide = True

    @staticmethod
    def check(x, w, b):
        if w.ndim != 2 or x.shape[-1:] != w.shape[:1] or (b is not None and b.shape != w.shape[1:]):
            raise ValueError(f"linear: x {x.shape}, w {w.shape}, b {getattr(b, 'shape', None)} do not fit: "
                             "expected x (..., I), w (I, O), b (O,)")

    def forward(self, x, w, b=None):
        self.check(x, w, b)
        x2 = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])        # (N, I): one product for all rows
        self.save(x2=x2 if self.needs[1] else None, w=w, shape=x.shape)
        y = x2 @ w                                                  # (N, O)
        y = y if b is None else y + b
        return y.reshape(x.shape[:-1] + w.shape[1:])                # (..., O)

    def backward(self, dy, x2, w, shape):
        dy = dy.reshape(math.prod(shape[:-1]), dy.shape[-1])        # (N, O)
        dx = (dy @ w.T).reshape(shape) if self.needs[0] else None
        dw = x2.T @ dy if self.needs[1] else None
        db = total(dy, 0) if self.needs[-1] else None
        return (dx, dw, db)[:len(self.needs)]

    @staticmethod
    @in_float32
    def composed(F, x, w, b=None):
        y = F.matmul(x, w)
        return y if b is None else y + b

    samples = [
        Sample((2, 3), (3, 5), (5,)),
        Sample((4, 2, 3), (3, 5), (5,)),
        Sample((4, 2, 3), (3, 5)),
        Sample((3,), (3, 5), (5,)),
    ]
