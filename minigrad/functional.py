"""Functions of Tensors, with NumPy's names and arguments for arrays and PyTorch's names for layers and losses.

Inputs that can have a gradient are Tensors, arrays or numbers; results are Tensors. Every function raises TypeError for
inputs of two floating dtypes, and ValueError for inputs on two devices and for shapes that do not fit. The formula of
each function, forward and backward, is in the docstring of its op in minigrad/ops.

Functions that NumPy has too take NumPy's arguments, because primitives compute with this module instead of numpy when
their gradients are to be differentiated.
"""

import sys
from typing import Any

import numpy as np

from minigrad import tape
from minigrad.modes import mode
from minigrad.ops import attention, linalg, loss, norm, pointwise, reduce, shape as _shape
from minigrad.ops import adamw as _adamw, dropout as _dropout, embedding as _embedding, softmax as _softmax
from minigrad.random import Key
from minigrad.tape import apply
from minigrad.tensor import Tensor, apply_one, plain_array, plain_index


# ---- pointwise: inputs broadcast to the shape of the result ---------------------------------------------------------

def add(a: Any, b: Any) -> Tensor:
    """a + b."""
    return apply_one(pointwise.Add, a, b)


def sub(a: Any, b: Any) -> Tensor:
    """a - b."""
    return apply_one(pointwise.Sub, a, b)


def mul(a: Any, b: Any) -> Tensor:
    """a * b."""
    return apply_one(pointwise.Mul, a, b)


def div(a: Any, b: Any) -> Tensor:
    """a / b."""
    return apply_one(pointwise.Div, a, b)


def neg(x: Any) -> Tensor:
    """-x."""
    return apply_one(pointwise.Neg, x)


def pow(x: Any, p: Any) -> Tensor:
    """x ** p. The gradient with respect to p is 0 where x <= 0."""
    return apply_one(pointwise.Pow, x, p)


def exp(x: Any) -> Tensor:
    """e ** x."""
    return apply_one(pointwise.Exp, x)


def log(x: Any) -> Tensor:
    """The natural logarithm of x."""
    return apply_one(pointwise.Log, x)


def sqrt(x: Any) -> Tensor:
    """The square root of x."""
    return apply_one(pointwise.Sqrt, x)


def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent of x."""
    return apply_one(pointwise.Tanh, x)


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + exp(-x)), without overflow."""
    return apply_one(pointwise.Sigmoid, x)


def relu(x: Any) -> Tensor:
    """max(x, 0). The derivative at 0 is 0."""
    return apply_one(pointwise.Relu, x)


def gelu(x: Any) -> Tensor:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: the tanh form of GELU, as in GPT-2 (Hendrycks & Gimpel 2016,
    "Gaussian error linear units")."""
    return apply_one(pointwise.Gelu, x)


def abs(x: Any) -> Tensor:
    """|x|. The derivative at 0 is 0."""
    return apply_one(pointwise.Abs, x)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b. Where a = b each gets half of the gradient."""
    return apply_one(pointwise.Maximum, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b. Where a = b each gets half of the gradient."""
    return apply_one(pointwise.Minimum, a, b)


def where(mask: Any, a: Any, b: Any) -> Tensor:
    """a where mask, else b. mask: a boolean array, without gradient. TypeError if it is not boolean."""
    like, mask = a if isinstance(a, Tensor) else b, plain_array(mask)
    if type(mask) is np.ndarray and isinstance(like, Tensor):
        mask = like.xp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(
            f"where: mask must be boolean, got dtype {mask.dtype}: compare first, as in F.where(x > 0, a, b)"
        )
    return apply_one(pointwise.Where, a, b, mask=mask)


def clip(x: Any, low: float | None = None, high: float | None = None) -> Tensor:
    """x limited to [low, high], numbers or arrays that broadcast to the shape of x; None: no limit. The gradient is 0
    where x was outside. ValueError for limits of another shape."""
    return apply_one(pointwise.Clip, x, low=low, high=high)


# ---- reductions: over `axis`, an integer or a tuple of them, or all axes if None; keepdims keeps them with size 1 ----

def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The sum."""
    return apply_one(reduce.Sum, x, axis=axis, keepdims=keepdims)


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean."""
    return apply_one(reduce.Mean, x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The maximum. Equal maxima share the gradient equally."""
    return apply_one(reduce.Max, x, axis=axis, keepdims=keepdims)


def min(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The minimum. Equal minima share the gradient equally."""
    return apply_one(reduce.Min, x, axis=axis, keepdims=keepdims)


def var(x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The variance of n numbers: the sum of the squared distances from their mean, divided by n - ddof. ValueError
    unless n > ddof."""
    return apply_one(reduce.Var, x, axis=axis, ddof=ddof, keepdims=keepdims)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))), without overflow."""
    return apply_one(reduce.Logsumexp, x, axis=axis, keepdims=keepdims)


# ---- shapes ---------------------------------------------------------------------------------------------------------

def reshape(x: Any, shape: Any) -> Tensor:
    """x in another shape of the same size. shape: an integer or a tuple; one entry may be -1: it is inferred."""
    return apply_one(_shape.Reshape, x, shape=shape)


def transpose(x: Any, axes: Any = None) -> Tensor:
    """x with its axes in the order `axes`; None: in reversed order."""
    return apply_one(_shape.Transpose, x, axes=axes)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """x with two axes exchanged."""
    return apply_one(_shape.Swapaxes, x, axis1=axis1, axis2=axis2)


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Tensor:
    """x repeated along new axes and along axes of size 1."""
    return apply_one(_shape.BroadcastTo, x, shape=shape)


def squeeze(x: Any, axis: Any = None) -> Tensor:
    """x without the given axes of size 1; None: without all of them. ValueError for an axis of another size."""
    return apply_one(_shape.Squeeze, x, axis=axis)


def expand_dims(x: Any, axis: Any) -> Tensor:
    """x with new axes of size 1 at the positions `axis` of the result."""
    return apply_one(_shape.ExpandDims, x, axis=axis)


def concatenate(xs: Any, axis: int = 0) -> Tensor:
    """The xs joined along an axis. Their shapes must be equal except along it."""
    return apply_one(_shape.Concatenate, *xs, axis=axis)


def stack(xs: Any, axis: int = 0) -> Tensor:
    """The xs, all of one shape, joined along a new axis."""
    return apply_one(_shape.Stack, *xs, axis=axis)


def split(x: Any, sections: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """x split along an axis. sections: the number of equal parts, or a list of the indices at which to split.
    ValueError if equal parts are not possible, or if the indices do not increase."""
    parts: tuple[Tensor, ...] = apply(_shape.Split, x, sections=sections, axis=axis)
    return parts


def split_heads(x: Any, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, 3 C)  ->  queries, keys and values of n_head heads, each (B, n_head, T, C / n_head)."""
    q, k, v = apply(_shape.SplitHeads, x, n_head=n_head)
    return q, k, v


