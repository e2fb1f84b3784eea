"""Reductions over `axis`: an integer, a tuple, or all axes if None. With `keepdims` the axes stay, with size 1."""
import math
from typing import Any

import numpy as np

from minigrad.ops.op import Primitive
from minigrad.ops.sample import Sample, distinct
from minigrad.ops.shape import normal_axes
from minigrad.ops.sums import centered, largest, mean, total

AXES: list[dict[str, Any]] = [
    dict(axis=None),
    dict(axis=0),
    dict(axis=-1),
    dict(axis=(0, 2)),
    dict(axis=1, keepdims=True),
    dict(axis=(-1, 0), keepdims=True),
    dict(axis=None, keepdims=True),
]


class Reduction(Primitive, register=False):
    """The base class of reductions."""

    def kept_shape(self, x, axis):
        """The shape of x with the reduced axes of size 1, and how many numbers are reduced to one."""
        axes = normal_axes(self.name, axis, x.ndim)
        kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return kept, math.prod(x.shape[i] for i in axes)


class Sum(Reduction):
    """x; axis, keepdims  ->  y

    forward   y = sum(x)
    backward  dx = dy, repeated for each x
    identity  each x gets the whole dy of the sum that it is in: sum(dx) = sum(dy) * size(x) / size(y)
    """

    def forward(self, x, *, axis=None, keepdims=False):
        kept, n = self.kept_shape(x, axis)
        self.save(shape=x.shape, kept=kept)
        return total(x, axis, keepdims)

    def backward(self, dy, shape, kept):
        return self.xp.broadcast_to(dy.reshape(kept), shape)

    samples = [Sample((3, 4, 5), **a) for a in AXES] + [Sample(())]


class Mean(Reduction):
    """x; axis, keepdims  ->  y

    forward   y = sum(x) / n
    backward  dx = dy / n
    identity  each dy is divided equally among the x of its mean: sum(dx) = sum(dy)
    """
    wide = True

    def forward(self, x, *, axis=None, keepdims=False):
        kept, n = self.kept_shape(x, axis)
        self.save(shape=x.shape, kept=kept, n=max(n, 1))
        return mean(x, axis, keepdims)

    def backward(self, dy, shape, kept, n):
        return self.xp.broadcast_to(dy.reshape(kept) / n, shape)

    samples = [Sample((3, 4, 5), **a) for a in AXES] + [Sample(())]


class Var(Reduction):
    """x; axis, ddof, keepdims  ->  y

    forward   c = x - mean(x)    y = sum(c^2) / (n - ddof)
    backward  dx = dy * 2 c / (n - ddof)
    why       mean(x) depends on x too, but its gradient is 0, because sum(c) = 0
    identity  a constant shift of x leaves y unchanged: sum(dx, axis=axis) = 0;
              scaling x by s scales y by s^2: sum(dx * x) = 2 * sum(dy * y)
    """
    wide = True

    def forward(self, x, *, axis=None, ddof=0, keepdims=False):
        kept, n = self.kept_shape(x, axis)
        if not ddof < n:                        # also for NaN
            raise ValueError(
                f"var: {n} numbers with ddof={ddof} have the divisor {n - ddof}: reduce over more, or lower ddof"
            )
        c = centered(x, axis)
        self.save(c=c, kept=kept, n=n - ddof)
        return total(c * c, axis, keepdims) / (n - ddof)

    def backward(self, dy, c, kept, n):
        return dy.reshape(kept) * (2.0 / n) * c

    samples = [Sample((3, 4, 5), **a) for a in AXES] + [Sample((3, 4, 5), axis=1, ddof=1)]


class Max(Reduction):
    """x; axis, keepdims  ->  y

    forward   y = max(x)
    backward  dx = dy at the largest x, shared equally among equal ones, else 0
    why       NaN counts as the largest of all: it becomes y, and gets the gradient
    identity  each dy goes to the largest x of its maximum: sum(dx) = sum(dy); sum(dx * x) = sum(dy * y)
    """
    wide = True

    def forward(self, x, *, axis=None, keepdims=False):
        kept, n = self.kept_shape(x, axis)
        y = self.xp.max(x, axis=axis, keepdims=keepdims)
        mask = (x == y.reshape(kept)) | (x != x)
        self.save(mask=mask, ties=mask.sum(axis=axis, keepdims=True).astype(x.dtype), kept=kept)
        return y

    def backward(self, dy, mask, ties, kept):
        return self.xp.where(mask, dy.reshape(kept) / ties, 0.0)

    samples = [Sample(distinct(3, 4, 5), **a) for a in AXES]


class Min(Reduction):
    """x; axis, keepdims  ->  y

    forward   y = min(x)
    backward  dx = dy at the smallest x, shared equally among equal ones, else 0
    why       NaN counts as the smallest of all: it becomes y, and gets the gradient
    identity  each dy goes to the smallest x of its minimum: sum(dx) = sum(dy); sum(dx * x) = sum(dy * y)
    """
    wide = True

    def forward(self, x, *, axis=None, keepdims=False):
        kept, n = self.kept_shape(x, axis)
        y = self.xp.min(x, axis=axis, keepdims=keepdims)
        mask = (x == y.reshape(kept)) | (x != x)
        self.save(mask=mask, ties=mask.sum(axis=axis, keepdims=True).astype(x.dtype), kept=kept)
        return y

    def backward(self, dy, mask, ties, kept):
        return self.xp.where(mask, dy.reshape(kept) / ties, 0.0)

    samples = [Sample(distinct(3, 4, 5), **a) for a in AXES]


class Logsumexp(Reduction):
    """x; axis, keepdims  ->  y

    forward   m = max(x)    y = m + log(sum(exp(x - m)))    p = exp(x - m) / sum(exp(x - m))
    backward  dx = dy * p
    why       the derivative is the softmax of x; subtracting m leaves y unchanged and keeps exp from overflowing.
              Where m is infinite, so is y: an x of -inf gets no gradient, those of +inf share it equally
    identity  the derivatives sum to 1, as a constant shift of x shifts y by the same: sum(dx) = sum(dy)
    """
    wide = True

    def forward(self, x, *, axis=None, keepdims=False):
        xp = self.xp
        normal_axes(self.name, axis, x.ndim)
        m = largest(x, axis)
        with np.errstate(invalid="ignore", divide="ignore"):        # inf - inf, and the log of an empty sum
            e = xp.exp(xp.where((x == m) & (abs(m) == math.inf), 0.0, x - m))
            s = total(e, axis, keepdims=True)
            y = m + xp.log(s)
        self.save(p=xp.where(x == -math.inf, 0.0, e / s), shape=y.shape)
        return y if keepdims else xp.squeeze(y, axis=axis)

    def backward(self, dy, p, shape):
        return dy.reshape(shape) * p

    samples = [Sample((3, 4, 5), **a) for a in AXES]
