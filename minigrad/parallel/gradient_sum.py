"""The sum of the gradients of a step's micro-batches: a tree, and how processes exchange its parts."""
import itertools
import operator
from collections import Counter
from typing import Any, Callable, Iterator

import numpy as np

from minigrad import device, tape
from minigrad.modes import mode
from minigrad.parallel.world import World, give_way
from minigrad.tensor import Tensor

Node = tuple[int, int, Any]                     # of the tree: level, index, and the sum of its 2 ** level leaves
BUCKET = 1 << 18                                # elements that are sent at once; the last ones leave after the backward


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
    """Sums the gradients of a step's micro-batches over all ranks: `backward` or `add` for each micro-batch of this
    rank, in order, then `total`.

    params: leaf Tensors of one dtype. micro_steps: the number of micro-batches in a step, on all ranks together; those
    of this rank are the numbers in `mine`. A rank sends at most 2 (K - 1) / K times the gradient in a step, for K ranks
    whose share of the micro-batches is a power of two, and holds log2(micro_steps / K) + 3 gradients at most.
    ValueError for more ranks than micro-batches, and for parameters of several dtypes.
    """

    def __init__(self, params: list[Tensor], micro_steps: int, world: World) -> None:
        K = world.size
        if micro_steps < K:
            world.fail(ValueError(f"{K} processes need {K} micro-batches in a step or more, got {micro_steps}"))
        if len({p.dtype for p in params}) != 1:
            world.fail(ValueError("the parameters must have one dtype, got "
                                  f"{', '.join(sorted({str(p.dtype) for p in params}))}"))
        self.world, self.params, self.micro_steps = world, params, micro_steps
        shares = [range(micro_steps * r // K, micro_steps * (r + 1) // K) for r in range(K)]
        self.mine = self.left = shares[world.rank]              # left: those that this step still needs
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
        """`loss.backward()` and `add`. On the CPU, if the share of each rank is one node of the tree, the last backward
        of a rank sends each bucket of gradients as soon as it is complete, and goes on meanwhile."""
        if self.overlaps and micro == self.mine[-1] and not mode().detect_nan:  # which may fail on one rank alone
            self._open(micro)
            tape.backward(loss, deliver=self._deliver)
            self._close(loss.data)
        else:
            loss.backward()
            self.add(micro, loss.data)

    def add(self, micro: int, loss: Any) -> None:
        """Take the gradients of a micro-batch out of the parameters' `.grad`, which become None. loss: a 0-d array, the
        part of this micro-batch in the loss. The first of `mine` begins a step; ValueError for one out of order."""
        self._open(micro)
        self._close(loss)

    def total(self, stop: bool = False) -> tuple[Any, bool]:
        """Put the sum over all micro-batches into the parameters' `.grad`. Returns the sum of the losses, a 0-d array,
        and whether a rank wishes to stop. stop: whether this one does. The gradients are valid until the next call of
        `add`. ValueError if a micro-batch of this process has not been added."""
        if self.left:
            raise ValueError(f"the micro-batches {list(self.left)} of this process have not been added")
        self.left = self.mine
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
        if self.under_way:
            raise ValueError("the gradients of this step are being sent: call total before the next step")
        if micro == self.mine.start:
            self.stack, self.left = [], self.mine
        if micro not in self.left[:1]:
            raise ValueError(f"got micro-batch {micro}: a step adds those of this process, {list(self.mine)}, in order")
        self.left = self.left[1:]
        if self.micro_steps == 1:
            return
        flat = self.free.pop() if self.free else self.params[0].xp.empty(self.n, self.dtype)
        self.stack.append((0, micro, flat))
        self.unpacked = {p.key: p for p in self.params}
        self.missing = self.holds.copy()

    def _pack(self, p: Tensor) -> None:
        del self.unpacked[p.key]
        self.stack[-1][2][self.places[p.key]] = 0.0 if p.grad is None else p.grad.reshape(-1)
        p.grad = None

    def _close(self, loss: Any) -> None:
        if self.micro_steps == 1:               # the gradients stay where they are
            self.stack = [(0, 0, loss)]
            return
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
