"""Twelve ops with a classic mistake in their backward, which runs, has the right shapes, and trains.

A check of gradients must find all of them: see the exercise `checker` of docs/gradcheck.md. Each derives from the right
op and overrides its backward; its docstring says what the mistake is.
"""
import math

import numpy as np

from minigrad.ops.attention import Attention
from minigrad.ops.embedding import Embedding
from minigrad.ops.linalg import Linear, Matmul
from minigrad.ops.loss import CrossEntropy
from minigrad.ops.norm import LayerNorm
from minigrad.ops.op import Op
from minigrad.ops.pointwise import Mul
from minigrad.ops.reduce import Mean
from minigrad.ops.shape import Transpose
from minigrad.ops.sample import Sample
from minigrad.ops.softmax import Softmax


class BiasAveraged(Linear, register=False):
    """db is the mean over the rows, not the sum"""

    def backward(self, dy, x2, w, shape):
        dx, dw, *_ = super().backward(dy, x2, w, shape)
        return (dx, dw, dy.reshape(-1, dy.shape[-1]).mean(axis=0))[:len(self.needs)]


class MulForgetsFactor(Mul, register=False):
    """db is a sum of dy alone: the other factor is forgotten"""

    def backward(self, dy, a, b):
        da, db = super().backward(dy, a, b)
        return da, dy


class MatmulReshapesB(Matmul, register=False):
    """da is dy @ b: b is made to fit by a reshape, not transposed"""

    def backward(self, dy, a, b):
        da, db = super().backward(dy, a, b)
        if min(a.ndim, b.ndim) > 1:
            da = dy @ b.reshape(b.swapaxes(-1, -2).shape)
        return da, db


class TransposeReshapes(Transpose, register=False):
    """a reshape makes the shape right and the order wrong"""

    def backward(self, dy, inverse):
        return dy.reshape([dy.shape[i] for i in inverse])


class MeanDividesBySize(Mean, register=False):
    """dy is divided by the size of x, not by the length of the axes averaged over"""

    def backward(self, dy, shape, kept, n):
        return self.xp.broadcast_to(dy.reshape(kept) / math.prod(shape), shape)


class SoftmaxNotCoupled(Softmax, register=False):
    """p * dy, as for an elementwise function: the term that couples the row is missing"""

    def backward(self, dy, p, axis):
        return p * dy


class SoftmaxZero(Softmax, register=False):
    """returns zeros"""

    def backward(self, dy, p, axis):
        return 0.0 * dy


class CrossEntropyDividesByV(CrossEntropy, register=False):
    """divided by the size of the vocabulary, not by the number of targets"""

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        return super().backward(dy, z, m, total, t, counted, z.shape[1], s, shape)


class CrossEntropyIgnoresDy(CrossEntropy, register=False):
    """the incoming gradient is taken to be 1"""

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        return super().backward(self.xp.ones_like(dy), z, m, total, t, counted, n, s, shape)


class LayerNormForgetsVariance(LayerNorm, register=False):
    """the projection on xhat is not subtracted, as if var(x) did not depend on x"""

    def backward(self, dy, xhat, rstd, w):
        dxhat = dy * w
        shift = dxhat.mean(axis=-1, keepdims=True)
        dx = rstd * (dxhat - shift)
        return (dx, *super().backward(dy, xhat, rstd, w)[1:])


class EmbeddingLosesRepeats(Embedding, register=False):
    """dw[idx] += dy keeps one of several gradients of the same row"""

    def backward(self, dy, idx, shape):
        dw = self.xp.zeros(shape, dy.dtype)
        dw[idx] += dy
        return dw


class AttentionForgetsScale(Attention, register=False):
    """dq and dk without 1 / sqrt(D)"""

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        return super().backward(dy, q, k, v, P, keep, dropout, 1.0)


WRONG: dict[type[Op], Sample] = {
    BiasAveraged: Sample((4, 3), (3, 5), (5,)),
    MulForgetsFactor: Sample((2, 3), (2, 3)),
    MatmulReshapesB: Sample((2, 3), (3, 5)),
    TransposeReshapes: Sample((2, 3, 5), axes=(1, 2, 0)),
    MeanDividesBySize: Sample((3, 5), axis=1),
    SoftmaxNotCoupled: Sample((3, 5)),
    SoftmaxZero: Sample((3, 5)),
    CrossEntropyDividesByV: Sample((3, 5), targets=np.array([1, 0, 3])),
    CrossEntropyIgnoresDy: Sample((3, 5), targets=np.array([1, 0, 3])),
    LayerNormForgetsVariance: Sample((2, 6), (6,), (6,)),
    EmbeddingLosesRepeats: Sample((7, 3), idx=np.array([1, 3, 1, 0, 1, 6])),
    AttentionForgetsScale: Sample((2, 5, 3), (2, 5, 3), (2, 5, 4)),
}
"""Each with inputs, of unequal sizes, on which its gradient differs from the right one."""
