"""Dropout, and the random numbers that decide which elements it keeps."""
import numpy as np
from numba import prange

from minigrad.kernels.executor import Kernel
from minigrad.kernels.loops.compiling import inner, jit
from minigrad.kernels.loops.threads import parts
from minigrad.kernels.vector.arrays import empty_like
from minigrad.ops import dropout as op
from minigrad.random import threshold

CHUNK = 1024                    # elements whose random numbers are drawn at once
# of Philox: what the counter is multiplied by, and what is added to the key
M0, M1, W0, W1 = map(np.uint64, (0xD2E7470EE14C6C93, 0xCA5A826395121157, 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B))
ONE, HALF, LOWER = map(np.uint64, (1, 32, 0xFFFFFFFF))


@inner
def high(a, b):
    """The upper 64 bits of a b, of 128 bits, from products of the halves of a and b."""
    a1, a0, b1, b0 = a >> HALF, a & LOWER, b >> HALF, b & LOWER
    left = a1 * b0 + (a0 * b0 >> HALF)
    right = a0 * b1 + (left & LOWER)
    return a1 * b1 + (left >> HALF) + (right >> HALF)


@inner
def draw(stream, first, n, room):
    """The random integers of elements first to first + n - 1, those of minigrad.random.bits. stream: of `stream_of`.
    Philox-4x64-10 draws four words at once, which are those of 8 elements. room (n // 8 + 2, 4), uint64: for them."""
    seed, name, micro, step, _ = stream
    for i in range((first % 8 + n + 7) // 8):
        k0, k1, a, b, c, d = seed, name, np.uint64(first // 8 + i) + ONE, np.uint64(0), micro, step
        for _ in range(10):
            a, b, c, d = high(M1, c) ^ b ^ k0, M1 * c, high(M0, a) ^ d ^ k1, M0 * a
            k0 += W0
            k1 += W1
        room[i, 0], room[i, 1], room[i, 2], room[i, 3] = a, b, c, d
    return room.view(np.uint32).reshape(-1)[first % 8:]


@jit
def dropout(x, stream, scale, y, n):
    """y = x * keep * scale for x, y (N,)."""
    N, zero, limit = x.size, x.dtype.type(0), stream[4]
    for part in prange(n):
        room, end = np.empty((CHUNK // 8 + 2, 4), np.uint64), N * (part + 1) // n
        for first in range(N * part // n, end, CHUNK):
            here = slice(first, min(first + CHUNK, end))
            x_here, y_here = x[here], y[here]
            integers = draw(stream, first, x_here.size, room)
            for i in range(x_here.size):
                y_here[i] = x_here[i] * scale if integers[i] >= limit else zero


def stream_of(key, p):
    """What loops draw from: the numbers of a key, and the smallest random integer of an element that is kept."""
    limit = threshold(key, p)
    return tuple(map(np.uint64, (key.seed, key.stream, key.micro, key.step, limit)))


class Dropout(Kernel, op.Dropout, register=False):
    """Saves no mask: the backward, which is the same function, draws it again."""
    unaliased = drops = 0,
    min_size = 64

    def forward(self, x, *, p, key):
        self.save(stream=stream_of(key, p), scale=1.0 / (1.0 - p))
        return self.backward(x, **self.saved)

    def backward(self, dy, stream, scale):
        dy1 = np.ascontiguousarray(dy).reshape(-1)
        dx = empty_like(dy1)
        dropout(dy1, stream, dy1.dtype.type(scale), dx, parts(dy1.size, 1.5))
        return dx.reshape(dy.shape)
