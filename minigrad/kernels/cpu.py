"""Kernels for NumPy arrays of float32 and float64.

What makes them fast, in the order of what it brings: each thread takes one half of the rows, under a BLAS of one
thread; causal attention never computes the masked half, and divides by the row sums where that is cheap; sums along
rows are products with a vector of ones; chains of elementwise work run in place; the head's gradients are made with its
loss; memory is used again. Names are the textbook's, whose formulas these compute.

A kernel never writes into its inputs. `fresh` names the inputs whose gradient is an array that nobody else holds, so
that the engine may go on adding to it.

Arrays that a kernel is given may still be in the making, part by part: it uses them in jobs alone, which `flow` starts
when what they use is there, or after `settle` or `wait`.
"""
import math
import threading
from functools import cache, partial
from itertools import accumulate
from typing import Any, Iterator

import numpy as np

from minigrad.kernels import pool
from minigrad.kernels.memory import empty
from minigrad.kernels.pool import cuts, ends
from minigrad.ops import adamw, attention, embedding, linalg, loss, norm, pointwise, shape

SHARE = 4e3             # nanoseconds of work below which there is nothing to share
LATE = 80e3             # by which the caller is behind the other threads after an op: it has run Python's code for all
PIECE = 3 << 16         # elements of a piece of elementwise work: in shorter calls threads wait for Python's lock
FEW_ROWS = 32           # of a product for each thread, below which threads take columns
FEW = 2048              # elements below which the textbook is as fast, having less to prepare
LINE = 8                # rows of a gradient of weights, of which a thread takes a multiple
STRETCH = 1 << 18       # elements of parameters that are updated at once
QUERIES = 64            # in a block of attention
SCORES = 1 << 17        # of a block, for all heads that a thread takes at once
VOCABULARY = 128        # tokens up to which the gradient of their table is a product
PRODUCT = 0.025         # nanoseconds of a multiplication and addition in a product of matrices
SAFE = 1e20             # sums of exponentials between 1 / SAFE and SAFE are far from overflow and underflow


def worth_waking(elements: int, ns: float) -> bool:
    """Whether so many elements, at about ns nanoseconds each, take longer than it takes another thread to wake."""
    return elements * ns >= pool.WAKE


def parts(elements: int, ns: float) -> int:
    """How many threads find work in so many elements, at about ns nanoseconds each."""
    return min(pool.threads(), 1 + int(elements * ns / SHARE))


def halves(n: int, elements: int, ns: float) -> tuple[slice, ...]:
    """range(n), cut for them."""
    return cuts(n, parts(elements, ns))


def making_up(n: int, work: float) -> tuple[slice, ...]:
    """range(n), which takes one thread so many nanoseconds, cut so that all are done at once though the caller begins
    later."""
    others = parts(n, work / max(1, n)) - 1
    if not others:
        return slice(0, n),
    share = max(0.0, 1.0 - others * LATE / work) / (others + 1)
    mine = round(n * share / LINE) * LINE
    return slice(0, mine), *(slice(mine + s.start, mine + s.stop) for s in cuts(n - mine, others))


