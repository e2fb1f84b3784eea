"""Causal and full attention without masks and dropout; the textbook runs the rest."""
import math
from functools import cache

import numpy as np

from minigrad.kernels.executor import Kernel
from minigrad.kernels.vector.arrays import cuts, ones, scratch
from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.settings import settings
from minigrad.ops import attention

SAFE = 1e20             # sums of exponentials between 1 / SAFE and SAFE are far from overflow and underflow


class Attention(Kernel, attention.Attention, register=False):
    """Blocks of queries meet the keys up to the block's last query, so most of the masked half is never computed.

    forward   E = exp(q @ k^T / sqrt(D))    z = row sums of E    y = (E @ v) / z
    backward  g = dy / (z sqrt(D))    dv = E^T @ g sqrt(D)    dS = E * (g @ v^T - sum(g * y))
              dq = dS @ k    dk = dS^T @ q
    why       P = E / z is never written: y and dy are divided in its place, which are narrower. The maximum of a row is
              subtracted from its scores only where the row sums say that exp came near overflow or underflow.

    As many heads are computed at once as fit a core's cache. The textbook runs masks, dropout, fewer queries than keys,
    and a single key, whose scores get no gradient.
    """

    def forward(self, q, k, v, *, causal=False, mask=None, dropout=0.0, key=None):
        self.check(q, k, v)
        T, S, D = q.shape[-2], k.shape[-2], q.shape[-1]
        if mask is not None or dropout or causal and T not in (1, S) or S < 2 or q.ndim < 3 or not q.size or not v.size:
            return super().forward(q, k, v, causal=causal, mask=mask, dropout=dropout, key=key)
        causal = causal and T > 1
        lead, E = q.shape[:-2], v.shape[-1]
        y = heads_inside((*lead, T, E), q.dtype)
        blocks = [slice(i, min(i + settings.queries, T)) for i in range(0, T, settings.queries)]
        ends = [block.stop if causal else S for block in blocks]    # how many keys a block meets
        exps = [empty((*lead, block.stop - block.start, end), q.dtype) for block, end in zip(blocks, ends)]
        rz = np.empty((*lead, T, 1), q.dtype)                       # 1 / z

        for at in groups_of_heads(lead, T, S):
            keys, values, outs, z, here = k[at].swapaxes(-1, -2), v[at], y[at], rz[at], [exp[at] for exp in exps]
            queries = np.multiply(q[at], 1.0 / math.sqrt(D), out=scratch("q", q, *q[at].shape))

            def attend(shifted):
                for block, end, e in zip(blocks, ends, here):
                    np.matmul(queries[..., block, :], keys[..., :end], out=e)
                    if causal:
                        e[..., block] += later_keys(block.stop - block.start, q.dtype)
                    if shifted:
                        e -= e.max(axis=-1, keepdims=True)
                    np.exp(e, out=e)
                    np.matmul(e, ones(end, q), out=z[..., block, 0])
                    np.matmul(e, values[..., :end, :], out=outs[..., block, :])

            with np.errstate(over="ignore", invalid="ignore"):
                attend(shifted=False)
            if not 1.0 / SAFE < z.min() <= z.max() < SAFE:          # also for NaN
                attend(shifted=True)
            np.divide(1.0, z, out=z)
            outs *= z
        self.save(q=q, k=k, v=v, y=y, exps=exps, rz=rz, blocks=blocks, ends=ends)
        return y

    def backward(self, dy, **saved):
        if "P" in saved:                                            # the textbook's forward ran
            return super().backward(dy, **saved)
        q, k, v, y, exps, rz, blocks, ends = saved.values()
        lead, (T, D), S = q.shape[:-2], q.shape[-2:], k.shape[-2]
        rz = rz * (1.0 / math.sqrt(D))
        if q.shape == k.shape == v.shape and q.ndim == 4:           # side by side, as split_heads gave them
            dq, dk, dv = empty((lead[0], T, 3, lead[1], D), q.dtype).transpose(2, 0, 3, 1, 4)
        else:
            dq, dk, dv = (heads_inside(a.shape, q.dtype) for a in (q, k, v))

        for at in groups_of_heads(lead, T, S):
            queries, keys, values, dqs = q[at], k[at], v[at].swapaxes(-1, -2), dq[at]
            g = np.multiply(dy[at], rz[at], out=scratch("q", q, *y[at].shape))
            means = np.vecdot(g, y[at])[..., None]                  # (..., T, 1)
            sums = scratch("dk", q, *keys.shape), scratch("dv", q, *v[at].shape)
            for block, end, exp in reversed(list(zip(blocks, ends, exps))):
                e, last = exp[at], block is blocks[-1]
                dS = scratch("z", q, *e.shape)
                np.matmul(g[..., block, :], values[..., :end], out=dS)
                dS -= means[..., block, :]
                dS *= e
                np.matmul(dS, keys[..., :end, :], out=dqs[..., block, :])
                for left, right, total in zip((dS, e), (queries, g), sums):
                    total = total[..., :end, :]                     # the last block of queries meets all keys
                    product = np.matmul(left.swapaxes(-1, -2), right[..., block, :],
                                        out=total if last else scratch("d", q, *total.shape))
                    if not last:
                        total += product
            dk[at] = sums[0]
            np.multiply(sums[1], math.sqrt(D), out=dv[at])
        return dq, dk, dv


def groups_of_heads(lead, T, S):
    """Indices of the leading axes, so that each group of heads has about settings.scores scores in a block of queries:
    some rows of the batch, or some heads of one row."""
    rows, heads = lead[0], math.prod(lead[1:])
    at_once = max(1, settings.scores // (min(T, settings.queries) * S))
    if len(lead) > 1 and heads > at_once:
        return [(slice(b, b + 1), s) for b in range(rows) for s in cuts(lead[1], at_once * lead[1] // heads)]
    return [(s,) for s in cuts(rows, at_once // heads)]


@cache
def later_keys(n, dtype):
    """What is added to the scores of n queries with the keys of the same n positions, to hide the later ones (n, n)."""
    return np.triu(np.full((n, n), attention.far_below(dtype), dtype), 1)


def heads_inside(shape, dtype):
    """An array (B, nh, T, D) whose memory is (B, T, nh, D): merging the heads is then a view."""
    if len(shape) != 4:
        return empty(shape, dtype)
    B, nh, T, D = shape
    return empty((B, T, nh, D), dtype).swapaxes(1, 2)
