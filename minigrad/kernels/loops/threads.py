"""The threads of loops: how many a piece of work is split for, and who may run a loop.

numba starts the threads, those of OpenMP where it can. Results depend on the number of parts that a loop is split into,
not on how many threads then run. One Python thread at a time runs loops; others wait. OpenMP's threads do not survive a
fork: the child runs the vector kernels.
"""
from typing import Any

import numba

from minigrad import threads

WORTH = 10e3                # nanoseconds of work for each thread, below which waking it costs more than it saves
number = threads.get_num_threads() if threads.blas_libraries() else numba.config.NUMBA_NUM_THREADS
forked = False              # this is the child of a process that had started OpenMP's threads

# A layer that the user chose by NUMBA_THREADING_LAYER is used; numba's own order prefers TBB.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def parts(elements: int, nanoseconds: float) -> int:
    """How many parts a loop over so many elements is split into, of so many nanoseconds each: one for each thread,
    fewer if there is too little work."""
    return max(1, min(number, int(elements * nanoseconds / WORTH)))


def run(loop: Any, args: Any) -> None:
    """Run a compiled loop function. The last of its arguments is n, the number of parts."""
    with threads.lock:
        if forked:
            raise RuntimeError("this process was forked from one that had run loops, whose threads it does not have: "
                               "run the forward pass again, or set MINIGRAD_EXECUTOR=vector before the fork")
        numba.set_num_threads(min(args[-1], numba.config.NUMBA_NUM_THREADS))
        loop(*args)


def started() -> bool:
    """Whether threads that do not survive a fork have been started."""
    try:
        return numba.threading_layer() == "omp"
    except ValueError:                          # none have
        return False


def layer() -> str:
    """The name of what numba's threads are: omp, tbb or workqueue."""
    numba.set_num_threads(1)                # starts them
    return str(numba.threading_layer())


def set_number(n: int) -> None:
    global number
    number = n


threads.WHEN_SET.append(set_number)