def pieces(rows: slice, width: int) -> Iterator[slice]:
    """Some rows, cut evenly into pieces of about PIECE elements at most."""
    n = rows.stop - rows.start
    return (slice(rows.start + s.start, rows.start + s.stop) for s in cuts(n, -(-n * width // PIECE)))


def product(a: Any, b: Any, out: Any, then: Any = None) -> tuple[list[Any], pool.Cut | None, float]:
    """What `flow` is to be given for out = a @ b, and then(part of out, its columns) on each part: parts are rows of a,
    or columns of b where the rows are so few that BLAS would spend its time on laying out all of b for each thread."""
    N, work = len(a), a.size * b.shape[1]
    threads, cut = parts(work, PRODUCT), None
    if N >= FEW_ROWS * threads:
        cut, found = ends(N, threads), [(a[s], b, out[s], slice(None)) for s in cuts(N, threads)]
    else:
        found = [(a, b[:, s], out[:, s], s) for s in cuts(b.shape[1], threads)]

    def part(a: Any, b: Any, out: Any, columns: slice) -> None:
        np.matmul(a, b, out=out)
        if then is not None:
            then(out, columns)

    return [partial(part, *p) for p in found], cut, work * PRODUCT


def flow(function: Any, n: int, elements: int, ns: float, **arrays: Any) -> None:
    """Call function on each part of range(n), on its thread: see Pool.flow. It works on so many elements, at about ns
    nanoseconds each."""
    threads = parts(elements, ns)
    pool.flow([partial(function, s) for s in cuts(n, threads)], ends(n, threads), elements * ns,
              short=elements <= PIECE * threads, **arrays)


class _OfThisThread(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[Any, Any] = {}


_mine = _OfThisThread()


def scratch(name: str, like: Any, *shape: int) -> Any:
    """An array of this thread, of a dtype like another's, that the next call under the same name overwrites."""
    key, size = (name, like.dtype.char), math.prod(shape)
    a = _mine.arrays.get(key)
    if a is None or a.size < size:
        a = _mine.arrays[key] = np.empty(size, like.dtype)
    return a[:size].reshape(shape)


def ones(n: int, like: Any) -> Any:
    """A vector of ones, to sum by a product."""
    key = "ones", like.dtype.char
    a = _mine.arrays.get(key)
    if a is None or a.size < n:
        a = _mine.arrays[key] = np.ones(n, like.dtype)
    return a[:n]


def like(x: Any) -> Any:
    """An array to be written to, of the shape and dtype of another."""
    return empty(x.shape, x.dtype)


def rows_of(x: Any) -> Any:
    """x (..., C) as (N, C), contiguous."""
    return flat(x).reshape(-1, x.shape[-1])


def flat(x: Any) -> Any:
    """x if it is contiguous, or a copy that is."""
    complete_to_copy(x)
    return np.ascontiguousarray(x)


def complete_to_copy(x: Any) -> None:
    """Wait for x where it is not contiguous: a new shape of it is then a copy, else a view with the same parts."""
    if not x.flags.c_contiguous:
        pool.wait()


def write_back(arrays: list[Any], flat: list[Any]) -> None:
    """What was written to each array's reshape(-1), into those that do not lie flat, of which it was a copy."""
    for a, new in zip(arrays, flat):
        if not a.flags.c_contiguous:
            a[...] = new.reshape(a.shape)


def address(a: Any) -> int:
    """Where an array lies in memory."""
    return a.__array_interface__["data"][0]


class Add(pointwise.Add, register=False):
    """Where b is added to many arrays alike, as positions are where a graph begins, its gradient is summed here."""
    least = FEW
    forgets = 0, 1

    def forward(self, a, b):
        copies = self.copies(a, b)
        self.save(copies=copies, shape=np.shape(b))
        if not copies:
            pool.wait()
            return np.add(a, b, out=empty(np.broadcast_shapes(np.shape(a), np.shape(b)), np.result_type(a, b)))
        y = like(a)
        if copies > 1 and not worth_waking(y.size, 0.12):
            pool.settle(a, b)
            np.add(a, b, out=y)
        elif copies > 1:
            a2, b1, y2 = a.reshape(copies, -1), b.reshape(-1), y.reshape(copies, -1)
            flow(lambda s: np.add(a2[s], b1, out=y2[s]), copies, y.size, 0.12, reads=(a,), whole=(b,), makes=(y,))
        else:
            a1, b1, y1 = a.reshape(-1), b.reshape(-1), y.reshape(-1)
            flow(lambda s: np.add(a1[s], b1[s], out=y1[s]), y.size, y.size, 0.12, reads=(a, b), makes=(y,))
        return y

    def backward(self, dy, copies, shape):
        if copies < 2 or not self.needs[1]:
            return dy, dy
        dy2, db = flat(dy).reshape(copies, -1), empty(shape, dy.dtype)
        db1 = db.reshape(-1)

        def total(s):
            np.matmul(ones(copies, dy), dy2[:, s], out=db1[s])

        pool.flow([], None, dy.size * 0.1, reads=(dy2,), late=(db,),
                  then=[partial(total, s) for s in halves(db.size, dy.size, 0.1)])
        return dy, db

    @staticmethod
    def copies(a, b):
        """How many times b is added to a contiguous a; 0 where it is not as simple as that."""
        if not np.ndim(a) >= np.ndim(b) > 0 or a.shape[a.ndim - b.ndim:] != b.shape or not a.size:
            return 0
        return a.size // b.size if a.flags.c_contiguous and b.flags.c_contiguous else 0


class LayerNorm(norm.LayerNorm, register=False):
    least = FEW
    fresh, adds, forgets = (0, 1, 2), 0, (0,)

    def forward(self, x, w, b=None, *, eps=1e-5):
        self.check(x, w, b)
        C, x2 = w.shape[0], rows_of(x)
        rstd, y = np.empty(len(x2), x2.dtype), like(x2)
        xhat = like(x2) if True in self.needs else y
        mean_of = np.full(C, 1.0 / C, x2.dtype)

        def half(rows):
            for s in pieces(rows, C):
                c, r = xhat[s], rstd[s]
                mean = x2[s] @ mean_of                              # (rows,)
                np.subtract(x2[s], mean[:, None], out=c)
                np.vecdot(c, c, out=r)
                r *= 1.0 / C
                r += eps
                np.sqrt(r, out=r)
                np.divide(1.0, r, out=r)
                c *= r[:, None]
                np.multiply(c, w, out=y[s])
                if b is not None:
                    y[s] += b

        flow(half, len(x2), x2.size, 1.2, reads=(x2,), whole=(w, b), makes=(xhat, rstd, y))
        self.save(xhat=xhat, rstd=rstd, w=w, shape=x.shape)
        return y.reshape(x.shape)

    def backward(self, dy, xhat, rstd, w, shape):
        C, dy2 = w.shape[0], rows_of(dy)
        dx, all_rows = xhat if self.alone else like(xhat), halves(len(xhat), xhat.size, 1.6)
        so_far = None if self.so_far is None else rows_of(self.so_far)
        sums = np.zeros((len(all_rows), 2, C), xhat.dtype)          # of each half: dw, db
        whole = np.empty((2, C), xhat.dtype)
        minus_mean = w * (-1.0 / C)             # of what it is multiplied with, times w

        def half(rows):
            dw, db = sums[all_rows.index(rows)]
            for s in pieces(rows, C):
                n = s.stop - s.start
                g, d, q = dy2[s], dx[s], scratch("q", xhat, n, C)
                np.multiply(g, xhat[s], out=q)
                dw += ones(n, xhat) @ q
                db += ones(n, xhat) @ g
                scale, shift = q @ minus_mean, g @ minus_mean       # (rows,)
                np.multiply(xhat[s], scale[:, None], out=q)
                np.multiply(g, w, out=d)
                d += q
                d += shift[:, None]
                d *= rstd[s, None]
                if so_far is not None:
                    d += so_far[s]

        flow(half, len(xhat), xhat.size, 1.6, reads=[dy2] if so_far is None else [dy2, so_far], makes=(dx,),
             last=lambda: sums.sum(axis=0, out=whole), late=(whole,))
        return (dx.reshape(shape), *whole)[:len(self.needs)]


class Linear(linalg.Linear, register=False):
    least = FEW
    fresh = 0, 1, 2

    def forward(self, x, w, b=None):
        self.check(x, w, b)
        x2 = rows_of(x)                                             # (N, I)
        y = empty((len(x2), w.shape[1]), x.dtype)                   # (N, O)
        pool.flow(*product(x2, w, y, None if b is None else lambda out, s: np.add(out, b[s], out=out)),
                  reads=(x2,), whole=(w, b), makes=(y,))
        self.save(x2=x2, w=w, shape=x.shape)
        return y.reshape(x.shape[:-1] + w.shape[1:])

    def backward(self, dy, x2, w, shape):
        dy2 = rows_of(dy)                                           # (N, O)
        dx = empty((len(dy2), w.shape[0]), dy.dtype) if self.needs[0] else None
        dw, db, work = empty(w.shape, dy.dtype), np.empty(w.shape[1], dy.dtype), dy2.size * w.shape[0]

        def weight(s):
            np.matmul(x2[:, s].T, dy2, out=dw[s])
            if len(self.needs) == 3 and s.stop == len(w):
                np.matmul(ones(len(dy2), dy), dy2, out=db)

        jobs, cut, _ = ([], None, 0.0) if dx is None else product(dy2, w.T, dx)
        pool.flow(jobs, cut, 2 * work * PRODUCT, reads=(dy2, x2), makes=() if dx is None else (dx,), late=(dw, db),
                  then=[partial(weight, s) for s in making_up(len(w), work * PRODUCT)])
        return (None if dx is None else dx.reshape(shape), dw, db)[:len(self.needs)]


class Gelu(pointwise.Gelu, register=False):
    """The slope is made with the value: the graph then lets go of x, which is as large."""
    least = FEW
    fresh = forgets = 0,

    def forward(self, x):
        x1 = flat(x).reshape(-1)
        y, slope = like(x1), like(x1) if self.needs[0] else None

        def half(rows):
            for s in pieces(rows, 1):
                x, z = x1[s], scratch("z", x1, s.stop - s.start)    # z = (1 + t) / 2, how far the gate is open
                q = z if slope is None else slope[s]
                np.multiply(x, x, out=q)
                np.multiply(q, self.k * self.c, out=z)
                z += self.k
                z *= x
                np.tanh(z, out=z)
                z *= 0.5
                z += 0.5
                np.multiply(x, z, out=y[s])
                if slope is not None:
                    q *= 6.0 * self.k * self.c
                    q += 2.0 * self.k
                    q *= y[s]                                       # 2 x du z
                    q *= np.subtract(1.0, z, out=scratch("q", x1, len(x)))
                    q += z                                          # z + 2 x du z (1 - z)

        ns = 1.2 if slope is None else 2.0
        flow(half, len(x1), x1.size, ns, reads=(x1,), makes=(y,) if slope is None else (y, slope))
        self.save(slope=slope, shape=x.shape)
        return y.reshape(x.shape)

    def backward(self, dy, slope, shape):
        dy1 = flat(dy).reshape(-1)
        dx = slope if self.alone else like(slope)
        flow(lambda s: np.multiply(dy1[s], slope[s], out=dx[s]), len(slope), slope.size, 0.14,
             reads=(dy1,), makes=(dx,))
        return dx.reshape(shape)


class Attention(attention.Attention, register=False):
    """The textbook's for masks, dropout, queries fewer than keys, and a single key, whose scores get no gradient.

    A block of 64 queries meets the keys up to its last one. E holds exp(scores), z the sums of its rows: P = E / z is
    never written out, as y and dy are divided instead, which are narrower. A thread takes so many heads at once that
    what it makes for a block stays in its cache.
    """
    least = FEW

    def forward(self, q, k, v, *, causal=False, mask=None, dropout=0.0, key=None):
        self.check(q, k, v)
        T, S, D = q.shape[-2], k.shape[-2], q.shape[-1]
        if mask is not None or dropout or causal and T not in (1, S) or S < 2 or q.ndim < 3 or not q.size or not v.size:
            pool.wait()
            return super().forward(q, k, v, causal=causal, mask=mask, dropout=dropout, key=key)
        causal = causal and T > 1
        lead, E = q.shape[:-2], v.shape[-1]
        y = self.heads_inside((*lead, T, E), q.dtype)
        blocks = [slice(i, min(i + QUERIES, T)) for i in range(0, T, QUERIES)]
        ends = [block.stop if causal else S for block in blocks]
        exps = [empty((*lead, block.stop - block.start, end), q.dtype) for block, end in zip(blocks, ends)]
        rz = np.empty((*lead, T, 1), q.dtype)                       # 1 / z

        def part(at):
            keys, values, outs, z, here = k[at].swapaxes(-1, -2), v[at], y[at], rz[at], [exp[at] for exp in exps]
            queries = np.multiply(q[at], 1.0 / math.sqrt(D), out=scratch("q", q, *q[at].shape))

            def attend(shifted):
                for block, end, e in zip(blocks, ends, here):
                    np.matmul(queries[..., block, :], keys[..., :end], out=e)
                    if causal:
                        e[..., block] += self.above(block.stop - block.start, q.dtype)
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

        self.flow(part, lead, T, S, D, reads=(q, k, v), makes=(y,))
        self.save(q=q, k=k, v=v, y=y, exps=exps, rz=rz, blocks=blocks, ends=ends)
        return y

    def backward(self, dy, **saved):
        if "P" in saved:
            pool.wait()
            return super().backward(dy, **saved)
        q, k, v, y, exps, rz, blocks, ends = saved.values()
        lead, (T, D), S = q.shape[:-2], q.shape[-2:], k.shape[-2]
        rz = rz * (1.0 / math.sqrt(D))                              # scales all that is made of g
        if q.shape == k.shape == v.shape and q.ndim == 4:           # side by side, as a split gave them
            dq, dk, dv = empty((lead[0], T, 3, lead[1], D), q.dtype).transpose(2, 0, 3, 1, 4)
        else:
            dq, dk, dv = (self.heads_inside(a.shape, q.dtype) for a in (q, k, v))

        def part(at):
            queries, keys, values, dqs = q[at], k[at], v[at].swapaxes(-1, -2), dq[at]
            g = np.multiply(dy[at], rz[at], out=scratch("q", q, *y[at].shape))
            means = np.vecdot(g, y[at])[..., None]                  # sum(dP * P): (..., T, 1)
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

        self.flow(part, lead, T, S, 1.7 * D, reads=(dy,), makes=(dq, dk, dv))
        return dq, dk, dv

    @staticmethod
    @cache
    def above(n, dtype):
        """What is added to the scores of n queries with the same n positions as keys, to hide the later ones."""
        return np.triu(np.full((n, n), attention.far_below(dtype), dtype), 1)

    @staticmethod
    def heads_inside(shape, dtype):
        """An array (B, nh, T, D) whose memory is (B, T, nh, D): joining the heads is then a reshape."""
        if len(shape) != 4:
            return empty(shape, dtype)
        B, nh, T, D = shape
        return empty((B, T, nh, D), dtype).swapaxes(1, 2)

    @staticmethod
    def flow(part, lead, T, S, D, **arrays):
        """part(heads) for all heads: an index of the leading axes, which is some rows of the batch, or some heads of
        one row."""
        rows, inside, ns = lead[0], math.prod(lead[1:]), 1.5 + 0.03 * D
        elements = rows * inside * T * S
        threads, fit = parts(elements, ns), max(1, SCORES // (min(T, QUERIES) * S))                 # heads at once
        found: list[tuple[slice, ...]]
        if len(lead) > 1 and (rows < threads or inside > fit):
            heads = cuts(lead[1], max(-(-threads // rows), -(-inside // fit)))
            found = [(slice(b, b + 1), h) for b in range(rows) for h in heads]
        else:
            groups = -(-rows // (fit // inside))
            found = [(s,) for s in cuts(rows, threads * -(-groups // threads))]
        jobs, cut = [partial(part, at) for at in found], None
        if rows % threads == 0:                 # then no group lies in two parts of the batch
            jobs, cut = [partial(pool.do, jobs[s]) for s in cuts(len(jobs), threads)], ends(len(jobs), threads)
        pool.flow(jobs, cut, elements * ns, **arrays)


class Reshape(shape.Reshape, register=False):
    def forward(self, x, *, shape):
        complete_to_copy(x)
        return super().forward(x, shape=shape)

    def backward(self, dy, shape):
        complete_to_copy(dy)
        return super().backward(dy, shape)


class Swapaxes(shape.Swapaxes, register=False):
    def forward(self, x, *, axis1, axis2):
        y = super().forward(x, axis1=axis1, axis2=axis2)
        if 0 in (axis1 % x.ndim, axis2 % x.ndim):                   # the view has other parts
            pool.wait()
        return y

    def backward(self, dy, axis1, axis2):
        if 0 in (axis1 % dy.ndim, axis2 % dy.ndim):
            pool.wait()
        return super().backward(dy, axis1, axis2)


class SplitHeads(shape.SplitHeads, register=False):
    """Gradients that lie side by side in one array, as those of attention do, are that array."""

    def forward(self, x, *, n_head):
        complete_to_copy(x)
        return super().forward(x, n_head=n_head)

    def backward(self, *dys, shape):
        heads = self.joined(dys)
        if heads is None:
            pool.wait()
            return super().backward(*dys, shape=shape)
        return heads.swapaxes(1, 2).reshape(shape)

    @staticmethod
    def joined(dys):
        """The array (B, 3 nh, T, hs) of which dys are the thirds, if they lie side by side."""
        first, memory = dys[0], dys[0].base
        B, nh, T, hs = first.shape
        place, step = address(first), nh * first.strides[1]
        if type(memory) is not np.ndarray or not memory.flags.c_contiguous or any(
                dy.base is not memory or dy.strides != first.strides or address(dy) != place + i * step
                for i, dy in enumerate(dys)):
            return None
        return np.ndarray((B, 3 * nh, T, hs), first.dtype, memory, place - address(memory), first.strides)


class MergeHeads(shape.MergeHeads, register=False):
    def forward(self, x):
        complete_to_copy(x.swapaxes(1, 2))
        return super().forward(x)

    def backward(self, dy, shape):
        complete_to_copy(dy)
        return super().backward(dy, shape)


class Embedding(embedding.Embedding, register=False):
    fresh, adds = (0,), 0

    def forward(self, w, *, idx):
        self.check(w, idx)
        idx = np.asarray(idx)
        self.save(idx=idx, shape=w.shape)
        y, rows = empty((idx.size, w.shape[1]), w.dtype), idx.reshape(-1)

        def take(s):
            np.take(w, rows[s], axis=0, out=y[s], mode="clip")      # all are in range

        if worth_waking(y.size, 0.2):
            flow(take, len(y), y.size, 0.2, whole=(w,), makes=(y,))
        else:
            pool.settle(w)
            take(slice(None))
        return y.reshape(*idx.shape, w.shape[1])

    def backward(self, dy, idx, shape):
        idx, dy2, so_far = idx.reshape(-1), rows_of(dy), self.so_far            # (N,), (N, C)
        V, C = shape

        if V <= VOCABULARY:                     # all rows, as a product
            dw, n, work = empty(shape, dy.dtype), V, V * dy.size * PRODUCT

            def total(s):
                np.matmul((np.arange(V)[s, None] == idx).astype(dy.dtype), dy2, out=dw[s])
                if so_far is not None:
                    dw[s] += so_far[s]
        else:                                   # the rows that were used, each once: first[i] in order are its uses
            if so_far is not None and not self.so_far_is_ours:
                pool.settle(so_far)
                so_far = so_far.copy()
            dw, n, work = np.zeros(shape, dy.dtype) if so_far is None else so_far, C, dy.size * 2.0
            order = np.argsort(idx, kind="stable")
            first = np.flatnonzero(np.diff(idx[order], prepend=-1))
            used = idx[order[first]]

            def total(s):
                dw[used, s] += np.add.reduceat(dy2[:, s][order], first, axis=0)

        pool.flow([], None, work, reads=(dy2,), late=(dw,), then=[partial(total, s) for s in making_up(n, work)])
        return dw


class CrossEntropy(loss.CrossEntropy, register=False):
    """The textbook's for label smoothing. The gradient is made with the loss, while the exponentials are at hand."""
    fresh = forgets = 0,

    def forward(self, logits, *, targets, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        counted, t = self.check(logits, targets, ignore_index, label_smoothing, reduction)
        if label_smoothing:
            pool.wait()
            return super().forward(logits, targets=targets, ignore_index=ignore_index,
                                   label_smoothing=label_smoothing, reduction=reduction)
        z, V = rows_of(logits), logits.shape[-1]                                    # (N, V)
        n = loss.count(np, counted, reduction, z.dtype)
        share, losses = (counted / n).astype(z.dtype), np.empty(len(z), z.dtype)    # (N,)
        dz = like(z) if self.needs[0] else None

        def half(rows):
            for s in pieces(rows, V):
                e = scratch("z", z, s.stop - s.start, V) if dz is None else dz[s]
                losses[s] = surprise(z[s], t[s], share[s], e)

        flow(half, len(z), z.size, 1.5, reads=(z,), makes=(losses,) if dz is None else (losses, dz))
        pool.settle(losses)
        self.save(dz=dz, shape=logits.shape)
        return losses.reshape(targets.shape) if reduction == "none" else losses.sum()

    def backward(self, dy, **saved):
        if "z" in saved:
            pool.wait()
            return super().backward(dy, **saved)
        return scaled(saved["dz"], dy.reshape(-1, 1), self.alone).reshape(saved["shape"])


def scaled(a, by, ours):
    """a * by, in a's memory if it is ours."""
    pool.settle(by)
    return np.multiply(a, by, out=a if ours else None) if by.size > 1 or not ours or by != 1.0 else a


def surprise(z, t, share, e):
    """share * cross-entropy of each row of logits z (N, V) with targets t  ->  (N,). e, which may be z itself, becomes
    the gradient of their sum."""
    rows = np.arange(len(z))
    np.subtract(z, z.max(axis=1, keepdims=True), out=e)
    picked = e[rows, t]                                             # (N,)
    np.exp(e, out=e)
    total = e @ ones(z.shape[1], z)
    e *= (share / total)[:, None]
    e[rows, t] -= share
    np.log(total, out=total)
    total -= picked
    total *= share
    return total


class LinearCrossEntropy(loss.LinearCrossEntropy, register=False):
    """The gradients are made with the loss, from the logits of a chunk of rows while they are there: no product is made
    twice, and what is kept for the backward are the gradients of x and w."""
    fresh, forgets = (0, 1), (0,)
    logits = 1 << 24                            # of a chunk, at most

    def forward(self, x, w, *, targets, ignore_index=-100, reduction="mean", rows=1024):
        self.check(x, w, targets, reduction)
        x2, V = rows_of(x), w.shape[0]                              # (N, C)
        counted, t = loss.counted_targets(targets, ignore_index, V)
        share = (counted / loss.count(np, counted, reduction, x.dtype)).astype(x.dtype)
        losses, chunk = np.empty(len(x2), x.dtype), max(1, min(len(x2), self.logits // V))
        wanted = self.needs[0] or self.needs[1]
        dx: Any = like(x2) if wanted else None
        dw: Any = like(w) if wanted else None
        dz = empty((chunk, V), x.dtype)
        if chunk < len(x2):                     # parts of a chunk are not those of x
            pool.settle(x2)

        for start in range(0, len(x2), chunk):
            here = slice(start, min(start + chunk, len(x2)))
            x_here, z = x2[here], dz[:here.stop - start]

            def half(rows):
                for s in pieces(rows, V):
                    there = slice(start + s.start, start + s.stop)
                    losses[there] = surprise(z[s], t[there], share[there], z[s])

            def columns(s):
                if start == 0:
                    np.matmul(z[:, s].T, x_here, out=dw[s])
                else:
                    for v in pieces(s, w.shape[1]):
                        dw[v] += z[:, v].T @ x_here

            pool.flow(*product(x_here, w.T, z), reads=(x2,), whole=(w,), makes=(z,))
            flow(half, len(z), z.size, 1.5, reads=(z,), makes=(z, losses))
            if wanted:
                shares = making_up(V, z.size * w.shape[1] * PRODUCT)
                pool.flow(*product(z, w, dx[here]), reads=(z,), makes=(dx,), late=(dw,),
                          then=[partial(columns, s) for s in shares])
            pool.wait()                         # z will be written again
        if wanted and not len(x2):
            dw[...] = 0.0
        self.save(dx=dx, dw=dw, shape=x.shape)
        return losses.sum()

    def backward(self, dy, dx, dw, shape):
        return scaled(dx, dy, self.alone).reshape(shape), scaled(dw, dy, self.alone)


class AdamW(adamw.AdamW, register=False):
    """The forward and backward of the textbook; an optimizer calls `in_place`."""

    @classmethod
    def in_place(cls, ps, gs, m, v, *hyper, t):
        """The step of parameters whose moments lie one after the other in m and v, written over all but gs: a few long
        calls cost less than some for each parameter."""
        flat = [p.reshape(-1) for p in ps]
        pairs, jobs = list(zip(flat, (g.reshape(-1) for g in gs)))[::-1], []
        for s in cuts(m.size, -(-m.size // STRETCH)):
            here, room = [], s.stop - s.start   # the parts of p and g that belong to this stretch of m and v
            while room:
                p, g = pairs.pop()
                if p.size > room:
                    pairs.append((p[room:], g[room:]))
                here.append((p[:room], g[:room]))
                room -= here[-1][0].size
            jobs.append(partial(cls.move, here, m[s], v[s], *hyper, t=t))
        pool.run(jobs, worth_waking(m.size, 1.6))
        write_back(ps, flat)

    @staticmethod
    def move(pairs, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        """The step of the formulas, written over m, v and the p of each pair (p, g)."""
        c1, c2 = 1.0 - beta1 ** t, 1.0 - beta2 ** t
        q = scratch("q", m, m.size)
        ends = list(accumulate(g.size for _, g in pairs))
        parts = [(p, g, q[end - g.size:end]) for (p, g), end in zip(pairs, ends)]

        for _, g, part in parts:
            np.multiply(g, 1.0 - beta1, out=part)
        m *= beta1
        m += q
        for _, g, part in parts:
            np.multiply(g, math.sqrt(1.0 - beta2), out=part)
        q *= q
        v *= beta2
        v += q
        np.sqrt(v, out=q)                                           # sqrt(c2) (r + eps)
        q += eps * math.sqrt(c2)
        np.divide(m, q, out=q)
        q *= lr * math.sqrt(c2) / c1
        for p, _, part in parts:
            if weight_decay:
                p *= 1.0 - lr * weight_decay
            p -= part


def clip(grads: list[Any], max_norm: float) -> float:
    """Scale gradients in place, so that their joint L2 norm is at most max_norm  ->  the norm before."""
    flat = [g.reshape(-1) for g in grads]
    parts = [g[s] for g in flat for s in cuts(g.size, -(-g.size // STRETCH))]
    squares, awake = np.zeros(len(parts)), worth_waking(sum(g.size for g in grads), 0.1)

    def square(i: int) -> None:
        squares[i] = parts[i] @ parts[i]

    pool.run([partial(square, i) for i in range(len(parts))], awake)
    norm = math.sqrt(squares.sum())
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1.0:                                            # also for NaN
        pool.run([partial(np.multiply, part, scale, out=part) for part in parts], awake)
        write_back(grads, flat)
    return norm


KERNELS: tuple[Any, ...] = (
    Add, LayerNorm, Linear, Gelu, Attention, Reshape, Swapaxes, SplitHeads, MergeHeads, Embedding, CrossEntropy,
    LinearCrossEntropy, AdamW)
for kernel in KERNELS:
    kernel.__base__.kernels[np.ndarray] = kernel
