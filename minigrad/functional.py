"""Functions of Tensors, arrays and numbers, under NumPy's names for arrays and the field's names for layers.

This module is also the namespace in which primitives and composed twins run when gradients of gradients are wanted:
what NumPy has too takes NumPy's arguments.
"""

import sys
from typing import Any

import numpy as np

from minigrad import tape
from minigrad.ops import attention, linalg, loss, norm, pointwise, reduce, shape as _shape
from minigrad.ops import adamw as _adamw, dropout as _dropout, embedding as _embedding, softmax as _softmax
from minigrad.random import Key
from minigrad.tape import apply
from minigrad.tensor import Tensor, plain_array, plain_index


# ---- pointwise: all broadcast ----

def add(a: Any, b: Any) -> Tensor: return apply(pointwise.Add, a, b)
def sub(a: Any, b: Any) -> Tensor: return apply(pointwise.Sub, a, b)
def mul(a: Any, b: Any) -> Tensor: return apply(pointwise.Mul, a, b)
def div(a: Any, b: Any) -> Tensor: return apply(pointwise.Div, a, b)
def neg(x: Any) -> Tensor: return apply(pointwise.Neg, x)
def pow(x: Any, p: Any) -> Tensor: return apply(pointwise.Pow, x, p)
def exp(x: Any) -> Tensor: return apply(pointwise.Exp, x)
def log(x: Any) -> Tensor: return apply(pointwise.Log, x)
def sqrt(x: Any) -> Tensor: return apply(pointwise.Sqrt, x)
def tanh(x: Any) -> Tensor: return apply(pointwise.Tanh, x)
def sigmoid(x: Any) -> Tensor: return apply(pointwise.Sigmoid, x)
def relu(x: Any) -> Tensor: return apply(pointwise.Relu, x)


def gelu(x: Any) -> Tensor:
    """x times a smooth step, the tanh form of GPT-2."""
    return apply(pointwise.Gelu, x)


def abs(x: Any) -> Tensor:
    """The slope at 0 is 0."""
    return apply(pointwise.Abs, x)


def maximum(a: Any, b: Any) -> Tensor:
    """Where a = b each gets half of the gradient."""
    return apply(pointwise.Maximum, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """Where a = b each gets half of the gradient."""
    return apply(pointwise.Minimum, a, b)


def where(mask: Any, a: Any, b: Any) -> Tensor:
    """a where mask (boolean, no gradient), else b."""
    like, mask = a if isinstance(a, Tensor) else b, plain_array(mask)
    if type(mask) is np.ndarray and isinstance(like, Tensor):
        mask = like.xp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(
            f"where: mask must be boolean, got dtype {mask.dtype}: compare first, as in F.where(x > 0, a, b)"
        )
    return apply(pointwise.Where, a, b, mask=mask)


def clip(x: Any, low: float | None = None, high: float | None = None) -> Tensor:
    """x kept in [low, high]; the gradient passes where it was inside."""
    return apply(pointwise.Clip, x, low=low, high=high)


# ---- reductions: axis None (all), a number or a tuple ----

def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    return apply(reduce.Sum, x, axis=axis, keepdims=keepdims)


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    return apply(reduce.Mean, x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Equal maxima share the gradient equally."""
    return apply(reduce.Max, x, axis=axis, keepdims=keepdims)


def min(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Equal minima share the gradient equally."""
    return apply(reduce.Min, x, axis=axis, keepdims=keepdims)


def var(x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """Mean square distance from the mean, over n - ddof."""
    return apply(reduce.Var, x, axis=axis, ddof=ddof, keepdims=keepdims)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))), never overflowing."""
    return apply(reduce.Logsumexp, x, axis=axis, keepdims=keepdims)


# ---- shapes ----

def reshape(x: Any, shape: Any) -> Tensor: return apply(_shape.Reshape, x, shape=shape)
def transpose(x: Any, axes: Any = None) -> Tensor: return apply(_shape.Transpose, x, axes=axes)
def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor: return apply(_shape.Swapaxes, x, axis1=axis1, axis2=axis2)
def broadcast_to(x: Any, shape: tuple[int, ...]) -> Tensor: return apply(_shape.BroadcastTo, x, shape=shape)
def squeeze(x: Any, axis: Any = None) -> Tensor: return apply(_shape.Squeeze, x, axis=axis)
def expand_dims(x: Any, axis: Any) -> Tensor: return apply(_shape.ExpandDims, x, axis=axis)
def concatenate(xs: Any, axis: int = 0) -> Tensor: return apply(_shape.Concatenate, *xs, axis=axis)
def stack(xs: Any, axis: int = 0) -> Tensor: return apply(_shape.Stack, *xs, axis=axis)


def split(x: Any, sections: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """x cut into that many equal parts, or at the given places."""
    return apply(_shape.Split, x, sections=sections, axis=axis)


def split_heads(x: Any, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, 3 C)  ->  queries, keys and values of each head, 3 x (B, nh, T, C / nh)."""
    return apply(_shape.SplitHeads, x, n_head=n_head)


def merge_heads(x: Any) -> Tensor:
    """x (B, nh, T, hs)  ->  the heads of each position side by side, (B, T, nh hs)."""
    return apply(_shape.MergeHeads, x)


