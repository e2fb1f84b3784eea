"""Layer norm."""
import math

from minigrad.ops.op import Fused
from minigrad.ops.sample import Sample
from minigrad.ops.sums import centered, in_float32, largest, mean, root_mean_square, total


class LayerNorm(Fused):
    """x (..., C), w (C,), b (C,); eps  ->  y (..., C)

    axes      C feature
    forward   rstd = 1 / sqrt(var_feature(x) + eps)    xhat = (x - mean_feature(x)) * rstd
              y = xhat * w + b [if b is given]    y = xhat * w [if b is not given]
    backward  dw = sum_rows(dy * xhat)    db = sum_rows(dy) [if b is given]    dxhat = dy * w
              shift = mean_feature(dxhat)    scale = mean_feature(dxhat * xhat)
              dx = rstd * (dxhat - shift - xhat * scale)
    why       adding a number to a row of x, or multiplying the row by one, leaves y unchanged. So a row of dx must be
              orthogonal to a row of ones and to xhat: subtracting the two means makes it so
    identity  each row of dx sums to 0: sum(dx, axis=-1) = 0; each row of dx is orthogonal to xhat, if eps is 0:
              sum(dx * xhat, axis=-1, keepdims=True) = eps * rstd**3 * sum(dxhat * xhat, axis=-1, keepdims=True)
    source    Ba, Kiros & Hinton 2016, "Layer normalization"
    """
    wide = True

    @staticmethod
    def check(x, w, b, eps):
        C = x.shape[-1] if x.ndim else 0
        if w.shape != (C,) or (b is not None and b.shape != (C,)):
            raise ValueError(f"layer_norm: x {x.shape}, w {w.shape}, b {getattr(b, 'shape', None)} do not fit: "
                             "expected x (..., C), w (C,), b (C,)")
        if not 0.0 <= eps < math.inf:
            raise ValueError(f"layer_norm: eps must be a finite number of 0 or more, got {eps}")

    def forward(self, x, w, b=None, *, eps=1e-5):
        self.check(x, w, b, eps)
        c = centered(x, axis=-1)
        std = root_mean_square(self.xp, c, axis=-1)                 # (..., 1)
        rstd = 1.0 / self.xp.hypot(std, math.sqrt(eps))             # 1 / sqrt(var(x) + eps), where var(x) may overflow
        xhat = c * rstd
        self.save(xhat=xhat, rstd=rstd, w=w)
        y = xhat * w
        return y if b is None else y + b

    def backward(self, dy, xhat, rstd, w):
        rows = tuple(range(dy.ndim - 1))
        dw = total(dy * xhat, rows) if self.needs[1] else None
        db = total(dy, rows) if self.needs[-1] else None
        dxhat = dy * w
        shift = mean(dxhat, -1, keepdims=True)                      # (..., 1)
        scale = mean(dxhat * xhat, -1, keepdims=True)               # (..., 1)
        dx = rstd * (dxhat - shift - xhat * scale)
        return (dx, dw, db)[:len(self.needs)]

    @staticmethod
    @in_float32
    def composed(F, x, w, b=None, *, eps=1e-5):
        LayerNorm.check(x, w, b, eps)
        c = x - F.mean(x, axis=-1, keepdims=True)
        c = c - F.mean(c, axis=-1, keepdims=True)                   # the rounding error of the mean
        size = F.maximum(largest(abs(c.detach()), -1), 1e-15)       # a constant: it cancels, and no square overflows
        c = c / size
        rstd = 1.0 / F.sqrt(F.mean(c * c, axis=-1, keepdims=True) + eps / size / size)
        y = c * rstd * w
        return y if b is None else y + b

    samples = [
        Sample((2, 7), (7,), (7,)),
        Sample((2, 3, 5), (5,), (5,)),
        Sample((2, 3, 5), (5,)),
        Sample((5,), (5,), (5,), eps=0.1),
    ]
