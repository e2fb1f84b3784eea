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
    """How many references there are to each array of a list, those of the list and of this loop included."""
    return [sys.getrefcount(array) for array in arrays]


UNUSED = references([np.empty(1)])[0]
COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()       # without Python's lock, counts are not exact


class Memory:
    """`empty` gives arrays like np.empty. Their memory is used again once no array refers to it, for one of the same
    size or a little smaller: whoever keeps one, or a view of it, keeps it for good. Arrays of a size that is not in use
    while others are made anew are given back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: dict[int, list[Any]] = {}    # bytes -> arrays
        self.unused: dict[int, list[Any]] = {}  # those of them that nobody held when they were last looked through
        self.sizes: list[int] = []              # the keys in order
        self.used: set[int] = set()             # sizes handed out since memory was last given back
        self.made = 0                           # bytes made since then

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < LARGE or not COUNTED:
            return np.empty(shape, dtype)
        with self.lock:
            size = self.fitting(nbytes) or self.make(nbytes)
            self.used.add(size)
            return self.unused[size].pop()[:nbytes].view(dtype).reshape(shape)

    def fitting(self, nbytes: int) -> int | None:
        """The smallest size of which there is an array that fits and nobody holds."""
        for i in range(bisect_left(self.sizes, nbytes), len(self.sizes)):
            size = self.sizes[i]
            if size > SLACK * nbytes:
                break
            if not self.unused[size]:
                arrays = self.kept[size]
                self.unused[size] = [arrays[i] for i, n in enumerate(references(arrays)) if n == UNUSED][::-1]
            if self.unused[size]:
                return size
        return None

    def make(self, nbytes: int) -> int:
        """One more array of a size, which is returned."""
        if self.made > sum(size * len(arrays) for size, arrays in self.kept.items()) // 2:
            self.give_back()
        if nbytes not in self.kept:
            insort(self.sizes, nbytes)
            self.kept[nbytes], self.unused[nbytes] = [], []
        array = np.empty(nbytes, np.uint8)
        self.kept[nbytes].append(array)
        self.unused[nbytes].append(array)
        self.made += nbytes
        return nbytes

    def give_back(self) -> None:
        """Let go of the unused arrays of sizes that were not handed out lately."""
        self.unused = {size: [] for size in self.kept}
        for size in self.kept.keys() - self.used:
            arrays = self.kept[size]
            self.kept[size] = [arrays[i] for i, n in enumerate(references(arrays)) if n != UNUSED]
            if not self.kept[size]:
                del self.kept[size], self.unused[size]
        self.sizes = sorted(self.kept)
        self.used, self.made = set(), 0


memory = Memory()


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array to be written to, of memory that may have been used before."""
    return memory.empty(shape, dtype)
