"""Causal and full attention, with and without dropout; other cases run the textbook."""
import numpy as np
from numba import prange

from minigrad.kernels.executor import Kernel
from minigrad.kernels.loops.blas import get_threads, set_threads
from minigrad.kernels.loops.compiling import inner, jit
from minigrad.kernels.loops.dropout import draw, stream_of
from minigrad.kernels.loops.linalg import A_B, A_BT, AT_B, gemm
from minigrad.kernels.loops.math import exp, largest
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector.attention import empty_heads
from minigrad.kernels.vector.buffers import empty
from minigrad.ops import attention

QUERIES = 64                            # in a block, whose scores are computed for the keys up to its last query
NO_DROPOUT = (np.uint64(0),) * 5        # in the place of a stream


@inner
def softmax(row, seen):
    """Write the softmax of the first `seen` elements of a row over them, and 0 over the rest."""
    T, scores = row.dtype.type, row[:seen]
    most, total = largest(scores), T(0)
    for j in range(scores.size):
        scores[j] = exp(scores[j] - most)
        total += scores[j]
    r = T(1) / total
    for j in range(scores.size):
        scores[j] *= r
    row[seen:] = T(0)


@inner
def without_dropped(p, limit, room):
    """The weights p (R, S) of a block with 0 for those that dropout drops, which are negative. Written to room."""
    if limit == 0:                                                  # there is no dropout
        return p
    weights, kept, zero = p.reshape(-1), room[:p.size], p.dtype.type(0)
    for j in range(kept.size):
        kept[j] = zero if weights[j] < zero else weights[j]
    return kept.reshape(p.shape)


