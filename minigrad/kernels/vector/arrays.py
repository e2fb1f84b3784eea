"""Arrays that kernels use: slices of large arrays, uninitialized arrays, buffers, vectors of ones."""
import math
import threading
from typing import Any, Iterator

import numpy as np

from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.settings import settings


def partition(n: int, size: int) -> list[slice]:
    """Slices that cover range(n): of nearly equal length, at most `size`, or 1 if size is smaller."""
    count = -(-n // max(1, size))
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def pieces(x: Any) -> Iterator[slice]:
    """Slices of the first axis of x, each of at most settings.piece elements, or of one row: a piece stays in a core's
    cache while several elementwise operations run on it."""
    width = x.size // max(1, len(x))
    return iter(partition(len(x), settings.piece // max(1, width)))


def empty_like(x: Any) -> Any:
    """An uninitialized contiguous array of the shape and dtype of x."""
    return empty(x.shape, x.dtype)


def rows_of(x: Any) -> Any:
    """x (..., C) as a contiguous (N, C): a view, or a copy if x is not contiguous."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[Any, Any] = {}


_buffers = _Buffers()


def scratch(name: str, like: Any, *shape: int) -> Any:
    """A buffer of this thread, with this shape and the dtype of `like`. The next call with the same name and dtype
    returns the same memory."""
    key, size = (name, like.dtype.char), math.prod(shape)
    a = _buffers.arrays.get(key)
    if a is None or a.size < size:
        a = _buffers.arrays[key] = np.empty(size, like.dtype)
    return a[:size].reshape(shape)


def ones(n: int, like: Any) -> Any:
    """A vector of n ones in the dtype of `like`: a product with it is the fastest sum along an axis."""
    key = "ones", like.dtype.char
    a = _buffers.arrays.get(key)
    if a is None or a.size < n:
        a = _buffers.arrays[key] = np.ones(n, like.dtype)
    return a[:n]


def sum_of_rows(x: Any) -> Any:
    """The sum of the rows of x (N, C)  ->  (C,), in float64. A product with ones adds up the rows of a block. In
    float32 it loses digits if there are many rows, so blocks are small, and their sums are added in float64."""
    total = np.zeros(x.shape[1])
    for s in partition(len(x), settings.summed_rows):
        total += ones(s.stop - s.start, x) @ x[s]
    return total
