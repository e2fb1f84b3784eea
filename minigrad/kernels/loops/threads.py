"""The threads of loops: how many parts a loop is split into, and who may run one.

numba starts the threads: those of OpenMP, or where it has none, those of another layer. Results depend on the number of
parts, not on how many threads there are. One Python thread at a time runs a loop, others wait: OpenMP's threads would
compete for the cores, and numba's workqueue ends a program in which two use it. GNU OpenMP's threads do not survive a
fork: the child runs the vector kernels.
"""
import contextlib
import importlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba

from minigrad import threads

WORTH = 10e3                # nanoseconds of work for each thread, below which waking it costs more than it saves
mine = threading.local()    # num_threads: how many of numba's threads the loops of this Python thread use
forked = False              # whether this process has no threads because it was forked from one that had

threads.for_loops = threads.get_num_threads() if threads.blas_libraries() else numba.config.NUMBA_NUM_THREADS
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]     # numba's own order prefers TBB
# A thread of GNU OpenMP without work spins for milliseconds: if other programs use the cores, steps take several times
# as long. It reads the number of turns when it is loaded.
preset = "GOMP_SPINCOUNT" in os.environ
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
with contextlib.suppress(ImportError):              # another layer is used
    importlib.import_module("numba.np.ufunc.omppool")
if not preset:
    del os.environ["GOMP_SPINCOUNT"]


def parts(elements: int, nanoseconds: float) -> int:
    """How many parts a loop over so many elements is split into, if each takes so many nanoseconds: as many as there
    are threads, or fewer if there is too little work."""
    return max(1, min(threads.for_loops, int(elements * nanoseconds / WORTH)))


def run(loop: Any, args: Any) -> None:
    """Run a compiled loop function. The last of its arguments is n, the number of parts."""
    with threads.lock:
        if forked:
            raise RuntimeError("loops cannot run in this process, as it was forked from one that had run loops: run "
                               "the forward pass again, which then takes the vector kernels")
        if not loop.overloads:                          # it is compiled now, or loaded from the cache
            on_another_thread(loop, *args)
            return
        n = min(args[-1], numba.config.NUMBA_NUM_THREADS)
        if n != getattr(mine, "num_threads", None):     # numba's function takes as long as a small loop
            numba.set_num_threads(n)
            mine.num_threads = n
        loop(*args)


def on_another_thread(function: Any, *args: Any) -> None:
    """Call a function that may start numba's threads. On this thread, a Ctrl-C would leave numba half set up, and numba
    would turn nested parallelism on: PyTorch's threads would then start threads of their own, and take 5 times as
    long."""
    with ThreadPoolExecutor(1) as other_thread:
        try:
            call = other_thread.submit(function, *args)
        except RuntimeError:                            # no thread can be started
            function(*args)
            return
        call.result()


def layer() -> str:
    """The name of the layer that numba's threads belong to: OpenMP, tbb or workqueue. Starts the threads."""
    on_another_thread(numba.set_num_threads, 1)
    return str(numba.threading_layer()).replace("omp", "OpenMP")


def survive_fork() -> bool:
    """Whether a child of this process could run loops: no threads were started, or none of OpenMP."""
    try:
        return numba.threading_layer() != "omp"
    except ValueError:                                  # none were started
        return True
