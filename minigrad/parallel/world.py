"""The processes that train together: how they start, exchange small objects, and end."""
import contextlib
import faulthandler
import io
import math
import os
import pickle
import platform
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any, Callable, Iterator, NoReturn, TypeVar

import numpy as np

T = TypeVar("T")

SIZES = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"      # set by mpirun of MPICH and Intel MPI, and srun; of Open MPI
RANKS = "PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"             # a launcher with PMIx tells the rank alone
BUCKET = 1 << 20                                # elements that are sent at once
SHARED_BYTES = 1 << 30                          # a larger array is in memory once per machine
give_way = getattr(os, "sched_yield", lambda: time.sleep(0.0))     # to another process that wants this core


class World:
    """The processes that were started together, by mpirun or srun. For one process, MPI is not imported.

    rank: the number of this process, from 0; size: how many there are. local_rank, local_size: the same, among those on
    this machine; machines: how many machines. patience: seconds to wait for the others; after that this process ends,
    with status 3, as a machine or the network is down. ValueError if there are several processes and they have no MPI,
    or another MPI than that of mpirun; only rank 0 gets it, the others end with status 2.

    An exception on one rank ends all: the others would wait for it without end. `with World() as world:` does the same
    for SystemExit. Inside, only rank 0 prints; what another rank writes to stderr is shown if it ends alone.
    """
    comm: Any = None

    def __init__(self, patience: float = 600.0) -> None:
        self.patience = patience
        self.rank, self.size, self.local_rank, self.local_size, self.machines = 0, 1, 0, 1, 1
        self.since: float | None = None         # when this process began to wait for the others
        self.together = False                   # every rank ends: by an error that all have, or by `exit`
        self.held = io.StringIO()               # what a rank other than 0 wrote to stderr
        sizes, ranks = ([int(os.environ[name]) for name in names if name in os.environ] for names in (SIZES, RANKS))
        if max(sizes, default=0) == 1 or not sizes + ranks:
            return
        rank, started = max(ranks, default=0), max(sizes, default="several")
        faulthandler.dump_traceback_later(patience, exit=True, file=2)      # _watch needs the GIL, MPI_Init holds it
        try:
            from mpi4py import MPI              # waits until every process does so
        except (ImportError, RuntimeError) as error:            # RuntimeError: there is no MPI library
            raise ValueError(f"{started} processes were started and cannot exchange numbers ({error}): pip install "
                             '-e ".[mpi]"') if rank == 0 else SystemExit(2)
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.comm, self.rank, self.size = MPI.COMM_WORLD, MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
        if self.size == 1 and (sizes or rank > 0):
            first = rank == (0 if sizes else 1)                 # without a size, rank 0 does not know of the others
            raise ValueError(f"{started} processes were started, and mpi4py sees one: they are of two MPIs; use the "
                             "mpirun that was installed with mpi4py's MPI, "
                             f"{MPI.Get_library_version().splitlines()[0]}") if first else SystemExit(2)
        if self.size > 1:
            sys.excepthook = self._uncaught
            threading.Thread(target=self._watch, daemon=True).start()
            self.last = self.comm.Dup()         # for the end: its messages do not meet those of a rank that goes on
            hosts = self.gather(platform.node())
            same = [r for r, host in enumerate(hosts) if host == hosts[self.rank]]
            self.local_rank, self.local_size, self.machines = same.index(self.rank), len(same), len(set(hosts))

    # ---- the end ----

    def __enter__(self) -> "World":
        self.streams = sys.stdout, sys.stderr
        if self.rank > 0:
            sys.stdout, sys.stderr = open(os.devnull, "w", errors="replace"), self.held     # for any encoding
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
                 ) -> None:
        if self.rank > 0:
            sys.stdout.close()
        sys.stdout, sys.stderr = self.streams
        failed = error is not None and (not isinstance(error, SystemExit) or error.code not in (0, None))
        if self.size > 1 and error is not None and failed and not self.together:
            self._end_all(error)
        if self.rank > 0 and failed and not isinstance(error, SystemExit):
            raise SystemExit(1)                 # rank 0 shows the traceback
        if self.size > 1 and not failed:
            self.wait(self.last.Ibarrier())     # for rank 0, which may still write its report

    def exit(self, status: int | str) -> NoReturn:
        """To be called by every rank: exit with a status, or with 1 and a text that rank 0 prints to stderr."""
        self.fail(SystemExit(status if self.rank == 0 or isinstance(status, int) else 1))

    def fail(self, error: BaseException) -> NoReturn:
        """To be called by every rank: raise an exception, which rank 0 shows if nothing catches it."""
        self.together = True
        raise error

    def _uncaught(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not self.together:
            self._end_all(error)
        elif self.rank == 0:
            sys.__excepthook__(kind, error, where)

    def _end_all(self, error: BaseException) -> None:
        """End every process because this one failed alone, or got a signal that ends it."""
        status, said = 1, "".join(traceback.format_exception(error))
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            code = getattr(error, "code", 130)
            status, said = (code, "") if isinstance(code, int) else (1, f"{code}\n")
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stdout.flush()                  # it may be closed
        if status <= 128:
            self._say(f"{self.held.getvalue()}{said}this process failed, and all are ended")
        self.comm.Abort(status)
        os._exit(status)                        # Abort may return

    def _say(self, text: str) -> None:
        """Write to stderr, with the number of this rank, the last that this process does."""
        with contextlib.suppress(OSError, ValueError):
            stream = sys.__stderr__ or sys.stderr
            stream.write(f"rank {self.rank} of {self.size}: {text}\n")
            stream.flush()
        time.sleep(1.0)                         # mpirun may drop what it has not read when a process ends the others

    # ---- waiting for the others ----

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, this process waits for the others."""
        self.together, self.since = False, time.monotonic()
        try:
            yield
        finally:
            self.since = None

    def _watch(self) -> None:
        """End this process when it has waited too long. In a thread of its own, and without MPI, which may never
        return. Time in which this process was suspended does not count."""
        seen, waited = None, 0.0
        while True:
            tick = min(1.0, self.patience / 4)
            time.sleep(tick)
            waited = waited + tick if seen is not None and seen == self.since else 0.0
            seen = self.since
            if waited >= self.patience:
                self._say(f"waited {self.patience:g} s for the others: a process was stopped, or a machine or the "
                          "network is down. Start again from the last checkpoint, with a larger patience if a process "
                          "only needed more time")
                os._exit(3)

    def wait(self, request: Any) -> None:
        """Return when an MPI request is complete. Meanwhile signals are handled, and other processes get the core."""
        with self.waiting():
            while not request.Test():
                give_way()

    # ---- agreement ----

    def gather(self, x: T) -> list[T]:
        """The small object x of each rank, by rank, on every rank."""
        if self.size == 1:
            return [x]
        self.wait(self.comm.Ibarrier())         # while allgather waits, it uses the core and no signal is handled
        with self.waiting():
            return self.comm.allgather(x)       # type: ignore[no-any-return]

    def interleave(self, xs: list[T]) -> list[T]:
        """Elements r, r + size, ... of a list from each rank r  ->  the whole list, on every rank."""
        parts = self.gather(xs)
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def each(self, make: Callable[[], T]) -> T:
        """make() on every rank; or the exception of the first rank where it fails, on every rank."""
        made: Any = None
        error: BaseException | None = None
        try:
            made = make()
        except (Exception, SystemExit) as problem:
            if self.size == 1:
                raise
            error = problem
        if (first := next(filter(None, self.gather(portable(error))), None)) is not None:
            self.fail(error or first)
        return made                             # type: ignore[no-any-return]

    def share(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; or its exception on every rank."""
        made: Any = self.each(lambda: make() if self.rank == 0 else None)
        if self.size > 1:
            with self.waiting():
                made = self.comm.bcast(made, root=0)
        return made                             # type: ignore[no-any-return]

    def share_array(self, array: Any) -> Any:
        """The NumPy array of rank 0, on every rank; the others give None. On machines without rank 0, an array above
        SHARED_BYTES is in memory once per machine."""
        if self.size == 1:
            return array
        from mpi4py import MPI
        shape, dtype = self.share(lambda: (array.shape, array.dtype))
        comm, holds, nbytes = self.comm, True, math.prod(shape) * dtype.itemsize
        if nbytes > SHARED_BYTES:
            machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
            holds = machine.rank == 0
            comm = comm.Split(0 if holds else MPI.UNDEFINED)
            window = MPI.Win.Allocate_shared(nbytes * holds, dtype.itemsize, comm=machine)
            memory: Any = window.Shared_query(0)[0]
            whole = np.frombuffer(memory, dtype).reshape(shape)
        else:
            whole = np.empty(shape, dtype)
        if self.rank == 0:
            whole[...] = array
        flat = whole.reshape(-1)
        for start in range(0, flat.size if holds else 0, BUCKET):
            self.wait(comm.Ibcast(flat[start:start + BUCKET]))
        self.gather(None)
        return whole

    def agree(self, **facts: Any) -> None:
        """ValueError on every rank if one has other facts than rank 0."""
        everyones = self.gather({name: str(fact) for name, fact in facts.items()})
        for rank, theirs in enumerate(everyones):
            other = [f"{name} {theirs[name]}, and rank 0 {x}" for name, x in everyones[0].items() if theirs[name] != x]
            if other:
                self.fail(ValueError(f"rank {rank} has {'; '.join(other)}: all processes need the same"))


def portable(error: BaseException | None) -> BaseException | None:
    """An exception that can be pickled: this one, or else the built-in exception that it is derived from."""
    try:
        return pickle.loads(pickle.dumps(error))            # type: ignore[no-any-return]
    except Exception:
        built_in = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        return built_in(str(error))                         # type: ignore[no-any-return]
