"""Softmax and its logarithm."""
from minigrad.ops.op import Fused
from minigrad.ops.sample import Sample
from minigrad.ops.shape import normal_axes
from minigrad.ops.sums import in_float32, largest, total


class Softmax(Fused):
    """x; axis  ->  p

    forward   e = exp(x - max_axis(x))    p = e / sum_axis(e)
    backward  row = sum_axis(dy * p)    dx = p * (dy - row)
    why       every p of a row depends on every x of the row, because all are divided by one sum: a larger x raises its
              own p and lowers the others. Subtracting the sum of dy * p over the row accounts for the others
    identity  each row of dx sums to 0, as a constant shift of the row leaves p unchanged: sum(dx, axis=axis) = 0
    """
    wide = True

    def forward(self, x, *, axis=-1):
        normal_axes("softmax", (axis,), x.ndim)
        e = self.xp.exp(x - largest(x, axis))
        p = e / total(e, axis, keepdims=True)
        self.save(p=p, axis=axis)
        return p

    def backward(self, dy, p, axis):
        row = total(dy * p, axis, keepdims=True)
        return p * (dy - row)

    @staticmethod
    @in_float32
    def composed(F, x, *, axis=-1):
        e = F.exp(x - largest(x.detach(), axis))                    # the maximum is a constant: it cancels
        return e / F.sum(e, axis=axis, keepdims=True)

    samples = [Sample((3, 5)), Sample((2, 3, 5), axis=1), Sample((4,), axis=0)]


class LogSoftmax(Fused):
    """x; axis  ->  y

    forward   shifted = x - max_axis(x)    y = shifted - log(sum_axis(exp(shifted)))
    backward  row = sum_axis(dy)    dx = dy - exp(y) * row
    why       exp(y) is the softmax of x, the derivative of the logarithm of the sum
    identity  each row of dx sums to 0, as a constant shift of the row leaves y unchanged: sum(dx, axis=axis) = 0
    """
    wide = True

    def forward(self, x, *, axis=-1):
        normal_axes("log_softmax", (axis,), x.ndim)
        xp = self.xp
        shifted = x - largest(x, axis)
        y = shifted - xp.log(total(xp.exp(shifted), axis, keepdims=True))
        self.save(y=y, axis=axis)
        return y

    def backward(self, dy, y, axis):
        row = total(dy, axis, keepdims=True)
        return dy - self.xp.exp(y) * row

    @staticmethod
    @in_float32
    def composed(F, x, *, axis=-1):
        shifted = x - largest(x.detach(), axis)                     # the maximum is a constant: it cancels
        return shifted - F.logsumexp(shifted, axis=axis, keepdims=True)

    samples = [Sample((3, 5)), Sample((2, 3, 5), axis=1), Sample((4,), axis=0)]
