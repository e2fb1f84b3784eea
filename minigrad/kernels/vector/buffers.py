"""A caching allocator: it reuses the memory of arrays that have no references left.

A training step allocates hundreds of megabytes and frees them again. Memory that is returned to the operating system
comes back as new pages, and the first write to these takes as long as computing on them.
"""
import math
import os
import sys
import threading
from bisect import bisect_left, insort
from typing import Any

import numpy as np

from minigrad.kernels.vector.settings import settings

SLACK = 1.5                                     # reused memory is at most this many times as large as requested


def references(arrays: list[Any]) -> list[int]:
    """The number of references to each array of a list, including the list's own."""
    return list(map(sys.getrefcount, arrays))


UNUSED, = references([np.empty(1)])             # the number for an array that only the list refers to
COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()       # without Python's lock, counts are not exact


class Buffers:
    """`empty` returns arrays as np.empty does. When neither an array nor a view of it has a reference left, its memory
    is reused for an array of the same size or a little smaller. Memory of sizes that are no longer requested is freed
    when more memory is allocated."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lent: dict[int, list[Any]] = {}    # size in bytes -> the memory of arrays that `empty` returned
        self.free: dict[int, list[Any]] = {}    # size in bytes -> memory that is known to be unused
        self.sizes: list[int] = []              # the keys of both, sorted
        self.used: set[int] = set()             # sizes that `empty` took since memory was last freed
        self.allocated = 0                      # bytes allocated since memory was last freed

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialized array."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < settings.reused_bytes or not COUNTED or self.lock.locked():
            return np.empty(shape, dtype)       # a signal handler that waited for a lock of its own thread would hang
        with self.lock:
            size = nbytes if self.free.get(nbytes) else self.size_for(nbytes)
            array = self.free[size].pop()
            self.lent[size].append(array)
            self.used.add(size)
            return np.ndarray(shape, dtype, array)

    def size_for(self, nbytes: int) -> int:
        """The smallest size that fits and has unused memory; if there is none, memory of nbytes is allocated."""
        for size in self.sizes[bisect_left(self.sizes, nbytes):]:
            if size > SLACK * nbytes:
                break
            if self.free[size] or self.reclaim(size):
                return size
        self.allocated += nbytes
        if self.allocated > sum(size * len(self.lent[size] + self.free[size]) for size in self.sizes) // 2:
            self.trim()
        if nbytes not in self.free:             # in an order in which an interrupt does no harm, as in trim
            self.lent[nbytes], self.free[nbytes] = [], []
            insort(self.sizes, nbytes)
        self.free[nbytes].append(np.empty(nbytes, np.uint8))
        return nbytes

    def reclaim(self, size: int) -> bool:
        """Move the memory of a size that nothing else refers to from lent to free. Returns whether there is any."""
        arrays = self.lent[size]
        counts = references(arrays)
        if UNUSED not in counts:
            return False
        self.free[size] += [a for a, count in zip(arrays, counts) if count == UNUSED]
        self.lent[size] = [a for a, count in zip(arrays, counts) if count != UNUSED]
        return True

    def trim(self) -> None:
        """Free the unused memory of sizes that `empty` has not taken since memory was last freed."""
        unused = self.free.keys() - self.used
        for size in unused:
            self.reclaim(size)
            self.free[size] = []
        empty_sizes = [size for size in unused if not self.lent[size]]
        self.sizes = sorted(self.free.keys() - empty_sizes)
        for size in empty_sizes:
            del self.free[size], self.lent[size]
        self.used, self.allocated = set(), 0


_buffers = Buffers()
empty = _buffers.empty
if hasattr(os, "register_at_fork"):             # else a child forked while another thread allocates would not reuse any
    os.register_at_fork(before=_buffers.lock.acquire, after_in_parent=_buffers.lock.release,
                        after_in_child=_buffers.lock.release)
