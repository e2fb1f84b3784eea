"""Several ranks as threads of this process: what GradientSum needs of MPI, for tests without MPI."""
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np


class FakeWorld:
    """What GradientSum uses of a World, and as its own `comm` what it uses of mpi4py's communicator.

    Numbers move while a request is waited for, as late as MPI may move them: out of the memory that was named in the
    call, and into it. A buffer that is changed too early sends wrong numbers here.
    """

    def __init__(self, rank: int, ranks: "list[FakeWorld]", barrier: threading.Barrier) -> None:
        self.rank, self.ranks, self.barrier = rank, ranks, barrier
        self.comm, self.sent_bytes = self, 0                # sent_bytes: to other ranks

    @property
    def size(self) -> int:
        return len(self.ranks)

    def wait(self, request: "Request") -> None:
        self.request = request
        self.barrier.wait()
        for sender in self.ranks:
            numbers, place = sender.request.sent[self.rank], request.received[sender.rank]
            assert numbers.size == place.size, f"{sender.rank} sends {numbers.size}, {self.rank} expects {place.size}"
            place[...] = numbers
        self.sent_bytes += sum(part.nbytes for to, part in enumerate(request.sent) if to != self.rank)
        self.barrier.wait()                                 # the senders may use their memory again

    def Ialltoallv(self, sent: list, received: list) -> "Request":
        return Request(parts(sent), parts(received))

    def Iallgatherv(self, sent: np.ndarray, received: list) -> "Request":
        return Request([sent.reshape(-1)] * self.size, parts(received))


class Request(NamedTuple):
    sent: list[np.ndarray]                      # what this rank sends, by receiver
    received: list[np.ndarray]                  # where it puts what it receives, by sender


def parts(buffer: list) -> list[np.ndarray]:
    """The views that mpi4py's [array, (counts, starts)] means, by rank."""
    array, (counts, starts) = buffer
    return [array.reshape(-1)[start:start + count] for count, start in zip(counts, starts)]


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
