"""Several ranks as threads of this process: what GradientSum needs of MPI, for tests without MPI."""
import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from minigrad.parallel import World


class FakeWorld:
    """What GradientSum uses of a World, and as its own `comm` what it uses of mpi4py's communicator.

    Numbers move while a receiver tests its request, as late as MPI may move them: out of the memory that was named in
    the call, and into it. A buffer that is changed too early sends wrong numbers here.
    """
    waiting = contextlib.nullcontext
    fail = World.fail

    def __init__(self, rank: int, ranks: "list[FakeWorld]", barrier: threading.Barrier) -> None:
        self.rank, self.ranks, self.barrier = rank, ranks, barrier
        self.comm, self.sent_bytes = self, 0
        self.inbox: dict[tuple[int, int], list[Send]] = {}  # (sender, tag) -> messages in the order they were sent
        self.expected: Counter[tuple[int, int]] = Counter()

    @property
    def size(self) -> int:
        return len(self.ranks)

    def Isend(self, numbers: np.ndarray, to: int, tag: int) -> "Send":
        assert to != self.rank and numbers.flags.c_contiguous
        self.sent_bytes += numbers.nbytes
        send = Send(numbers, self.barrier)
        self.ranks[to].inbox.setdefault((self.rank, tag), []).append(send)
        return send

    def Irecv(self, place: np.ndarray, sender: int, tag: int) -> "Receive":
        assert sender != self.rank and place.flags.c_contiguous
        self.expected[sender, tag] += 1
        return Receive(place, self.inbox.setdefault((sender, tag), []), self.expected[sender, tag] - 1, self.barrier)


class Send:
    def __init__(self, numbers: np.ndarray, barrier: threading.Barrier) -> None:
        self.numbers: np.ndarray | None = numbers           # None once they have arrived
        self.barrier = barrier

    def Test(self) -> bool:
        check(self.barrier)
        return self.numbers is None


class Receive:
    def __init__(self, place: np.ndarray, messages: list[Send], number: int, barrier: threading.Barrier) -> None:
        self.place, self.messages, self.number, self.barrier = place, messages, number, barrier
        self.tests, self.complete = 0, False

    def Test(self) -> bool:
        check(self.barrier)
        self.tests += 1
        if not self.complete and self.tests > 2 and len(self.messages) > self.number:
            send = self.messages[self.number]
            assert send.numbers is not None and send.numbers.size == self.place.size, "sent and expected sizes differ"
            self.place[...] = send.numbers
            send.numbers, self.complete = None, True
        return self.complete


def check(barrier: threading.Barrier) -> None:
    """Raise BrokenBarrierError if another rank has failed."""
    if barrier.broken:
        raise threading.BrokenBarrierError


def on_ranks(size: int, do) -> list:
    """do(world) on each of several ranks at once  ->  what they return, by rank."""
    ranks: list[FakeWorld] = []
    barrier = threading.Barrier(size, timeout=60)
    ranks += [FakeWorld(rank, ranks, barrier) for rank in range(size)]

    def run(world):
        try:
            return do(world)
        except BaseException:
            barrier.abort()                     # the other ranks do not wait for this one
            raise
    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(run, world) for world in ranks]
    errors = [future.exception() for future in futures]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
