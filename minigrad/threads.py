"""The number of threads of NumPy's BLAS, which runs the matrix products, and of kernels that are loops. All else runs
on the calling thread."""
import os
import threading
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

lock = threading.RLock()                        # held while the number of threads is read or set, or a loop runs
for_loops = 1                                   # the number of threads of loops
MOST = 1024                                     # threads that are started for a test: more than any BLAS uses


@cache                                          # finding the libraries takes milliseconds
def blas_libraries() -> list[Any]:
    """threadpoolctl's controllers of the BLAS libraries that are loaded."""
    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def numpys_blas() -> Any:
    """threadpoolctl's controller of NumPy's BLAS; None if it does not know it. SciPy brings another one."""
    return min(blas_libraries(), key=lambda library: "numpy" not in library.filepath, default=None)


def set_num_threads(n: int) -> None:
    """Set the number of threads that matrix products and loops run on; if the system starts fewer than n, use those
    that it starts. Sums are split by the number of threads, so results may differ in the last bits. ValueError unless n
    is a whole number of at least 1."""
    global for_loops
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"the number of threads must be a whole number of at least 1, got {n!r}")
    with lock:
        now = get_num_threads()
        if n > now:                             # BLAS would wait without end for a thread that was not started
            n = now + _startable(n - now)
        for library in blas_libraries():
            library.set_num_threads(n)          # a library may have a lower limit of its own
        for_loops = n


def get_num_threads() -> int:
    """The number of threads that matrix products run on; that of loops if threadpoolctl does not know NumPy's BLAS."""
    with lock:                                  # a loop sets it to 1 while it runs
        return max((library.get_num_threads() for library in blas_libraries()), default=for_loops)


def _startable(n: int) -> int:
    """How many of n more threads the system starts: all, unless a limit is reached. At most MOST are started."""
    done, started = threading.Event(), []
    try:
        for _ in range(min(n, MOST)):
            thread = threading.Thread(target=done.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass
    finally:
        done.set()
        for thread in started:
            thread.join()
    return len(started)


if hasattr(os, "register_at_fork"):             # a fork waits until no loop runs, so that the child has the lock
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
