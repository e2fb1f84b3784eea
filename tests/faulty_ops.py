"""Ops with one common mistake each: 47 with a wrong backward, 12 AdamWs with a wrong update. gradcheck must find all.

Each derives from the right op and overrides one method; its docstring says what the mistake is. Twelve of the wrong
backwards are those of an exercise, minigrad/grade/wrong_backwards.py.
"""
import math
from typing import Any, Callable

import numpy as np

from minigrad.grade.wrong_backwards import (
    BiasAveraged, MulForgetsFactor, MatmulReshapesB, TransposeReshapes, MeanDividesBySize, SoftmaxNotCoupled,
    SoftmaxZero, CrossEntropyDividesByV, CrossEntropyIgnoresDy, LayerNormForgetsVariance, EmbeddingLosesRepeats,
    AttentionForgetsScale)
from minigrad.ops.adamw import AdamW
from minigrad.ops.attention import Attention
from minigrad.ops.linalg import Linear, Matmul
from minigrad.ops.loss import CrossEntropy
from minigrad.ops.norm import LayerNorm
from minigrad.ops.op import Op
from minigrad.ops.pointwise import Add, Gelu, Mul
from minigrad.ops.reduce import Mean
from minigrad.ops.shape import Transpose
from minigrad.ops.softmax import Softmax

OP_MISTAKES: list[type[Op]] = []
DIAGNOSES: dict[type[Op], tuple[str, ...]] = {}     # the right diagnoses of each; () where the values follow no rule


def mistake(*words: str) -> Callable[[Any], Any]:
    """Add a faulty op to OP_MISTAKES, with the words of which a right diagnosis contains one."""
    def enter(op_class: Any) -> Any:
        OP_MISTAKES.append(op_class)
        DIAGNOSES[op_class] = words
        return op_class
    return enter


# ---- add: as in the bias of a linear layer, which every row uses ----------------------------------------------------

@mistake("not summed over axis 0", "the right numbers in the wrong shape")
class BiasNotSummed(Linear, register=False):
    """db is one gradient per row, not their sum"""

    def backward(self, dy, x2, w, shape):
        dx, dw, *_ = super().backward(dy, x2, w, shape)
        return (dx, dw, dy.reshape(-1, dy.shape[-1]))[:len(self.needs)]


mistake("an extra 1/2", "an extra 1/8")(BiasAveraged)


@mistake("summed over other axes")
class BiasSummedOverColumns(Linear, register=False):
    """db is summed over the outputs, not over the rows"""

    def backward(self, dy, x2, w, shape):
        dx, dw, *_ = super().backward(dy, x2, w, shape)
        return (dx, dw, dy.reshape(-1, dy.shape[-1]).sum(axis=1))[:len(self.needs)]


@mistake("the sign is flipped")
class AddSubtracts(Add, register=False):
    """the gradient of the second term has the sign of a difference"""

    def backward(self, dy):
        return dy, -dy


# ---- mul ------------------------------------------------------------------------------------------------------------

@mistake("multiplied by a instead of b", "multiplied by b instead of a", "this is dy * (1 * a)")
class MulNotSwapped(Mul, register=False):
    """the factors are swapped: each scales its own gradient, not that of the other"""

    def backward(self, dy, a, b):
        da = dy * a if self.needs[0] else None
        db = dy * b if self.needs[1] else None
        return da, db


mistake("missing factor a")(MulForgetsFactor)


# ---- matmul: a reshape makes the shapes fit, so NumPy raises nothing -------------------------------------------------

mistake(*(f"this is dy @ b.reshape({shape}) instead of dy @ b^T" for shape in ("5, 3", "4, 5, 3")))(MatmulReshapesB)


@mistake(*(f"this is a.reshape({shape}) @ dy instead of a^T @ dy" for shape in ("3, 2", "4, 3, 2")))
class MatmulReshapesA(Matmul, register=False):
    """db is a @ dy: a is made to fit by a reshape, not transposed"""

    def backward(self, dy, a, b):
        da, db = super().backward(dy, a, b)
        if min(a.ndim, b.ndim) > 1:
            db = a.reshape(a.swapaxes(-1, -2).shape) @ dy
        return da, db


@mistake("reshaped where the axes must be transposed")
class MatmulOrderSwapped(Matmul, register=False):
    """da is b @ dy^T, the factors in the wrong order, with a reshape to fit"""

    def backward(self, dy, a, b):
        da, db = super().backward(dy, a, b)
        if min(a.ndim, b.ndim) > 1:
            da = (b @ dy.swapaxes(-1, -2)).reshape(da.shape)
        return da, db


@mistake("transposed")
class MatmulTransposed(Matmul, register=False):
    """both gradients come out transposed"""

    def backward(self, dy, a, b):
        da, db = super().backward(dy, a, b)
        return da.T, db.T


