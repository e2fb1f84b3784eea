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
        self.kept: dict[int, list[Any]] = {}    # bytes -> arrays, the last handed out last
        self.sizes: list[int] = []              # the keys in order
        self.used: set[int] = set()             # sizes handed out since memory was last given back
        self.made = 0                           # bytes made since then

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < LARGE or not COUNTED:
            return np.empty(shape, dtype)
        with self.lock:
            size, array = self.unused(nbytes) or self.make(nbytes)
            self.kept[size].append(array)
            self.used.add(size)
            return np.ndarray(shape, dtype, array)

    def unused(self, nbytes: int) -> tuple[int, Any] | None:
        """An array that fits and nobody holds, taken out of the kept ones: of the smallest size that has one, the last
        that was in use, which may still be in a cache."""
        for i in range(bisect_left(self.sizes, nbytes), len(self.sizes)):
            size = self.sizes[i]
            if size > SLACK * nbytes:
                break
            counts = references(self.kept[size])[::-1]
            if UNUSED in counts:
                return size, self.kept[size].pop(-1 - counts.index(UNUSED))
        return None

    def make(self, nbytes: int) -> tuple[int, Any]:
        """A new array."""
        self.made += nbytes
        if self.made > sum(size * len(arrays) for size, arrays in self.kept.items()) // 2:
            self.give_back()
        if nbytes not in self.kept:
            insort(self.sizes, nbytes)
            self.kept[nbytes] = []
        return nbytes, np.empty(nbytes, np.uint8)

    def give_back(self) -> None:
        """Let go of the unused arrays of sizes that were not handed out lately."""
        for size in self.kept.keys() - self.used:
            arrays = self.kept[size]
            self.kept[size] = [a for a, count in zip(arrays, references(arrays)) if count != UNUSED]
            if not self.kept[size]:
                del self.kept[size]
        self.sizes = sorted(self.kept)
        self.used, self.made = set(), 0


memory = Memory()


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array to be written to, of memory that may have been used before."""
    return memory.empty(shape, dtype)
