"""Our own threads: jobs shared by the caller and a few workers, under a BLAS of one thread.

NumPy lets go of Python's lock while it computes, so a half of the rows on each of two threads is nearly twice as fast.
A BLAS with threads of its own would be in the way: its workers spin for a while after every product and take the core
that ours need.

Waking a thread, and being woken by it, takes as long as a small op. So inside `with ahead():` nobody waits: each thread
goes on with its part of what comes next, which needs no more than its part of what came before, until somebody looks
at a whole array.
"""
import os
import threading
from functools import lru_cache, partial
from queue import SimpleQueue
from threading import get_ident
from typing import Any, Callable, Iterable, Sequence

from threadpoolctl import ThreadpoolController

WAKE = 250e3            # nanoseconds of work below which waking another thread costs more than it saves
AHEAD = 5               # ops that the caller sends before it does its own parts: then Python's code is in the cache
Job = Callable[[], Any]
Cut = tuple[float, ...]                         # where the parts of an array end, as shares of its first axis


def _threads_asked_for() -> int:
    asked = os.environ.get("MINIGRAD_THREADS", "")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"MINIGRAD_THREADS={asked}: must be a whole number of at least 1")
    return int(asked)


class Lane:
    """Jobs that one thread does in the order in which they were sent."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self.sent = self.done = 0
        self.error: BaseException | None = None                 # the first, until somebody asks

    def send(self, job: Job) -> None:
        self.sent += 1
        self.jobs.put(job)

    def next(self) -> None:
        """Do the next job; its arrays are let go of before it counts as done."""
        try:
            self.jobs.get()()
        except BaseException as error:          # also Ctrl-C: what is under way ends soon
            self.error = self.error or error
        self.done += 1


class Pool:
    """Runs lists of jobs on n threads, of which the caller is one. A pool that is in use, by another thread or by the
    caller itself, makes nobody wait: whoever comes second runs its own jobs alone. Workers start when first needed."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.free = threading.Lock()
        self.owner = 0                          # the thread that has it
        self.doing: set[int] = set()            # threads that are doing jobs: what these call is done alone
        self.lanes: list[Lane] = []             # of each thread, the caller's first
        self.callers, self.turn = threading.Lock(), threading.Lock()
        self.moved = threading.Condition()
        self.waiting = 0                        # threads that want to know of each job that is done
        self.behind = False                     # whether anything was sent since the last `wait`
        self.postponed = 0                      # ops of which the caller has not done its own parts
        self.unsettled: dict[int, Cut | None] = {}              # memory of arrays in the making, and in which parts
        self.last: list[Job] = []               # what is to be done when all is done

    def run(self, jobs: Sequence[Job], awake: bool = True) -> None:
        """All jobs, in any order; on the caller's thread alone unless awake. The first error of any is raised when all
        are done."""
        with Ours(self) as ours:
            self.wait()
            if not ours or not awake or min(self.n, len(jobs)) < 2:
                with one_blas_thread:
                    do(jobs)
                return
            left = iter(jobs)                   # next() on it is atomic
            self.send([partial(do, left)] * min(self.n, len(jobs)))
            self.wait()

    def flow(self, jobs: Sequence[Job], cut: Cut | None, work: float, *, reads: Sequence[Any] = (),
             makes: Sequence[Any] = (), whole: Sequence[Any] = (), then: Sequence[Job] = (), last: Job | None = None,
             late: Sequence[Any] = (), short: bool = False) -> None:
        """jobs[i] on thread i, after all it was told before: it uses part i of each array of `reads`, makes part i of
        each of `makes`, whose parts end at `cut`, and may use all of `whole`. A cut of None: there are no such parts.
        work: nanoseconds that all of it takes one thread, about. short: jobs are made of calls so short that threads in
        the midst of two would wait for Python's lock, and be woken, at each of them: they take turns instead.

        then[i], on thread i, may use all of `reads`, but nothing that `jobs` make; `last`, on the caller's, runs in the
        end and may use everything. What these make is named in `late`: it is there after `wait`. Outside `ahead` all is
        done on return, by the caller alone where waking others does not pay.
        """
        single = len(jobs) + len(then) == 1     # nothing to share
        if single or not self.ours() or jobs and (cut is None or len(jobs) < 2):
            if single:
                self.settle([*reads, *whole])
                with one_blas_thread:
                    do([*jobs, *then])
            else:
                self.run([*jobs, *then], work >= WAKE)
            if last is not None:
                last()
            return
        if self.unsettled:
            self.settle(whole)
            for a in reads if jobs else ():
                if self.unsettled.get(_memory(a), cut) != cut:
                    self.wait()
        before = [lane.sent for lane in self.lanes]
        self.send([partial(self.in_turn, job) for job in jobs] if short else jobs)
        if then:
            self.send([partial(self.after, before, job) for job in then])
        if last is not None:
            self.last.append(last)
        for a in makes:
            self.unsettled[_memory(a)] = cut
        for a in late:
            self.unsettled[_memory(a)] = None
        self.postponed += 1
        if self.postponed > AHEAD and before:   # all but the newest: then others have something to do meanwhile
            self.catch_up(before[0])
            self.postponed = 1

    def send(self, jobs: Sequence[Job]) -> None:
        """One job to each of some threads."""
        if not self.behind:
            self.behind = True
            one_blas_thread.__enter__()
        while len(self.lanes) < len(jobs):
            self.lanes.append(Lane())
            if len(self.lanes) > 1:
                threading.Thread(target=self.do_forever, args=(self.lanes[-1],), daemon=True).start()
        for lane, job in zip(self.lanes, jobs):
            lane.send(job)

    def do_forever(self, lane: Lane) -> None:
        self.doing.add(get_ident())
        while True:
            lane.next()
            self.tell()

    def ours(self) -> bool:
        """Whether the calling thread has the pool, and is not in a job."""
        me = get_ident()
        return self.owner == me and me not in self.doing

    def catch_up(self, count: int) -> None:
        """Do the caller's own jobs, so many in all."""
        me = get_ident()
        with self.callers:
            try:
                self.doing.add(me)
                while self.lanes[0].done < count:
                    self.lanes[0].next()
                    self.tell()
            finally:
                self.doing.discard(me)

    def tell(self) -> None:
        if self.waiting:
            with self.moved:
                self.moved.notify_all()

    def in_turn(self, job: Job) -> None:
        """Do a job while nobody else does one in turn."""
        with self.turn:
            job()

    def after(self, counts: Sequence[int], job: Job) -> None:
        """Do a job when each thread has done so many of its own."""
        self.reach(counts)
        job()

    def reach(self, counts: Sequence[int]) -> None:
        """Until each thread has done so many jobs. Ctrl-C is raised after that: what is under way ends soon."""
        def short() -> bool:
            return any(lane.done < count for lane, count in zip(self.lanes, counts))

        interrupt = None
        while short():
            try:
                with self.moved:
                    self.waiting += 1
                    try:
                        if short():
                            self.moved.wait()
                    finally:
                        self.waiting -= 1
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def wait(self) -> None:
        """Until all that was sent is done. Who sent it gets the first error of any. Another thread, which may have been
        given an array, does the caller's jobs if it comes first: the caller may be waiting for it."""
        if not self.behind or get_ident() in self.doing:
            return
        try:
            counts = [lane.sent for lane in self.lanes]
            self.catch_up(counts[0])
            self.reach(counts)
        finally:
            if self.owner == get_ident():
                self.settled()

    def settled(self) -> None:
        """All is done, but for what is last."""
        errors = [lane.error for lane in self.lanes if lane.error is not None]
        last, self.last = self.last, []
        self.behind, self.postponed = False, 0
        one_blas_thread.__exit__()
        self.unsettled.clear()
        for lane in self.lanes:
            lane.error = None
        if errors:
            raise errors[0]
        do(last)

    def settle(self, arrays: Iterable[Any]) -> None:
        """Wait if one of the arrays is still in the making."""
        if self.behind:
            for a in arrays:
                if a is not None and _memory(a) in self.unsettled:
                    self.wait()


