"""Arrays that kernels work in: pieces of large ones, buffers, vectors of ones."""
import math
import threading
from typing import Any, Iterator

import numpy as np

from minigrad.kernels.vector.buffers import empty
from minigrad.kernels.vector.settings import settings


def cuts(n: int, size: int) -> list[slice]:
    """Slices of nearly equal length, at most `size` (at least 1), that cover range(n)."""
    count = -(-n // max(1, size))
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def pieces(x: Any) -> Iterator[slice]:
    """Slices of the first axis of x, each of about settings.piece elements: a chain of elementwise work on one piece
    stays in a core's cache."""
    width = x.size // max(1, len(x))
    return iter(cuts(len(x), settings.piece // max(1, width)))


def like(x: Any) -> Any:
    """An array to be written to, of the shape and dtype of x."""
    return empty(x.shape, x.dtype)


def rows_of(x: Any) -> Any:
    """x (..., C) as (N, C), contiguous: a view, or a copy if x is not contiguous."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[Any, Any] = {}


_buffers = _Buffers()


def scratch(name: str, like: Any, *shape: int) -> Any:
    """A buffer of this thread in the dtype of `like`. The next call under the same name overwrites it."""
    key, size = (name, like.dtype.char), math.prod(shape)
    a = _buffers.arrays.get(key)
    if a is None or a.size < size:
        a = _buffers.arrays[key] = np.empty(size, like.dtype)
    return a[:size].reshape(shape)


def ones(n: int, like: Any) -> Any:
    """A vector of ones: a product with it is the fastest sum along an axis."""
    key = "ones", like.dtype.char
    a = _buffers.arrays.get(key)
    if a is None or a.size < n:
        a = _buffers.arrays[key] = np.ones(n, like.dtype)
    return a[:n]