# ---- transpose ------------------------------------------------------------------------------------------------------

@mistake("transposed")
class TransposeNotUndone(Transpose, register=False):
    """dy is returned as it is, its axes not put back in order"""

    def backward(self, dy, inverse):
        return dy


mistake("reshaped where the axes must be transposed")(TransposeReshapes)


@mistake("transposed")
class TransposeSameOrder(Transpose, register=False):
    """the order of the forward is applied again, not its inverse"""

    def backward(self, dy, inverse):
        return dy.transpose([inverse.index(i) for i in range(dy.ndim)])


# ---- mean -----------------------------------------------------------------------------------------------------------

@mistake(*(f"missing 1/{n}" for n in (3, 5, 15, 4, 60)))
class MeanForgetsN(Mean, register=False):
    """dy is not divided by how many numbers were averaged"""

    def backward(self, dy, shape, kept, n):
        return self.xp.broadcast_to(dy.reshape(kept), shape)


mistake(*(f"an extra 1/{n}" for n in (20, 12, 4, 15)))(MeanDividesBySize)


@mistake("the right numbers in the wrong places")
class MeanSpreadsOverFirstAxis(Mean, register=False):
    """the gradient is repeated along the first axis, whichever axis was averaged over"""

    def backward(self, dy, shape, kept, n):
        return self.xp.resize(dy / n, shape)


# ---- softmax --------------------------------------------------------------------------------------------------------

COUPLED = [f"a projection term is missing or wrong: off by ({each}) x p"
           for each in ("one number per row", "one number for each line along axis 1", "one number")]


mistake(*COUPLED)(SoftmaxNotCoupled)


@mistake("this is dy * (1 * p - 1 * p^2)")
class SoftmaxDiagonal(Softmax, register=False):
    """only the diagonal of the Jacobian, p (1 - p)"""

    def backward(self, dy, p, axis):
        return dy * p * (1.0 - p)


mistake("all zeros")(SoftmaxZero)


@mistake(*COUPLED)
class SoftmaxMeanOfProducts(Softmax, register=False):
    """the row's term is a mean of dy * p, not a sum"""

    def backward(self, dy, p, axis):
        row = (dy * p).mean(axis=axis, keepdims=True)
        return p * (dy - row)


@mistake(*COUPLED)
class SoftmaxSumOfDy(Softmax, register=False):
    """the row's term is the sum of dy, not of dy * p"""

    def backward(self, dy, p, axis):
        row = dy.sum(axis=axis, keepdims=True)
        return p * (dy - row)


@mistake(*COUPLED)
class SoftmaxMeanOfDy(Softmax, register=False):
    """the row's term is the mean of dy, not the sum of dy * p"""

    def backward(self, dy, p, axis):
        row = dy.mean(axis=axis, keepdims=True)
        return p * (dy - row)


@mistake("a sum is over the wrong one of axes 0 and 1")
class SoftmaxWrongAxis(Softmax, register=False):
    """the row's term is summed over the first axis, whichever axis the softmax is over"""

    def backward(self, dy, p, axis):
        row = (dy * p).sum(axis=0, keepdims=True)
        return p * (dy - row)


# ---- cross-entropy --------------------------------------------------------------------------------------------------

@mistake("missing 1/3", "missing 1/6")
class CrossEntropyForgetsN(CrossEntropy, register=False):
    """not divided by the number of targets, though the loss is their mean"""

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        return super().backward(dy, z, m, total, t, counted, 1.0, s, shape)


mistake("1/5 instead of 1/3", "1/5 instead of 1/6", "an extra 1/5", "missing 1/3")(CrossEntropyDividesByV)


@mistake("an extra 1/3", "an extra 1/6")
class CrossEntropyDividesTwice(CrossEntropy, register=False):
    """divided by the number of targets twice"""

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        return super().backward(dy, z, m, total, t, counted, n * n, s, shape)


@mistake("wrong only at [i, t[i]]")
class CrossEntropyForgetsTarget(CrossEntropy, register=False):
    """p, not p - q: nothing is subtracted at the target"""

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        p = self.xp.exp(z - m) / total - s / z.shape[1]
        share = dy.reshape(-1) * counted / n
        return (p * share[:, None]).reshape(shape)


@mistake("the sign is flipped")
class CrossEntropySign(CrossEntropy, register=False):
    """q - p, not p - q"""

    def backward(self, dy, z, m, total, t, counted, n, s, shape):
        return -super().backward(dy, z, m, total, t, counted, n, s, shape)


mistake("missing factor dy")(CrossEntropyIgnoresDy)


# ---- layer norm -----------------------------------------------------------------------------------------------------

