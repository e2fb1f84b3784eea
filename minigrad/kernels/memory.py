"""Large arrays that are handed out again when nobody holds them any more.

A step makes hundreds of megabytes of arrays and drops them again. Memory that goes back to the system comes back in
fresh pages, which cost as much as the work that is done on them.
"""
import math
import sys
import threading
from bisect import bisect_left, insort
from typing import Any

import numpy as np

LARGE = 1 << 16                                 # bytes from which this pays
SLACK = 1.5                                     # how many times larger than asked for an array may be


def references(arrays: list[Any]) -> list[int]:
    """How many references there are to each array of a list, the list's own included."""
    return list(map(sys.getrefcount, arrays))


UNUSED, = references([np.empty(1)])
COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()       # without Python's lock, counts are not exact


class Memory:
    """`empty` gives arrays like np.empty. Their memory is used again once no array refers to it, for one of the same
    size or a little smaller: whoever keeps one, or a view of it, keeps it for good. Arrays of a size that is not in use
    while others are made anew are given back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lent: dict[int, list[Any]] = {}    # bytes -> arrays that were handed out, the last one last
        self.free: dict[int, list[Any]] = {}    # bytes -> those that were found to be unused
        self.sizes: list[int] = []              # the keys of both in order
        self.used: set[int] = set()             # sizes handed out since memory was last given back
        self.made = 0                           # bytes made since then

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < LARGE or not COUNTED:
            return np.empty(shape, dtype)
        with self.lock:
            size = nbytes if self.free.get(nbytes) else self.fitting(nbytes)
            array = self.free[size].pop()
            self.lent[size].append(array)
            self.used.add(size)
            return np.ndarray(shape, dtype, array)

    def fitting(self, nbytes: int) -> int:
        """The smallest size that fits and of which an array is free. Makes one if there is none."""
        for size in self.sizes[bisect_left(self.sizes, nbytes):]:
            if size > SLACK * nbytes:
                break
            if self.free[size] or self.find(size):
                return size
        self.made += nbytes
        if self.made > sum(size * len(self.lent[size] + self.free[size]) for size in self.sizes) // 2:
            self.give_back()
        if nbytes not in self.free:
            insort(self.sizes, nbytes)
            self.lent[nbytes], self.free[nbytes] = [], []
        self.free[nbytes].append(np.empty(nbytes, np.uint8))
        return nbytes

    def find(self, size: int) -> bool:
        """Whether any of the arrays of a size that were handed out is unused: these are free."""
        arrays = self.lent[size]
        counts = references(arrays)
        if UNUSED not in counts:
            return False
        self.free[size] += [a for a, count in zip(arrays, counts) if count == UNUSED]
        self.lent[size] = [a for a, count in zip(arrays, counts) if count != UNUSED]
        return True

    def give_back(self) -> None:
        """Let go of the unused arrays of sizes that were not handed out lately."""
        for size in self.free.keys() - self.used:
            self.find(size)
            self.free[size] = []
            if not self.lent[size]:
                del self.lent[size], self.free[size]
        self.sizes = sorted(self.free)
        self.used, self.made = set(), 0


memory = Memory()


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array to be written to, of memory that may have been used before."""
    return memory.empty(shape, dtype)
