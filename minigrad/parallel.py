"""Several processes train one model: mpirun -n 4 python train.py --gradient_accumulation_steps=8

Each process computes the gradients of some of a step's micro-batches. The gradients are added in an order that depends
on the number of micro-batches alone, a binary tree: ((0 + 1) + (2 + 3)) + ... MPI only moves numbers: every addition is
made here. So the number of processes does not change a bit of the result.
"""
import contextlib
import io
import itertools
import math
import operator
import os
import platform
import sys
import threading
import time
import traceback
from collections import Counter
from types import TracebackType
from typing import Any, Callable, Iterator, NoReturn, TypeVar

import numpy as np

from minigrad import device, tape
from minigrad.modes import mode
from minigrad.tensor import Tensor

T = TypeVar("T")
Node = tuple[int, int, Any]                     # of the tree: level, index, and the sum of its 2 ** level leaves

SIZES = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"      # set by mpirun of MPICH and Intel MPI, and srun; of Open MPI
RANKS = "PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"             # a launcher with PMIx tells the rank alone
BUCKET = 1 << 20                                # elements that are exchanged at once
give_way = getattr(os, "sched_yield", lambda: time.sleep(0.0))     # to another process that wants this core
SHARED_BYTES = 1 << 30                          # a larger array is in memory once per machine


