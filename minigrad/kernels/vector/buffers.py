"""A caching allocator: arrays whose memory is used again once nothing refers to them.

A training step makes hundreds of megabytes of arrays and frees them again. Memory that goes back to the system comes
back in fresh pages, which cost as much as the work that is done on them.
"""
import math
import sys
import threading
from bisect import bisect_left, insort
from typing import Any

import numpy as np

from minigrad.kernels.vector.settings import settings

SLACK = 1.5                                     # an array may be this many times larger than asked for


def references(arrays: list[Any]) -> list[int]:
    """The number of references to each array of a list, the list's own included."""
    return list(map(sys.getrefcount, arrays))


UNUSED, = references([np.empty(1)])
COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()       # without Python's lock, counts are not exact


class Buffers:
    """`empty` gives arrays like np.empty. The memory of one is used again once no array refers to it, for an array of
    the same size or a little smaller; a reference to it, or to a view of it, keeps it. Memory of sizes that are not in
    use is freed when more is allocated."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lent: dict[int, list[Any]] = {}    # bytes -> arrays that were handed out, the last one last
        self.free: dict[int, list[Any]] = {}    # bytes -> those that were found to be unused
        self.sizes: list[int] = []              # the keys of both in order
        self.used: set[int] = set()             # sizes handed out since memory was last freed
        self.allocated = 0                      # bytes allocated since then

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array to be written to."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < settings.reused_bytes or not COUNTED:
            return np.empty(shape, dtype)
        with self.lock:
            size = nbytes if self.free.get(nbytes) else self.size_for(nbytes)
            array = self.free[size].pop()
            self.lent[size].append(array)
            self.used.add(size)
            return np.ndarray(shape, dtype, array)

    def size_for(self, nbytes: int) -> int:
        """The smallest size that fits and has an unused array; if there is none, an array is allocated."""
        for size in self.sizes[bisect_left(self.sizes, nbytes):]:
            if size > SLACK * nbytes:
                break
            if self.free[size] or self.reclaim(size):
                return size
        self.allocated += nbytes
        if self.allocated > sum(size * len(self.lent[size] + self.free[size]) for size in self.sizes) // 2:
            self.trim()
        if nbytes not in self.free:
            insort(self.sizes, nbytes)
            self.lent[nbytes], self.free[nbytes] = [], []
        self.free[nbytes].append(np.empty(nbytes, np.uint8))
        return nbytes

    def reclaim(self, size: int) -> bool:
        """Move the arrays of a size that nothing refers to from lent to free. Returns whether there were any."""
        arrays = self.lent[size]
        counts = references(arrays)
        if UNUSED not in counts:
            return False
        self.free[size] += [a for a, count in zip(arrays, counts) if count == UNUSED]
        self.lent[size] = [a for a, count in zip(arrays, counts) if count != UNUSED]
        return True

    def trim(self) -> None:
        """Free the unused arrays of sizes that were not handed out lately."""
        for size in self.free.keys() - self.used:
            self.reclaim(size)
            self.free[size] = []
            if not self.lent[size]:
                del self.lent[size], self.free[size]
        self.sizes = sorted(self.free)
        self.used, self.allocated = set(), 0


empty = Buffers().empty