@mistake("a term constant along axis")
class LayerNormForgetsMean(LayerNorm, register=False):
    """the mean of dxhat is not subtracted, as if mean(x) did not depend on x"""

    def backward(self, dy, xhat, rstd, w):
        dxhat = dy * w
        scale = (dxhat * xhat).mean(axis=-1, keepdims=True)
        dx = rstd * (dxhat - xhat * scale)
        return (dx, *super().backward(dy, xhat, rstd, w)[1:])


mistake("x xhat")(LayerNormForgetsVariance)


@mistake("two terms are missing or wrong, a mean and a projection")
class LayerNormDiagonal(LayerNorm, register=False):
    """neither is subtracted: mean and variance are treated as constants"""

    def backward(self, dy, xhat, rstd, w):
        dx = rstd * dy * w
        return (dx, *super().backward(dy, xhat, rstd, w)[1:])


@mistake("missing factor w")
class LayerNormForgetsW(LayerNorm, register=False):
    """dxhat is dy, not dy * w"""

    def backward(self, dy, xhat, rstd, w):
        dx, *_ = super().backward(dy, xhat, rstd, self.xp.ones_like(w))
        return (dx, *super().backward(dy, xhat, rstd, w)[1:])


@mistake("an extra factor rstd")
class LayerNormRstdTwice(LayerNorm, register=False):
    """dx is multiplied by rstd twice"""

    def backward(self, dy, xhat, rstd, w):
        dx, *rest = super().backward(dy, xhat, rstd, w)
        return (rstd * dx, *rest)


@mistake("an extra 1/2", "an extra 1/6")
class LayerNormAveragesDw(LayerNorm, register=False):
    """dw is the mean over the rows, not the sum"""

    def backward(self, dy, xhat, rstd, w):
        dx, dw, *rest = super().backward(dy, xhat, rstd, w)
        dw = (dy * xhat).reshape(-1, len(w)).mean(axis=0)
        return (dx, dw, *rest)


@mistake("x xhat")
class LayerNormBessel(LayerNorm, register=False):
    """the projection on xhat is divided by C - 1, as in the unbiased variance; the forward divides by C"""

    def backward(self, dy, xhat, rstd, w):
        dxhat = dy * w
        shift = dxhat.mean(axis=-1, keepdims=True)
        scale = (dxhat * xhat).sum(axis=-1, keepdims=True) / (len(w) - 1)
        dx = rstd * (dxhat - shift - xhat * scale)
        return (dx, *super().backward(dy, xhat, rstd, w)[1:])


@mistake("all zeros")
class LayerNormZero(LayerNorm, register=False):
    """dx is zero, which a test with ones for dy and w would not notice"""

    def backward(self, dy, xhat, rstd, w):
        return (0.0 * dy, *super().backward(dy, xhat, rstd, w)[1:])


# ---- gelu -----------------------------------------------------------------------------------------------------------

@mistake("this is dy * (0.5 + 0.5 * t)")
class GeluForgetsProductRule(Gelu, register=False):
    """only the first term of the product rule: tanh(u) is treated as a constant"""

    def backward(self, dy, x, t):
        return dy * 0.5 * (1.0 + t)


@mistake()
class GeluForgetsThree(Gelu, register=False):
    """the derivative of x^3 is taken to be x^2, not 3 x^2"""

    def backward(self, dy, x, t):
        du = self.k * (1.0 + self.c * x * x)
        slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du
        return dy * slope


@mistake("this is dy * (1 * (x > 0))", "all zeros")
class GeluAsRelu(Gelu, register=False):
    """the derivative of relu"""

    def backward(self, dy, x, t):
        return dy * (x > 0)


# ---- embedding ------------------------------------------------------------------------------------------------------

mistake("only rows [1] are wrong, those that idx names more than once")(EmbeddingLosesRepeats)


# ---- attention ------------------------------------------------------------------------------------------------------

mistake("missing factor scale", "missing 1/sqrt(")(AttentionForgetsScale)


@mistake("x P @ k")
class AttentionNotCoupled(Attention, register=False):
    """dS = P * dP: the softmax's term that couples the row is missing"""

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        dP = dy @ v.swapaxes(-1, -2)
        if dropout:
            dP = dP * keep * (1.0 / (1.0 - dropout))
        dS = P * dP * scale
        return dS @ k, dS.swapaxes(-1, -2) @ q, super().backward(dy, q, k, v, P, keep, dropout, scale)[2]


@mistake("this is P @ dy instead of P^T @ dy")
class AttentionDvNotTransposed(Attention, register=False):
    """dv = A @ dy, not A^T @ dy: it runs where there are as many keys as queries"""

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        dq, dk, dv = super().backward(dy, q, k, v, P, keep, dropout, scale)
        A = P * keep * (1.0 / (1.0 - dropout)) if dropout else P
        return dq, dk, A @ dy