def merge_heads(x: Any) -> Tensor:
    """x (B, nh, T, hs)  ->  (B, T, nh * hs): the vectors of all heads at a position, concatenated."""
    return apply_one(_shape.MergeHeads, x)


def getitem(x: Any, index: Any) -> Tensor:
    """x[index]. index: slices, integers, integer arrays or boolean masks. The gradients of an element that is read
    several times are summed. IndexError for an integer out of range."""
    return apply_one(_shape.Getitem, x, index=plain_index(index))


def scatter_add(x: Any, index: Any, shape: tuple[int, ...]) -> Tensor:
    """zeros(shape) with x added at index; values at repeated indices are summed. The adjoint of getitem."""
    return apply_one(_shape.ScatterAdd, x, index=plain_index(index), shape=shape)


# ---- layers and losses ----------------------------------------------------------------------------------------------

def matmul(a: Any, b: Any) -> Tensor:
    """a (..., n, k) @ b (..., k, m)  ->  (..., n, m). The leading axes broadcast; a 1-D a is a row vector, a 1-D b a
    column vector."""
    return apply_one(linalg.Matmul, a, b)


def linear(x: Any, w: Any, b: Any = None) -> Tensor:
    """x (..., I) @ w (I, O) + b (O,)  ->  (..., O)."""
    return apply_one(linalg.Linear, x, w) if b is None else apply_one(linalg.Linear, x, w, b)