class World:
    """The processes that were started together, by mpirun or srun; without these, one process, and MPI is not imported.

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
        if not any(name in os.environ for name in SIZES + RANKS):
            return
        started = max(int(os.environ.get(name, 1)) for name in SIZES)
        rank = next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:            # RuntimeError: there is no MPI library
            self._refuse(rank, f"{started} processes were started and cannot exchange numbers ({error}): "
                         'pip install -e ".[mpi]"')
        self.comm, self.rank, self.size = MPI.COMM_WORLD, MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
        if self.size == 1 < max(started, rank + 1):
            self._refuse(rank, f"mpirun started {max(started, rank + 1)} processes, and mpi4py sees {self.size}: they "
                         "are of two MPIs; use the mpirun that was installed with mpi4py's MPI, "
                         f"{MPI.Get_library_version().splitlines()[0].rstrip(chr(0))}")
        if self.size > 1:
            sys.excepthook = lambda kind, error, where: self._end_all(error)
            threading.Thread(target=self._watch, daemon=True).start()
            hosts = self.gather(platform.node())
            same = [r for r, host in enumerate(hosts) if host == hosts[self.rank]]
            self.local_rank, self.local_size, self.machines = same.index(self.rank), len(same), len(set(hosts))

    def _refuse(self, rank: int, reason: str) -> NoReturn:
        raise ValueError(reason) if rank == 0 else SystemExit(2)

    # ---- the end ----

    def __enter__(self) -> "World":
        self.streams = sys.stdout, sys.stderr
        if self.rank > 0:
            sys.stdout, sys.stderr = open(os.devnull, "w"), self.held
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
            self.gather(None)                   # for rank 0, which may still write its report

    def exit(self, status: int | str) -> NoReturn:
        """To be called by every rank: exit with a status, or with 1 and a text that rank 0 prints to stderr."""
        self.together = True
        sys.exit(status if self.rank == 0 or isinstance(status, int) else 1)

    def fail(self, error: BaseException) -> NoReturn:
        """To be called by every rank: raise an exception, which rank 0 shows if nothing catches it."""
        self.together = True
        raise error

    def _end_all(self, error: BaseException) -> None:
        """End every process because this one failed alone."""
        sys.stdout.flush()
        status = error.code if isinstance(error, SystemExit) else 130 if isinstance(error, KeyboardInterrupt) else 1
        lines = self.held.getvalue()
        if isinstance(status, str):
            lines, status = lines + status + "\n", 1
        elif not isinstance(error, (SystemExit, KeyboardInterrupt)):
            lines += "".join(traceback.format_exception(error))
        self._say(f"{lines}this process failed, and all are ended")
        self.comm.Abort(status)
        os._exit(status or 1)                   # Abort may return

    def _say(self, text: str) -> None:
        """Write to stderr, with the number of this rank."""
        with contextlib.suppress(OSError, ValueError):
            stream = sys.__stderr__ or sys.stderr
            stream.write(f"rank {self.rank} of {self.size}: {text}\n")
            stream.flush()

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
        return."""
        while True:
            time.sleep(min(1.0, self.patience / 4))
            since = self.since
            if since is not None and time.monotonic() - since > self.patience:
                self._say(f"waited {self.patience:g} s for the others: a machine or the network is down. Start the "
                          "same command with --init_from=resume to go on from the last checkpoint")
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

    def share(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; or its exception on every rank."""
        made, error = None, None
        if self.rank == 0:
            try:
                made = make()
            except (Exception, SystemExit) as problem:
                if self.size == 1:
                    raise
                error = problem
        if self.size > 1:
            self.wait(self.comm.Ibarrier())
            with self.waiting():
                made, error = self.comm.bcast((made, error), root=0)
        if error is not None:
            self.fail(error)
        return made                             # type: ignore[return-value]

    def each(self, make: Callable[[], T]) -> T:
        """make() on every rank; or the exception of the first rank where it fails, on every rank."""
        made, error = None, None
        try:
            made = make()
        except Exception as problem:
            error = problem
        if (first := next(filter(None, self.gather(error)), None)) is not None:
            self.fail(error if self.rank == 0 and error else first)
        return made                             # type: ignore[return-value]

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


# ---- the tree ----

def merge(stack: list[Node], add: Callable[[Any, Any], Any]) -> None:
    """Add the two newest nodes as long as they are the children of one node."""
    while len(stack) > 1 and stack[-1][0] == stack[-2][0] and stack[-1][1] == stack[-2][1] + 1 and stack[-1][1] % 2:
        (level, index, right), (_, _, left) = stack.pop(), stack.pop()
        stack.append((level + 1, index // 2, add(left, right)))


def fold(stack: list[Node], add: Callable[[Any, Any], Any]) -> Any:
    """The sum of all nodes. There are several where the number of leaves is not a power of two."""
    total = stack.pop()[2]
    while stack:
        total = add(stack.pop()[2], total)
    return total


def nodes_of(leaves: range) -> list[Node]:
    """The largest nodes that cover these leaves, without their sums."""
    stack: list[Node] = []
    for i in leaves:
        stack.append((0, i, None))
        merge(stack, lambda left, right: None)
    return stack


class GradientSum:
    """Sums the gradients of a step's micro-batches over all ranks: `backward` or `add` for each micro-batch of this rank,
    in order, then `total`.

    params: leaf Tensors of one dtype. micro_steps: the number of micro-batches in a step, on all ranks together; those
    of this rank are the numbers in `mine`. A rank sends at most 2 (K - 1) / K times the gradient in a step, for K ranks
    whose share of the micro-batches is a power of two, and holds log2(micro_steps / K) + 3 gradients at most.
    ValueError for more ranks than micro-batches, and for parameters of several dtypes.
    """

    def __init__(self, params: list[Tensor], micro_steps: int, world: World) -> None:
        K = world.size
        if micro_steps < K:
            raise ValueError(f"{K} processes need {K} micro-batches in a step or more, got {micro_steps}")
        if len({p.dtype for p in params}) != 1:
            raise ValueError("the parameters must have one dtype, got "
                             f"{', '.join(sorted({str(p.dtype) for p in params}))}")
        self.world, self.params, self.micro_steps = world, params, micro_steps
        shares = [range(micro_steps * r // K, micro_steps * (r + 1) // K) for r in range(K)]
        self.mine = shares[world.rank]
        self.nodes = [nodes_of(share) for share in shares]      # that each rank has summed before the exchange
        ends = list(itertools.accumulate((p.size for p in params), initial=2))  # after the loss, and the wish to stop
        self.places = {p.key: slice(start, end) for p, start, end in zip(params, ends, ends[1:])}
        self.n, self.dtype = ends[-1], params[0].dtype
        self.stack: list[Node] = []
        self.free: list[Any] = []               # flat arrays to use again: new memory costs more than the sum
        # With several nodes per rank, the parts of all buckets would take too much memory.
        self.overlaps = K > 1 and max(map(len, self.nodes)) == 1 and params[0].device == "cpu"
        buckets = -(-self.n // BUCKET) if self.overlaps else 1
        self.received = np.empty((buckets * (K > 1), sum(map(len, self.nodes)) - len(self.nodes[world.rank]),
                                  -(-min(self.n, BUCKET) // K)), self.dtype)
        self.unpacked: dict[Any, Tensor] = {}   # parameters whose gradient is not in self.stack[-1] yet, by key
        self.holds = Counter(bucket for place in self.places.values() for bucket in buckets_of(place))
        self.holds[0] += 1                      # bucket -> how many parameters it holds; and the loss
        self.missing = self.holds               # how many of these are unpacked
        self.under_way: list[Iterator[None]] = []               # exchanges of buckets

    def backward(self, micro: int, loss: Tensor) -> None:
        """`loss.backward()` and `add`. On the CPU, if each rank's share of the micro-batches is one node of the tree, the
        last backward of a rank sends each bucket of gradients as soon as it is complete, and goes on meanwhile."""
        if self.overlaps and micro == self.mine[-1] and not mode().detect_nan:  # which may fail on one rank alone
            self._open(micro)
            tape.backward(loss, deliver=self._deliver)
            self._close(loss.data)
        else:
            loss.backward()
            self.add(micro, loss.data)

    def add(self, micro: int, loss: Any) -> None:
        """Take the gradients of a micro-batch out of the parameters' `.grad`, which become None. loss: a 0-d array, the
        part of this micro-batch in the loss."""
        if self.micro_steps == 1:               # the gradients stay where they are
            self.stack = [(0, 0, loss)]
        else:
            self._open(micro)
            self._close(loss)

    def total(self, stop: bool = False) -> tuple[Any, bool]:
        """Put the sum over all micro-batches into the parameters' `.grad`. Returns the sum of the losses, a 0-d array,
        and whether a rank wishes to stop. stop: whether this one does. The gradients are valid until the next call of
        `add`."""
        if self.micro_steps == 1:
            return self.stack.pop()[2], stop
        if self.world.size == 1:
            flat = fold(self.stack, self._plus)
        else:
            self.stack[-1][2][1] = stop
            self._finish()
            flat, *others = [flat for _, _, flat in self.stack]
            self.free += others
            self.stack = []
        for p in self.params:
            p.grad = flat[self.places[p.key]].reshape(p.shape)
        self.free.append(flat)
        return flat[:1].copy().reshape(()), bool(flat[1]) if self.world.size > 1 else stop

    # ---- the flat array of a micro-batch ----

    def _open(self, micro: int) -> None:
        flat = self.free.pop() if self.free else self.params[0].xp.empty(self.n, self.dtype)
        self.stack.append((0, micro, flat))
        self.unpacked = {p.key: p for p in self.params}
        self.missing = self.holds.copy()

    def _pack(self, p: Tensor) -> None:
        del self.unpacked[p.key]
        self.stack[-1][2][self.places[p.key]] = 0.0 if p.grad is None else p.grad.reshape(-1)
        p.grad = None

    def _close(self, loss: Any) -> None:
        for p in list(self.unpacked.values()):
            self._pack(p)
        _, micro, flat = self.stack[-1]
        flat[0], flat[1] = loss, 0.0
        if micro != self.mine[-1]:              # the last one is merged in total, or bucket by bucket
            merge(self.stack, self._plus)

    def _plus(self, left: Any, right: Any) -> Any:
        left += right
        self.free.append(right)
        return left

    # ---- the exchange ----

    def _deliver(self, leaf: Tensor, g: Any) -> None:
        """What the last backward does with the gradient of a leaf."""
        tape.accumulate(leaf, g)
        if leaf.key in self.unpacked:
            self._pack(leaf)
            for bucket in buckets_of(self.places[leaf.key]):
                self.missing[bucket] -= 1
                if not self.missing[bucket]:
                    self.under_way.append(self._exchange(bucket))
        self._advance()                         # numbers move only while MPI is called

    def _advance(self) -> bool:
        """Continue the exchanges that are under way as far as possible without waiting. Returns whether any are
        left."""
        self.under_way = [exchange for exchange in self.under_way if next(exchange, self) is not self]
        return bool(self.under_way)

    def _finish(self) -> None:
        """Exchange the buckets that are not sent yet, and wait until all have arrived."""
        with self.world.waiting():
            for bucket in [bucket for bucket, missing in self.missing.items() if missing]:
                self.under_way.append(self._exchange(bucket))
                while self._advance() and not self.overlaps:
                    give_way()
            while self._advance():
                give_way()

    def _exchange(self, bucket: int) -> Iterator[None]:
        """Write the sum of all ranks over the first of this rank's nodes. Each rank gets its part of every rank's
        nodes, adds these up the tree, and sends the sum to all. Yields while it waits."""
        rank, K, comm = self.world.rank, self.world.size, self.world.comm
        others = [r for r in range(K) if r != rank]
        here = slice(bucket * BUCKET, min((bucket + 1) * BUCKET, self.n))
        cuts = [(here.stop - here.start) * r // K for r in range(K + 1)]
        parts = [slice(start, end) for start, end in zip(cuts, cuts[1:])]
        stack = [(level, index, flat[here]) for level, index, flat in self.stack]
        merge(stack, operator.iadd)
        mine = [device.host(x) for _, _, x in stack]
        rows = iter(self.received[bucket % len(self.received), :, :cuts[rank + 1] - cuts[rank]])
        leaves = [[x[parts[rank]] for x in mine] if r == rank else list(itertools.islice(rows, len(nodes)))
                  for r, nodes in enumerate(self.nodes)]        # this rank's part of each rank's nodes

        yield from until_complete([comm.Irecv(x, r, bucket) for r in others for x in leaves[r]]
                                  + [comm.Isend(x[parts[r]], r, bucket) for r in others for x in mine])
        stack = []
        for nodes, xs in zip(self.nodes, leaves):
            for (level, index, _), x in zip(nodes, xs):
                stack.append((level, index, x))
                merge(stack, operator.iadd)
        mine[0][parts[rank]] = fold(stack, operator.iadd)
        yield from until_complete([comm.Irecv(mine[0][parts[r]], r, bucket) for r in others]
                                  + [comm.Isend(mine[0][parts[rank]], r, bucket) for r in others])
        if self.params[0].device != "cpu":
            self.stack[0][2][here] = device.put(mine[0], self.params[0].device)


def buckets_of(place: slice) -> range:
    """The buckets that a part of the flat array lies in."""
    return range(place.start // BUCKET, -(-place.stop // BUCKET))


def until_complete(requests: list[Any]) -> Iterator[None]:
    """Yield as long as one of these requests of MPI is not complete."""
    for request in requests:
        while not request.Test():
            yield
