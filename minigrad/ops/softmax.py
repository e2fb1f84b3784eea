"""Softmax and its logarithm."""
from minigrad.ops.op import Fused
from minigrad.ops.sample import Sample
from minigrad.ops.shape import normal_axes


class Softmax(Fused):
    """x; axis  ->  p

    forward   p = exp(x - max(x)) / sum(exp(x - max(x)))
    backward  dx = p * (dy - sum(dy * p))
    why       every p of a row depends on every x of the row, as the p sum to 1: the second term is that coupling
    identity  each row of dx sums to 0, as a constant shift of the row leaves p unchanged: sum(dx, axis=axis) = 0
    """

    def forward(self, x, *, axis=-1):
        normal_axes("softmax", (axis,), x.ndim)
        xp = self.xp
        e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
        p = e / xp.sum(e, axis=axis, keepdims=True)
        self.save(p=p, axis=axis)
        return p

    def backward(self, dy, p, axis):
        row = (dy * p).sum(axis=axis, keepdims=True)
        return p * (dy - row)

    @staticmethod
    def composed(F, x, *, axis=-1):
        return F.exp(x - F.logsumexp(x, axis=axis, keepdims=True))

    samples = [Sample((3, 5)), Sample((2, 3, 5), axis=1), Sample((4,), axis=0)]


class LogSoftmax(Fused):
    """x; axis  ->  y

    forward   m = max(x)    y = x - m - log(sum(exp(x - m)))
    backward  dx = dy - exp(y) * sum(dy)
    identity  each row of dx sums to 0, as a constant shift of the row leaves y unchanged: sum(dx, axis=axis) = 0
    """

    def forward(self, x, *, axis=-1):
        normal_axes("log_softmax", (axis,), x.ndim)
        xp = self.xp
        shifted = x - xp.max(x, axis=axis, keepdims=True)
        y = shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))
        self.save(y=y, axis=axis)
        return y

    def backward(self, dy, y, axis):
        row = dy.sum(axis=axis, keepdims=True)
        return dy - self.xp.exp(y) * row

    @staticmethod
    def composed(F, x, *, axis=-1):
        return x - F.logsumexp(x, axis=axis, keepdims=True)

    samples = [Sample((3, 5)), Sample((2, 3, 5), axis=1), Sample((4,), axis=0)]