class Ours:
    """`with Ours(pool) as ours`: whether the pool is this thread's inside. Who took it waits at the end."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.taken = False

    def __enter__(self) -> bool:
        me = get_ident()
        if self.pool.owner != me and self.pool.free.acquire(blocking=False):
            self.taken = True
            self.pool.owner = me
        return self.pool.ours()

    def __exit__(self, *error: Any) -> None:
        if self.taken:
            try:
                self.pool.wait()
            finally:
                self.pool.owner = 0
                self.pool.free.release()


def do(jobs: Iterable[Job]) -> None:
    """One job after the other."""
    for job in jobs:
        job()


def _memory(a: Any) -> int:
    """What views of the same array have in common."""
    return id(a if a.base is None else a.base)


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
        pool.wait()
        pool = Pool(n)


def threads() -> int:
    return pool.n


def ahead() -> Ours:
    """`with ahead():` for code that looks at arrays only through Tensors: it may go on before they are complete."""
    return Ours(pool)


def ours() -> bool:
    """Whether the calling thread is inside `ahead`, and nobody else is."""
    return pool.ours()


def run(jobs: Sequence[Job], awake: bool = True) -> None:
    """Run jobs on the threads there are; on the caller's alone unless awake."""
    pool.run(jobs, awake)


def flow(jobs: Sequence[Job], cut: Cut | None, work: float, **arrays: Any) -> None:
    """Run jobs that use and make parts of arrays: see Pool.flow."""
    pool.flow(jobs, cut, work, **arrays)


def settle(*arrays: Any) -> None:
    """Wait if one of the arrays is still in the making."""
    pool.settle(arrays)


def wait() -> None:
    """Until all arrays that this thread had made are complete."""
    if pool.behind:
        pool.wait()


@lru_cache(4096)
def cuts(n: int, parts: int) -> tuple[slice, ...]:
    """At most `parts` slices of nearly equal length that cover range(n)."""
    parts = max(1, min(n, parts))
    return tuple(slice(n * i // parts, n * (i + 1) // parts) for i in range(parts))


@lru_cache(4096)
def ends(n: int, parts: int) -> Cut:
    """Where these slices end, as shares of n."""
    return tuple(s.stop / max(1, n) for s in cuts(n, parts))


def _after_fork() -> None:
    """A child process has the caller's thread alone, and locks in any state."""
    global pool, one_blas_thread
    pool = Pool(pool.n)
    libraries, one_blas_thread = one_blas_thread.libraries, _OneBlasThread()
    one_blas_thread.libraries = libraries


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=wait, after_in_child=_after_fork)
