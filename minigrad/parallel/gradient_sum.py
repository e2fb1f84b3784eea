"""The sum of the gradients of a step's micro-batches: a tree, and how processes exchange its parts."""
from typing import Any, Callable

import numpy as np

from minigrad import device
from minigrad.parallel.world import BUCKET, World
from minigrad.tensor import Tensor

Node = tuple[int, int, Any]                     # of the tree: level, index, and the sum of its 2 ** level leaves


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
    """Sums the gradients of a step's micro-batches over all ranks.

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
        self.mine = self.left = shares[world.rank]              # left: those that this step still needs
        self.nodes = [nodes_of(share) for share in shares]      # that each rank has summed before the exchange
        self.n = sum(p.size for p in params) + 2                # and the loss, and the wish to stop
        self.stack: list[Node] = []
        self.dtype = params[0].dtype
        self.free: list[Any] = []               # flat arrays to use again: new memory costs more than the sum
        most = max(map(len, self.nodes)) * (K > 1)
        self.received = np.empty((most, K, -(-min(self.n, BUCKET) // K)), self.dtype)

    def add(self, micro: int, loss: Any) -> None:
        """Take the gradients of a micro-batch out of the parameters' `.grad`, which become None. loss: a 0-d array, the
        part of this micro-batch in the loss. The first of `mine` begins a step; ValueError for one out of order."""
        if micro == self.mine.start:
            self.stack, self.left = [], self.mine
        if micro not in self.left[:1]:
            raise ValueError(f"got micro-batch {micro}: a step adds those of this process, {list(self.mine)}, in order")
        self.left = self.left[1:]
        if self.micro_steps == 1:               # the gradients stay where they are
            self.stack = [(0, 0, loss)]
            return
        flat, at = self._flat(), 0
        for p in self.params:
            flat[at:at + p.size] = 0.0 if p.grad is None else p.grad.reshape(-1)
            at += p.size
            p.grad = None
        flat[at], flat[at + 1] = loss, 0.0
        self.stack.append((0, micro, flat))
        merge(self.stack, self._plus)

    def total(self, stop: bool = False) -> tuple[Any, bool]:
        """Put the sum over all micro-batches into the parameters' `.grad`. Returns the sum of the losses, a 0-d array,
        and whether a rank wishes to stop. stop: whether this one does. The gradients are valid until the next call of
        `add`. ValueError if a micro-batch of this process has not been added."""
        if self.left:
            raise ValueError(f"the micro-batches {list(self.left)} of this process have not been added")
        self.left = self.mine
        if self.micro_steps == 1:
            return self.stack.pop()[2], stop
        if self.world.size > 1:
            self.stack[-1][2][-1] = stop
        if self.world.size == 1:
            flat = fold(self.stack, self._plus)
        else:
            flat = self._exchange()
        at = 0
        for p in self.params:
            p.grad = flat[at:at + p.size].reshape(p.shape)
            at += p.size
        self.free.append(flat)
        return flat[at:at + 1].copy().reshape(()), bool(flat[at + 1]) if self.world.size > 1 else stop

    def _flat(self) -> Any:
        return self.free.pop() if self.free else self.params[0].xp.empty(self.n, self.params[0].dtype)

    def _plus(self, left: Any, right: Any) -> Any:
        left += right
        self.free.append(right)
        return left

    def _exchange(self) -> Any:
        """The sum of the nodes of all ranks, a bucket at a time. Each rank gets its part of every rank's nodes, adds
        these up the tree, and sends the sum to all."""
        mine = [device.host(flat) for _, _, flat in self.stack]
        flat = self._flat()
        total = flat if type(flat) is np.ndarray else np.empty(self.n, self.dtype)
        for start in range(0, self.n, BUCKET):
            self._exchange_bucket([part[start:start + BUCKET] for part in mine], total[start:start + BUCKET])
        if total is not flat:
            flat[...] = device.put(total, self.params[0].device)
        self.free += [part for _, _, part in self.stack]
        self.stack = []
        return flat

    def _exchange_bucket(self, mine: list[np.ndarray], total: np.ndarray) -> None:
        K, comm, plus = self.world.size, self.world.comm, lambda left, right: np.add(left, right, out=left)
        cuts = [len(total) * r // K for r in range(K + 1)]
        sizes = [end - start for start, end in zip(cuts, cuts[1:])]
        part, stack = sizes[self.world.rank], []
        for i, rows in enumerate(self.received):                # once where every rank has one node
            sent = (sizes, cuts[:K]) if i < len(mine) else ([0] * K, [0] * K)
            got = [part if i < len(nodes) else 0 for nodes in self.nodes], [r * rows.shape[1] for r in range(K)]
            self.world.wait(comm.Ialltoallv([mine[i] if i < len(mine) else total[:0], sent], [rows, got]))
        for r, nodes in enumerate(self.nodes):
            for i, (level, index, _) in enumerate(nodes):
                stack.append((level, index, self.received[i, r, :part]))
                merge(stack, plus)
        self.world.wait(comm.Iallgatherv(fold(stack, plus), [total, (sizes, cuts[:K])]))