@mistake()
class AttentionDkNotTransposed(Attention, register=False):
    """dk = dS @ q, not dS^T @ q: it runs where there are as many keys as queries"""

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        dq, dk, dv = super().backward(dy, q, k, v, P, keep, dropout, scale)
        dP = dy @ v.swapaxes(-1, -2)
        if dropout:
            dP = dP * keep * (1.0 / (1.0 - dropout))
        dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True)) * scale
        return dq, dS @ q, dv


def recomputed(P, q, k, scale, diagonal, visible):
    """P recomputed with `visible` on one diagonal of the causal mask, where it must not be; P itself if not causal."""
    T, S = P.shape[-2:]
    if np.triu(P, S - T + 1).any():
        return P
    seen = np.where(np.eye(T, S, S - T + diagonal, dtype=bool), visible, P > 0.0)
    weights = seen * np.exp(q @ k.swapaxes(-1, -2) * scale)
    return weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)


@mistake()
class AttentionMaskOneTooFar(Attention, register=False):
    """the causal mask of the backward allows each query the next key too"""

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        P = recomputed(P, q, k, scale, diagonal=1, visible=True)
        return super().backward(dy, q, k, v, P, keep, dropout, scale)


@mistake()
class AttentionMaskHidesSelf(Attention, register=False):
    """the causal mask of the backward forbids each query its own key"""

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        P = recomputed(P, q, k, scale, diagonal=0, visible=False)
        return super().backward(dy, q, k, v, P, keep, dropout, scale)


# ---- AdamW: wrong updates -------------------------------------------------------------------------------------------

ADAMW_MISTAKES: list[type[AdamW]] = []


def wrong_update(op_class: Any) -> Any:
    """Add a faulty AdamW to ADAMW_MISTAKES."""
    ADAMW_MISTAKES.append(op_class)
    return op_class


@wrong_update
class NoBiasCorrection(AdamW, register=False):
    """m and v are used as they are, though they start at 0"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t=math.inf)     # beta^t = 0


@wrong_update
class StepsFromZero(AdamW, register=False):
    """the correction is one step ahead"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t=t + 1)


@wrong_update
class OnlyMCorrected(AdamW, register=False):
    """v is not corrected"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        _, m_new, v_new = super().forward(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t=t)
        u = m_new / (1.0 - beta1 ** t) / (np.sqrt(v_new) + eps)
        return p - lr * (u + weight_decay * p), m_new, v_new


@wrong_update
class DecayInMoments(AdamW, register=False):
    """decay is added to the gradient, and so divided by sqrt(v): L2 regularization, plain Adam"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, g + weight_decay * p, m, v, lr, beta1, beta2, eps, 0.0, t=t)


@wrong_update
class BetasSwapped(AdamW, register=False):
    """beta2 is used for m, beta1 for v"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, g, m, v, lr, beta2, beta1, eps, weight_decay, t=t)


@wrong_update
class VariancesOfG(AdamW, register=False):
    """v averages g, not g^2"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        _, m_new, _ = super().forward(p, g, m, abs(v), lr, beta1, beta2, eps, weight_decay, t=t)
        v_new = beta2 * v + (1.0 - beta2) * g
        u = m_new / (1.0 - beta1 ** t) / (np.sqrt(abs(v_new) / (1.0 - beta2 ** t)) + eps)
        return p - lr * (u + weight_decay * p), m_new, v_new


@wrong_update
class EpsInRoot(AdamW, register=False):
    """eps is added to v, not to its root"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        _, m_new, v_new = super().forward(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t=t)
        u = m_new / (1.0 - beta1 ** t) / np.sqrt(v_new / (1.0 - beta2 ** t) + eps)
        return p - lr * (u + weight_decay * p), m_new, v_new


@wrong_update
class Ascent(AdamW, register=False):
    """the step goes up the gradient"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, -g, m, v, lr, beta1, beta2, eps, weight_decay, t=t)


@wrong_update
class DecayWithoutLr(AdamW, register=False):
    """decay is not multiplied by the learning rate"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, g, m, v, lr, beta1, beta2, eps, weight_decay / lr, t=t)


@wrong_update
class NoDecay(AdamW, register=False):
    """weight_decay is ignored"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, g, m, v, lr, beta1, beta2, eps, 0.0, t=t)


@wrong_update
class DecayGrows(AdamW, register=False):
    """decay has the wrong sign: parameters grow"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        return super().forward(p, g, m, v, lr, beta1, beta2, eps, -weight_decay, t=t)


@wrong_update
class DecayAfterStep(AdamW, register=False):
    """decay multiplies the new parameter, not the old one"""

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        p_new, m_new, v_new = super().forward(p, g, m, v, lr, beta1, beta2, eps, 0.0, t=t)
        return p_new - lr * weight_decay * p_new, m_new, v_new
