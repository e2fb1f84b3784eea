"""PyTorch under the names of minigrad.functional: the same source text then runs in both."""
import math

import numpy as np
import torch
import torch.nn.functional as TF

from minigrad.random import keep_mask

add, sub, mul, div, neg, pow, exp, log, sqrt, tanh = (
    torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.pow, torch.exp, torch.log, torch.sqrt, torch.tanh)
sigmoid, relu, abs, matmul, broadcast_to = torch.sigmoid, torch.relu, torch.abs, torch.matmul, torch.broadcast_to


def tensor(x, like):
    return x if isinstance(x, torch.Tensor) else torch.as_tensor(x, dtype=like.dtype)


def maximum(a, b):
    return torch.maximum(a, tensor(b, a))


def minimum(a, b):
    return torch.minimum(a, tensor(b, a))


def where(mask, a, b):
    return torch.where(torch.as_tensor(mask), a, b)


def clip(x, low=None, high=None):
    return torch.clamp(x, low, high)


def gelu(x):
    return TF.gelu(x, approximate="tanh")


def axes_of(x, axis):
    return tuple(range(x.ndim)) if axis is None else axis


def sum(x, axis=None, keepdims=False):
    return torch.sum(x, axes_of(x, axis), keepdims) if x.ndim else x


def mean(x, axis=None, keepdims=False):
    return torch.mean(x, axes_of(x, axis), keepdims) if x.ndim else x


def max(x, axis=None, keepdims=False):
    return torch.amax(x, axes_of(x, axis), keepdims)


def min(x, axis=None, keepdims=False):
    return torch.amin(x, axes_of(x, axis), keepdims)


def var(x, axis=None, ddof=0, keepdims=False):
    return torch.var(x, axes_of(x, axis), correction=ddof, keepdim=keepdims)


def logsumexp(x, axis=None, keepdims=False):
    return torch.logsumexp(x, axes_of(x, axis), keepdims)


def reshape(x, shape):
    return torch.reshape(x, (shape,) if isinstance(shape, int) else shape)


def transpose(x, axes=None):
    return torch.permute(x, tuple(range(x.ndim))[::-1] if axes is None else axes)


def swapaxes(x, axis1, axis2):
    return torch.transpose(x, axis1, axis2)


def squeeze(x, axis=None):
    return torch.squeeze(x) if axis is None else torch.squeeze(x, axis)


def expand_dims(x, axis):
    return torch.reshape(x, np.expand_dims(np.empty(x.shape), axis).shape)


def concatenate(xs, axis=0):
    return torch.cat(tuple(xs), axis)


def stack(xs, axis=0):
    return torch.stack(tuple(xs), axis)


def split(x, sections, axis=0):
    return torch.tensor_split(x, sections, axis)


def split_heads(x, n_head):
    B, T, C3 = x.shape
    return tuple(part.reshape(B, T, n_head, -1).transpose(1, 2) for part in torch.chunk(x, 3, -1))


def merge_heads(x):
    return x.transpose(1, 2).flatten(2)


def getitem(x, index):
    places = np.arange(x.numel()).reshape(x.shape)[index]
    return x.reshape(-1)[torch.as_tensor(np.array(places, order="C"))]


def scatter_add(x, index, shape):
    places = np.arange(math.prod(shape)).reshape(shape)[index]
    flat = torch.zeros(math.prod(shape), dtype=x.dtype)
    return flat.index_add(0, torch.as_tensor(np.asarray(places).ravel()), x.reshape(-1)).reshape(shape)


def linear(x, w, b=None):
    return x @ w if b is None else x @ w + b


def softmax(x, axis=-1):
    return torch.softmax(x, axis)


def log_softmax(x, axis=-1):
    return torch.log_softmax(x, axis)


def layer_norm(x, w, b=None, eps=1e-5):
    return TF.layer_norm(x, w.shape, w, b, eps)


def embedding(w, idx):
    return TF.embedding(torch.as_tensor(idx), w)


def dropout(x, p, key):
    return x * torch.as_tensor(keep_mask(key, tuple(x.shape), p)) / (1.0 - p)


def cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    flat = torch.as_tensor(targets).reshape(-1).long()
    each = TF.cross_entropy(logits.reshape(-1, logits.shape[-1]), flat, ignore_index=ignore_index,
                            label_smoothing=label_smoothing, reduction="none")
    if reduction == "none":
        return each.reshape(targets.shape)
    return each.sum() / (1.0 if reduction == "sum" else torch.clamp((flat != ignore_index).sum(), min=1))


def linear_cross_entropy(x, w, targets, ignore_index=-100, reduction="mean", rows=1024):
    return cross_entropy(x @ w.T, targets, ignore_index, 0.0, reduction)


def scaled_dot_product_attention(q, k, v, causal=False, mask=None, dropout=0.0, key=None):
    T, S = q.shape[-2], k.shape[-2]
    allowed = torch.ones(T, S, dtype=torch.bool)
    if causal:
        allowed = allowed & torch.ones(T, S, dtype=torch.bool).tril(S - T)
    if mask is not None:
        allowed = allowed & torch.as_tensor(mask)
    scores = torch.where(allowed, q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1e30)
    weights = torch.softmax(scores, -1) * allowed
    if dropout:
        weights = weights * torch.as_tensor(keep_mask(key, tuple(weights.shape), dropout)) / (1.0 - dropout)
    return weights @ v


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g ** 2
    step = (m / (1 - beta1 ** t)) / (torch.sqrt(v / (1 - beta2 ** t)) + eps)
    return p * (1 - lr * weight_decay) - lr * step, m, v


def sgd(p, g, m, lr, momentum=0.0, weight_decay=0.0, nesterov=False):
    g = g + weight_decay * p
    m = momentum * m + g
    return p - lr * (g + momentum * m if nesterov else m), m