@jit
def attend(q, k, v, y, P, kept, integers, scale, causal, stream, keep_scale, n):
    """y = (P * keep * keep_scale) @ v,  P = softmax(q @ k^T * scale), for each head, block by block. q (B, H, T, D),
    k (B, H, S, D), v (B, H, S, E). P (B * H, -1) gets the weights of each block (queries of the block, keys), one block
    after the other. They are positive: a minus sign marks those that dropout drops. kept (n, ...), integers (n, ...):
    memory for each part."""
    B, H, T, D = q.shape
    S = k.shape[2]
    F = q.dtype.type
    limit, blas_threads = stream[4], get_threads()
    set_threads(1)
    for part in prange(n):
        for head in range(B * H * part // n, B * H * (part + 1) // n):
            b, h, end = head // H, head % H, 0
            for i in range(0, T, QUERIES):
                R = min(QUERIES, T - i)
                keys = i + R if causal else S
                start, end = end, end + R * keys
                p = P[head, start:end].reshape(R, keys)
                gemm(A_BT, q[b, h, i:i + R], k[b, h, :keys], p, scale, F(0))
                for r in range(R):
                    seen = i + r + 1 if causal else S
                    softmax(p[r], seen)
                    if limit > 0:
                        row, drawn = p[r][:seen], draw(stream, (head * T + i + r) * S, seen, integers[part])
                        for j in range(row.size):
                            row[j] = row[j] if drawn[j] >= limit else -row[j]
                a = without_dropped(p, limit, kept[part])
                gemm(A_B, a, v[b, h, :keys], y[b, h, i:i + R], keep_scale, F(0))
    set_threads(blas_threads)


@jit
def attend_backward(dy, q, k, v, y, P, dq, dk, dv, room, kept, scale, causal, stream, keep_scale, n):
    """dv = (P * keep * keep_scale)^T @ dy    dP = dy @ v^T * keep * keep_scale
    dS = P * (dP - sum(dP * P)) * scale    dq = dS @ k    dk = dS^T @ q

    sum(dP * P) over the keys is sum(dy * y), which has fewer terms. The last block comes first: it has all keys, so it
    writes dk and dv, to which the other blocks add. room (n, ...), kept (n, ...): memory for each part.
    """
    B, H, T, D = q.shape
    S, E = k.shape[2], v.shape[3]
    F = q.dtype.type
    zero, limit, blas_threads = F(0), stream[4], get_threads()
    set_threads(1)
    for part in prange(n):
        for head in range(B * H * part // n, B * H * (part + 1) // n):
            b, h, start, total = head // H, head % H, P.shape[1], F(0)
            for i in range((T - 1) // QUERIES * QUERIES, -1, -QUERIES):
                R = min(QUERIES, T - i)
                keys = i + R if causal else S
                start, end = start - R * keys, start
                p, ds = P[head, start:end].reshape(R, keys), room[part, :R * keys].reshape(R, keys)
                g, out = dy[b, h, i:i + R], y[b, h, i:i + R]
                gemm(A_BT, g, v[b, h, :keys], ds, scale * keep_scale, F(0))
                for r in range(R):
                    m = F(0)
                    for j in range(E):
                        m += g[r, j] * out[r, j]
                    m *= scale
                    p_row, ds_row = p[r], ds[r]
                    for j in range(ds_row.size):
                        dp = zero if p_row[j] < zero else ds_row[j]
                        ds_row[j] = abs(p_row[j]) * (dp - m)
                gemm(A_B, ds, k[b, h, :keys], dq[b, h, i:i + R], F(1), F(0))
                gemm(AT_B, ds, q[b, h, i:i + R], dk[b, h, :keys], F(1), total)
                a = without_dropped(p, limit, kept[part])
                gemm(AT_B, a, g, dv[b, h, :keys], keep_scale, total)
                total = F(1)
    set_threads(blas_threads)


def rows_contiguous(a):
    """a, or a copy, so that gemm can read a[b, h]: its rows do not overlap, and their elements lie side by side."""
    size, shape = a.itemsize, a.shape
    good = a.strides[3] == size and a.strides[2] >= shape[3] * size and not any(s % size for s in a.strides)
    return a if good else np.ascontiguousarray(a)


class Attention(Kernel, attention.Attention, register=False):
    """The scores of a block of queries are computed for the keys up to the block's last query only, so most of the half
    that the causal mask hides is never computed. The textbook runs masks, inputs of other than 4 axes, empty inputs, a
    single query, causal attention to more or fewer keys, and a single key, whose score gets no gradient."""

    def forward(self, q, k, v, *, causal=False, mask=None, dropout=0.0, key=None):
        self.check(q, k, v)
        T, S = q.shape[-2], k.shape[-2]
        if mask is not None or q.ndim != 4 or not q.size or not v.size or min(T, S) < 2 or causal and T != S:
            return super().forward(q, k, v, causal=causal, mask=mask, dropout=dropout, key=key)
        q, k, v = map(rows_contiguous, (q, k, v))
        y = empty_heads((*q.shape[:3], v.shape[3]), q.dtype)
        blocks = [(i, min(i + QUERIES, T)) for i in range(0, T, QUERIES)]
        P = empty((q.shape[0] * q.shape[1], sum((end - i) * (end if causal else S) for i, end in blocks)), q.dtype)
        scale = q.dtype.type(attention.scale_of(q))
        stream = stream_of(key, dropout) if dropout else NO_DROPOUT
        keep_scale = q.dtype.type(1.0 / (1.0 - dropout))
        n, dropped = parts(P.size, 2.0), stream[4] > 0
        kept = empty((n, min(QUERIES, T) * S if dropped else 0), q.dtype)
        integers = empty((n, S // 8 + 2 if dropped else 0, 4), np.uint64)
        attend(q, k, v, y, P, kept, integers, scale, causal, stream, keep_scale, n)
        self.save(q=q, k=k, v=v, y=y, weights=P, scale=scale, causal=causal, stream=stream, keep_scale=keep_scale)
        return y

    def backward(self, dy, **saved):
        if "P" in saved:                                            # the textbook's forward ran
            return super().backward(dy, **saved)
        q, k, v, y, P, *how = saved.values()
        (B, H, T, D), dy = q.shape, rows_contiguous(dy)
        if q.shape == k.shape == v.shape:                           # in one array, as split_heads returns q, k and v
            dq, dk, dv = empty((B, T, 3, H, D), q.dtype).transpose(2, 0, 3, 1, 4)
        else:
            dq, dk, dv = (empty_heads(a.shape, q.dtype) for a in (q, k, v))
        n, size = parts(P.size, 4.0), min(QUERIES, T) * k.shape[2]
        kept = empty((n, size if saved["stream"][4] > 0 else 0), q.dtype)
        attend_backward(dy, q, k, v, y, P, dq, dk, dv, empty((n, size), q.dtype), kept, *how, n)
        return dq, dk, dv
