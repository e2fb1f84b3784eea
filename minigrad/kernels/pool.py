"""Our own threads: jobs shared by the caller and a few workers, under a BLAS of one thread.

NumPy lets go of Python's lock while it computes, so a half of the rows on each of two threads is nearly twice as fast.
A BLAS with threads of its own would be in the way: its workers spin for a while after every product and take the core
that ours need.
"""
import os
import threading
from queue import SimpleQueue
from typing import Any, Callable, Iterable, Sequence

from threadpoolctl import ThreadpoolController

Job = Callable[[], Any]


def _threads_asked_for() -> int:
    asked = os.environ.get("MINIGRAD_THREADS", "")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"MINIGRAD_THREADS={asked}: must be a whole number of at least 1")
    return int(asked)


class Pool:
    """Runs lists of jobs on n threads, of which the caller is one. A pool that is in use, by another thread or by the
    caller itself, makes nobody wait: whoever comes second runs its own jobs alone. Workers start when first needed."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.free = threading.Lock()
        self.start_over()

    def start_over(self) -> None:
        """Forget the workers: they end what they do, and nobody waits for it."""
        self.jobs: SimpleQueue[Any] = SimpleQueue()
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()
        self.workers = 0

    def run(self, jobs: Sequence[Job], awake: bool = True) -> None:
        """All jobs, in any order; on the caller's thread alone unless awake. The first error of any is raised when all
        are done."""
        helpers = min(self.n, len(jobs)) - 1 if awake else 0
        with one_blas_thread:
            if helpers < 1 or not self.free.acquire(blocking=False):
                for job in jobs:
                    job()
                return
            try:
                while self.workers < helpers:
                    self.workers += 1
                    threading.Thread(target=_work, args=(self.jobs, self.done), daemon=True).start()
                left = iter(jobs)               # next() on it is atomic
                for _ in range(helpers):
                    self.jobs.put(left)
                errors = [_take(left)] + [self.done.get() for _ in range(helpers)]
            except BaseException:               # Ctrl-C while it waits
                self.start_over()
                raise
            finally:
                self.free.release()
        for error in errors:
            if error is not None:
                raise error


def _work(jobs: "SimpleQueue[Any]", done: "SimpleQueue[BaseException | None]") -> None:
    while True:
        done.put(_take(jobs.get()))


def _take(jobs: Iterable[Job]) -> BaseException | None:
    try:
        for job in jobs:
            job()
    except BaseException as error:
        return error
    return None


class _OneBlasThread:
    """While anyone is inside, BLAS has one thread: its own setting comes back with the last to leave."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.libraries: list[Any] | None = None
        self.before: list[int] = []

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                if self.libraries is None:      # looking for them takes milliseconds
                    found = ThreadpoolController().lib_controllers
                    self.libraries = [lib for lib in found if lib.user_api == "blas"]
                self.before = [lib.get_num_threads() for lib in self.libraries]
                for lib, n in zip(self.libraries, self.before):
                    if n != 1:
                        lib.set_num_threads(1)
            self.inside += 1

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                for lib, n in zip(self.libraries or (), self.before):
                    if n != 1:
                        lib.set_num_threads(n)


one_blas_thread = _OneBlasThread()
pool = Pool(_threads_asked_for())


def set_threads(n: int) -> None:
    """How many threads kernels use from now on; results depend on it in the last bits. ValueError below 1."""
    global pool
    if n < 1:
        raise ValueError(f"threads must be at least 1, got {n}")
    if n != pool.n:
        pool = Pool(n)


def threads() -> int:
    return pool.n


def run(jobs: Sequence[Job], awake: bool = True) -> None:
    """Run jobs on the threads there are; on the caller's alone unless awake."""
    pool.run(jobs, awake)


def cuts(n: int, parts: int) -> list[slice]:
    """At most `parts` slices of nearly equal length that cover range(n)."""
    parts = max(1, min(n, parts))
    return [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


def _after_fork() -> None:
    """A child process has the caller's thread alone, and locks in any state."""
    global pool, one_blas_thread
    pool = Pool(pool.n)
    libraries, one_blas_thread = one_blas_thread.libraries, _OneBlasThread()
    one_blas_thread.libraries = libraries


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
