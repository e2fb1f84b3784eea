"""Large arrays that are handed out again when nobody holds them any more.

A step makes hundreds of megabytes of arrays and drops them again. Memory that goes back to the system comes back in
fresh pages, which cost as much as the work that is done on them.
"""
import math
import sys
import threading
from typing import Any

import numpy as np

LARGE = 1 << 16                                 # bytes from which this pays


def references(arrays: list[Any]) -> list[int]:
    """How many references there are to each array of a list, those of the list and of this loop included."""
    return [sys.getrefcount(array) for array in arrays]


UNUSED = references([np.empty(1)])[0]
COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()       # without Python's lock, counts are not exact


class Memory:
    """`empty` gives arrays like np.empty. Their memory is used again once no array refers to it: whoever keeps one, or
    a view of it, keeps it for good. A size that is not asked for while others are made anew is given back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: dict[int, list[Any]] = {}    # bytes -> arrays
        self.asked: set[int] = set()            # sizes asked for since memory was last given back
        self.made = 0                           # bytes made since then

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < LARGE or not COUNTED:
            return np.empty(shape, dtype)
        with self.lock:
            self.asked.add(nbytes)
            kept = self.kept.setdefault(nbytes, [])
            held = references(kept)
            if UNUSED in held:
                return kept[held.index(UNUSED)].view(dtype).reshape(shape)
            kept.append(np.empty(nbytes, np.uint8))
            self.made += nbytes
            if self.made > sum(size * len(arrays) for size, arrays in self.kept.items()) // 2:
                self.give_back()
            return kept[-1].view(dtype).reshape(shape)

    def give_back(self) -> None:
        """Let go of the unused arrays of sizes that nobody asked for lately."""
        for size in self.kept.keys() - self.asked:
            arrays = self.kept[size]
            self.kept[size] = [arrays[i] for i, n in enumerate(references(arrays)) if n != UNUSED]
        self.asked, self.made = set(), 0


memory = Memory()


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array to be written to, of memory that may have been used before."""
    return memory.empty(shape, dtype)
