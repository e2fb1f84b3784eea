"""The threads of loops: how many a piece of work is split for."""
import contextlib
import os
from typing import Any, Iterator

import numba

from minigrad import threads

WORTH = 10e3                # nanoseconds of work for each thread, below which waking it costs more than it saves
# Each has the same numbers; OpenMP is the fastest. A layer that the user chose by NUMBA_THREADING_LAYER is used.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
number = threads.get_num_threads()


def set_number(n: int) -> None:
    global number
    number = n


threads.WHEN_SET.append(set_number)


def parts(elements: int, nanoseconds: float) -> int:
    """How many parts a loop over so many elements is split into, of so many nanoseconds each: one for each thread,
    fewer if there is too little work."""
    return max(1, min(number, int(elements * nanoseconds / WORTH)))


@contextlib.contextmanager
def running(n: int) -> Iterator[None]:
    with threads.lock:
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
        yield
