"""Causal and full attention without mask and dropout; other cases run the textbook."""
import math
from functools import cache

import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import ones, partition, scratch
from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.settings import settings
from minigrad.ops import attention

SAFE = 1e20             # sums of exponentials between 1 / SAFE and SAFE are far from overflow and underflow


class Attention(Kernel, attention.Attention, register=False):
    """The scores of a block of queries are computed for the keys up to the block's last query only, so most of the half
    that the causal mask hides is never computed.

    forward   E = exp(q @ k^T / sqrt(D))    z = row sums of E    y = (E @ v) / z
    backward  g = dy / (z sqrt(D))    dv = E^T @ g sqrt(D)    dS = E * (g @ v^T - sum(g * y))
              dq = dS @ k    dk = dS^T @ q
    why       P = E / z is never computed: y and dy, which have fewer columns, are divided by z instead. The maximum of
              a row is subtracted from its scores only if the row sums show that exp is close to overflow or underflow.

    As many heads are computed at once as fit into a core's cache. The textbook runs masks, dropout, inputs of 2 axes,
    empty inputs, causal attention of several queries to more or fewer keys, and a single key, whose score gets no
    gradient.
    """

    def forward(self, q, k, v, *, causal=False, mask=None, dropout=0.0, key=None):
        self.check(q, k, v)
        T, S = q.shape[-2], k.shape[-2]
        if mask is not None or dropout or causal and T not in (1, S) or S < 2 or q.ndim < 3 or not q.size or not v.size:
            return super().forward(q, k, v, causal=causal, mask=mask, dropout=dropout, key=key)
        causal = causal and T > 1
        lead, E = q.shape[:-2], v.shape[-1]
        y = empty_heads((*lead, T, E), q.dtype)
        blocks = [slice(i, min(i + settings.queries, T)) for i in range(0, T, settings.queries)]
        ends = [block.stop if causal else S for block in blocks]    # a block attends to the keys before `end`
        exps = [empty((*lead, block.stop - block.start, end), q.dtype) for block, end in zip(blocks, ends)]
        rz = np.empty((*lead, T, 1), q.dtype)                       # 1 / z

        for group in head_groups(lead, T, S):
            keys, values, outs, z = k[group].swapaxes(-1, -2), v[group], y[group], rz[group]
            queries = np.multiply(q[group], attention.scale_of(q), out=scratch("q", q, *q[group].shape))

            def attend(shifted):
                for block, end, exp in zip(blocks, ends, exps):
                    e = exp[group]
                    np.matmul(queries[..., block, :], keys[..., :end], out=e)
                    if causal:
                        e[..., block] += causal_bias(block.stop - block.start, q.dtype)
                    if shifted:
                        e -= e.max(axis=-1, keepdims=True)
                    np.exp(e, out=e)
                    np.matmul(e, ones(end, q), out=z[..., block, 0])
                    np.matmul(e, values[..., :end, :], out=outs[..., block, :])

            with np.errstate(over="ignore", invalid="ignore"):
                attend(shifted=False)
                if not 1.0 / SAFE < z.min() <= z.max() < SAFE:      # also for NaN
                    attend(shifted=True)
                np.divide(1.0, z, out=z)
                outs *= z
        if not np.isfinite(y).all():                                # a sum over keys has overflowed
            return super().forward(q, k, v, causal=causal)
        self.save(q=q, k=k, v=v, y=y, exps=exps, rz=rz, blocks=blocks, ends=ends)
        return y

    def backward(self, dy, **saved):
        if "P" in saved:                                            # the textbook's forward ran
            return super().backward(dy, **saved)
        q, k, v, y, exps, rz, blocks, ends = saved.values()
        lead, (T, D), S = q.shape[:-2], q.shape[-2:], k.shape[-2]
        rz = rz * attention.scale_of(q)
        if q.shape == k.shape == v.shape and q.ndim == 4:           # in one array, as split_heads returns q, k and v
            dq, dk, dv = empty((lead[0], T, 3, lead[1], D), q.dtype).transpose(2, 0, 3, 1, 4)
        else:
            dq, dk, dv = (empty_heads(a.shape, q.dtype) for a in (q, k, v))

        for group in head_groups(lead, T, S):
            queries, keys, values, dqs = q[group], k[group], v[group].swapaxes(-1, -2), dq[group]
            g = np.multiply(dy[group], rz[group], out=scratch("q", q, *y[group].shape))
            dots = np.vecdot(g, y[group])[..., None]                # (..., T, 1): sum(g * y)
            sums = scratch("dk", q, *keys.shape), scratch("dv", q, *v[group].shape)
            for block, end, exp in reversed(list(zip(blocks, ends, exps))):
                e, last = exp[group], block is blocks[-1]
                dS = scratch("z", q, *e.shape)
                np.matmul(g[..., block, :], values[..., :end], out=dS)
                dS -= dots[..., block, :]
                dS *= e
                np.matmul(dS, keys[..., :end, :], out=dqs[..., block, :])
                for left, right, total in zip((dS, e), (queries, g), sums):
                    total = total[..., :end, :]                     # the last block, the first here, has all keys
                    product = np.matmul(left.swapaxes(-1, -2), right[..., block, :],
                                        out=total if last else scratch("d", q, *total.shape))
                    if not last:
                        total += product
            dk[group] = sums[0]
            np.multiply(sums[1], math.sqrt(D), out=dv[group])
        return dq, dk, dv


def head_groups(lead, T, S):
    """Indices into the leading axes that split the heads into groups: some rows of the batch, or some heads of one row.
    A block of queries has at most about settings.scores scores in a group."""
    rows, heads = lead[0], math.prod(lead[1:])
    at_once = max(1, settings.scores // (min(T, settings.queries) * S))
    if len(lead) > 1 and heads > at_once:
        return [(slice(b, b + 1), s) for b in range(rows) for s in partition(lead[1], at_once * lead[1] // heads)]
    return [(s,) for s in partition(rows, at_once // heads)]


@cache
def causal_bias(n, dtype):
    """An array (n, n) to be added to the scores of n queries and the n keys at their positions: it masks later keys."""
    return np.triu(np.full((n, n), -math.inf, dtype), 1)


def empty_heads(shape, dtype):
    """An uninitialized array (B, nh, T, D), stored as (B, T, nh, D), so that merging the heads is a view. With other
    than 4 axes, it is stored in their order."""
    if len(shape) != 4:
        return empty(shape, dtype)
    B, nh, T, D = shape
    return empty((B, T, nh, D), dtype).swapaxes(1, 2)