def softmax(x: Any, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)), summed along an axis, without overflow."""
    return apply_one(_softmax.Softmax, x, axis=axis)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """log(softmax(x)), exact where softmax(x) would round to 0."""
    return apply_one(_softmax.LogSoftmax, x, axis=axis)


def layer_norm(x: Any, w: Any, b: Any = None, eps: float = 1e-5) -> Tensor:
    """x (..., C) normalized to mean 0 and variance 1 along the last axis, times w (C,) plus b (C,)  ->  (..., C). eps
    is added to the variance (Ba, Kiros & Hinton 2016, "Layer normalization"). ValueError unless 0 <= eps < infinity."""
    return apply_one(norm.LayerNorm, x, w, eps=eps) if b is None else apply_one(norm.LayerNorm, x, w, b, eps=eps)


def embedding(w: Any, idx: Any) -> Tensor:
    """The rows of w (V, C) with the indices idx (...)  ->  (..., C). IndexError for an index outside 0 .. V - 1,
    TypeError if idx does not have an integer dtype."""
    return apply_one(_embedding.Embedding, w, idx=plain_array(idx))


def dropout(x: Any, p: float, key: Key | None) -> Tensor:
    """x with each element set to 0 with probability p and the others divided by 1 - p (Srivastava et al. 2014,
    "Dropout"). With the same key, the same elements are set to 0. ValueError unless 0 <= p < 1, and if key is None. In
    the mode dropout=False, see minigrad/modes.py, x itself."""
    if not mode().dropout:
        return x if isinstance(x, Tensor) else Tensor(x)
    return apply_one(_dropout.Dropout, x, p=p, key=key)


def cross_entropy(
    logits: Any, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """The cross-entropy, in nats, of logits (..., V) and integer targets (...).

    reduction: "mean", the mean over the targets that are not ignore_index, 0 if there are none; "sum", their sum; or
    "none", the cross-entropy of each target (...), 0 where the target is ignore_index. label_smoothing: this share of
    each target's probability is spread evenly over all V classes (Szegedy et al. 2016, "Rethinking the Inception
    architecture", section 7). IndexError for a target outside 0 .. V - 1, TypeError for targets that are not integers.
    """
    return apply_one(loss.CrossEntropy, logits, targets=plain_array(targets), ignore_index=ignore_index,
                  label_smoothing=label_smoothing, reduction=reduction)


def linear_cross_entropy(x: Any, w: Any, targets: Any, ignore_index: int = -100, reduction: str = "mean",
                         rows: int = 1024) -> Tensor:
    """cross_entropy(x @ w^T, targets), in nats, for x (..., C), w (V, C) and integer targets (...). reduction: "mean"
    or "sum". The logits are computed for a chunk of rows at a time, so that all of them, (..., V), are never in memory
    at once; rows: the textbook's size of a chunk. Errors as for cross_entropy; ValueError for rows below 1."""
    return apply_one(loss.LinearCrossEntropy, x, w, targets=plain_array(targets), ignore_index=ignore_index,
                  reduction=reduction, rows=rows)


def scaled_dot_product_attention(q: Any, k: Any, v: Any, causal: bool = False, mask: Any = None, dropout: float = 0.0,
                                 key: Key | None = None) -> Tensor:
    """softmax(q @ k^T / sqrt(D)) @ v for q (..., T, D), k (..., S, D), v (..., S, E)  ->  (..., T, E) (Vaswani et al.
    2017, "Attention is all you need", eq. 1).

    causal: query i may attend to the keys 0 .. S - T + i, so the last query to all. mask: booleans (..., T, S), True
    where a query may attend to a key. The output of a query that may attend to no key is 0. dropout: the probability
    with which an attention weight is set to 0; it needs a key. TypeError for a mask that is not boolean, ValueError for
    shapes that do not fit.
    """
    mask = None if mask is None else plain_array(mask)
    dropout = dropout if mode().dropout else 0.0
    return apply_one(attention.Attention, q, k, v, causal=causal, mask=mask, dropout=dropout, key=key)


# ---- optimizer steps, differentiable --------------------------------------------------------------------------------

def _hyper(p: Any, hyper: tuple[Any, ...]) -> list[Any]:
    """The hyper-parameters, with 0-d Tensors cast to the dtype of p; numbers are not changed."""
    return [h.astype(p.dtype) if isinstance(h, Tensor) and h.shape == () and h.dtype != p.dtype else h for h in hyper]


def adamw(
    p: Any, g: Any, m: Any, v: Any, lr: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any, t: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Step t = 1, 2, ... of AdamW for a parameter p, its gradient g and its moments m, v, all of one shape  ->  the new
    p, m, v (Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2). The inputs from lr to
    weight_decay are numbers or 0-d Tensors. All inputs but t can have a gradient. ValueError if t < 1, and for an eps
    that is 0 in the dtype of p."""
    if t < 1:
        raise ValueError(f"adamw: t counts steps from 1, got {t}")
    dtype = np.dtype(getattr(p, "dtype", np.float64))
    if isinstance(eps, float) and eps > 0.0 and dtype.type(eps) == 0.0:
        raise ValueError(f"adamw: eps {eps} is 0 in {dtype}, so a gradient of 0 would divide by 0: give a larger eps, "
                         "or cast p, g, m and v to float32")
    p_new, m_new, v_new = apply(_adamw.AdamW, p, g, m, v, *_hyper(p, (lr, beta1, beta2, eps, weight_decay)), t=t)
    return p_new, m_new, v_new


def sgd(
    p: Any, g: Any, m: Any, lr: Any, momentum: Any = 0.0, weight_decay: Any = 0.0, nesterov: bool = False
) -> tuple[Tensor, Tensor]:
    """A step of SGD with momentum for a parameter p, its gradient g and its momentum buffer m, all of one shape  ->
    the new p, m (Sutskever et al. 2013, "On the importance of initialization and momentum", in PyTorch's form). lr,
    momentum and weight_decay are numbers or 0-d Tensors. All inputs but nesterov can have a gradient."""
    p_new, m_new = apply(_adamw.SGD, p, g, m, *_hyper(p, (lr, momentum, weight_decay)), nesterov=nesterov)
    return p_new, m_new


tape.tensor_functions = sys.modules[__name__]
