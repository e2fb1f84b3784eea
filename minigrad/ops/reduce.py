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

    forward   y = sum_axis(x)
    backward  dx = dy, repeated along the axes that were summed
    why       every x is a term of one sum, and the derivative of a sum with respect to each term is 1
    identity  the gradient of each x is the dy of its sum: sum(dx) = sum(dy) * size(x) / size(y)
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

    forward   n = number of terms of each sum    y = sum_axis(x) / n
    backward  n = number of terms of each sum    dx = dy / n, repeated along the axes that were averaged
    why       each x is divided by n and added, so the derivative of the mean with respect to it is 1 / n
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

    forward   c = x - mean_axis(x)    n = number of terms of each sum    y = sum_axis(c^2) / n [if not ddof]
              y = sum_axis(c^2) / (n - ddof) [if ddof]
    backward  n = number of terms of each sum    dx = 2 c * dy / n [if not ddof]    dx = 2 c * dy / (n - ddof) [if ddof]
    why       the mean depends on x too, but its gradient is 0, because the c sum to 0
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

    forward   y = max_axis(x)
    backward  dx = dy at the largest x, shared equally among equal ones, else 0
    why       y is a copy of the largest x, and this x gets the gradient. NaN counts as larger than any number
    identity  each dy is passed to the largest x: sum(dx) = sum(dy);
              scaling x by s > 0 scales y by s: sum(dx * x) = sum(dy * y)
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

    forward   y = min_axis(x)
    backward  dx = dy at the smallest x, shared equally among equal ones, else 0
    why       y is a copy of the smallest x, and this x gets the gradient. NaN counts as smaller than any number
    identity  each dy is passed to the smallest x: sum(dx) = sum(dy);
              scaling x by s > 0 scales y by s: sum(dx * x) = sum(dy * y)
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

    forward   m = max_axis(x)    e = exp(x - m)    s = sum_axis(e)    y = m + log(s)
    backward  p = softmax_axis(x)    dx = dy * p
    why       the derivative is the softmax of x. Subtracting m and adding it again leaves y unchanged, and exp cannot
              overflow. Where m is infinite, so is y: an x of -inf gets no gradient, those of +inf share it equally
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