def getitem(x: Any, index: Any) -> Tensor:
    """x[index]: slices, integers, integer arrays (repeats add up in the gradient), boolean masks."""
    return apply(_shape.Getitem, x, index=plain_index(index))


def scatter_add(x: Any, index: Any, shape: tuple[int, ...]) -> Tensor:
    """zeros(shape) with x added at index, repeats added up: the adjoint of getitem."""
    return apply(_shape.ScatterAdd, x, index=plain_index(index), shape=shape)


# ---- layers ----

def matmul(a: Any, b: Any) -> Tensor:
    """a @ b: 1-D, 2-D, or batches of matrices whose leading axes broadcast."""
    return apply(linalg.Matmul, a, b)


def linear(x: Any, w: Any, b: Any = None) -> Tensor:
    """x (..., I) @ w (I, O) + b (O,)  ->  (..., O)."""
    return apply(linalg.Linear, x, w) if b is None else apply(linalg.Linear, x, w, b)


def softmax(x: Any, axis: int = -1) -> Tensor: return apply(_softmax.Softmax, x, axis=axis)
def log_softmax(x: Any, axis: int = -1) -> Tensor: return apply(_softmax.LogSoftmax, x, axis=axis)


def layer_norm(x: Any, w: Any, b: Any = None, eps: float = 1e-5) -> Tensor:
    """x (..., C) with mean 0 and variance 1 along the last axis, times w (C,) plus b (C,)."""
    return apply(norm.LayerNorm, x, w, eps=eps) if b is None else apply(norm.LayerNorm, x, w, b, eps=eps)


def embedding(w: Any, idx: Any) -> Tensor:
    """Rows idx (...) of the table w (V, C)  ->  (..., C). IndexError for an idx outside 0 .. V - 1."""
    return apply(_embedding.Embedding, w, idx=plain_array(idx))


def dropout(x: Any, p: float, key: Key | None) -> Tensor:
    """x with each element set to 0 with probability p, the rest divided by 1 - p. The same key drops the same ones."""
    return apply(_dropout.Dropout, x, p=p, key=key)


def cross_entropy(
    logits: Any, targets: Any, ignore_index: int = -100, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy in nats of logits (..., V) and integer targets (...).

    "mean" is over the targets that are not ignore_index (0 if there is none), "sum" their sum, "none" keeps (...).
    IndexError for a target outside 0 .. V - 1.
    """
    return apply(loss.CrossEntropy, logits, targets=plain_array(targets), ignore_index=ignore_index,
                 label_smoothing=label_smoothing, reduction=reduction)


def linear_cross_entropy(x: Any, w: Any, targets: Any, ignore_index: int = -100, reduction: str = "mean",
                         rows: int = 1024) -> Tensor:
    """cross_entropy(x @ w^T, targets) for x (..., C) and w (V, C), in chunks of that many rows: the logits (..., V)
    never exist all at once."""
    return apply(loss.LinearCrossEntropy, x, w, targets=plain_array(targets), ignore_index=ignore_index,
                 reduction=reduction, rows=rows)


def scaled_dot_product_attention(q: Any, k: Any, v: Any, causal: bool = False, mask: Any = None, dropout: float = 0.0,
                                 key: Key | None = None) -> Tensor:
    """softmax(q @ k^T / sqrt(D)) @ v, for q (..., T, D), k (..., S, D), v (..., S, E)  ->  (..., T, E).

    causal: the last query sees every key, each earlier one a key less. mask: booleans (..., T, S), True where a query
    may attend; one that may see nothing gets 0. dropout, of the attention weights, needs a key.
    """
    return apply(
        attention.Attention,
        q,
        k,
        v,
        causal=causal,
        mask=None if mask is None else plain_array(mask),
        dropout=dropout,
        key=key,
    )


# ---- optimizers on the tape ----

def _hyper(p: Any, hyper: tuple[Any, ...]) -> list[Any]:
    """0-d Tensors in the parameter's dtype; numbers as they are."""
    return [h.astype(p.dtype) if isinstance(h, Tensor) and h.shape == () and h.dtype != p.dtype else h for h in hyper]


def adamw(
    p: Any, g: Any, m: Any, v: Any, lr: Any, beta1: Any, beta2: Any, eps: Any, weight_decay: Any, t: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Step t (from 1) of AdamW on the tape  ->  new (p, m, v). Hyper-parameters are numbers or 0-d Tensors, and the
    result can be differentiated with respect to all but t."""
    if t < 1:
        raise ValueError(f"adamw: t counts steps from 1, got {t}")
    return apply(_adamw.AdamW, p, g, m, v, *_hyper(p, (lr, beta1, beta2, eps, weight_decay)), t=t)


def sgd(
    p: Any, g: Any, m: Any, lr: Any, momentum: Any = 0.0, weight_decay: Any = 0.0, nesterov: bool = False
) -> tuple[Tensor, Tensor]:
    """A step of SGD with momentum on the tape  ->  new (p, m)."""
    return apply(_adamw.SGD, p, g, m, *_hyper(p, (lr, momentum, weight_decay)), nesterov=nesterov)


tape.tensor_functions = sys.modules[__name__]
