"""The recorded forward and backward, run again with other values of some leaves."""
from typing import Any, Mapping, Sequence

import numpy as np

from minigrad.step.rerun import Rerun, on_host
from minigrad.tensor import Tensor

MOST_RERUN = 20_000_000                         # numbers in all leaves, of which a replay takes 4 GB
MOST_PARAMETERS = 300_000                       # of a model that is run hundreds of times for one page


class Replay:
    """The recorded graph, run again in float64 on the host with other values of some leaves.

    steps: of the whole backward of y, in its order; reruns: one for each.
    """

    def __init__(self, steps: Sequence[Any], reruns: Sequence[Rerun], y: Tensor) -> None:
        self.steps, self.reruns, self.y = steps[::-1], reruns[::-1], y
        self.values: dict[tuple[int, int], Any] = {}        # (number of the node, number of the output) -> array
        self.values = self._run({})
        self.loss = self._loss(self.values, {})

    @property
    def is_quick(self) -> bool:
        """Whether the model is small enough to be run hundreds of times."""
        sizes = {id(x): x.size for step in self.steps for x in step.inputs if isinstance(x, Tensor) and x.node is None}
        return sum(sizes.values()) <= MOST_PARAMETERS

    def change(self, leaves: Mapping[int, Any]) -> float:
        """How much the loss changes with these leaves: id of the Tensor -> float64 array."""
        with np.errstate(all="ignore"):         # a number that moves may leave the domain of an op
            return self._loss(self._run(leaves), leaves) - self.loss

    def gradients(self, leaves: Mapping[int, Any]) -> tuple[float, dict[int, Any]]:
        """The loss with these leaves, and its gradient with respect to every leaf that wants one: id of the Tensor ->
        float64 array."""
        new: dict[tuple[int, int], Any] = {}
        ran = []                                            # the op after its forward, and its outputs
        for step, rerun in zip(self.steps, self.reruns):
            op, ys = rerun.forward([self._value(x, own, leaves, new) for x, own in zip(step.inputs, rerun.inputs)])
            new.update({(step.node.seq, out): y for out, y in enumerate(ys)})
            ran.append((op, ys))
        first = np.ones(self.y.shape)
        if self.y.node is None:
            return self._loss(new, leaves), {id(self.y): first}
        found: dict[Any, Any] = {(self.y.node.seq, self.y.out): first}      # also the gradients of outputs, by number
        for step, rerun, (op, ys) in zip(self.steps[::-1], self.reruns[::-1], ran[::-1]):
            dys = [found.pop((step.node.seq, out), np.zeros_like(y)) for out, y in enumerate(ys)]
            for x, dx in zip(step.inputs, rerun.gradients(op, dys)):
                if dx is not None:
                    key = id(x) if x.node is None else (x.node.seq, x.out)
                    found[key] = found[key] + dx if key in found else dx
        return self._loss(new, leaves), found

    def _run(self, leaves: Mapping[int, Any]) -> dict[tuple[int, int], Any]:
        """The outputs that depend on these leaves; at first, without `values`, all of them."""
        new: dict[tuple[int, int], Any] = {}
        for step, rerun in zip(self.steps, self.reruns):
            key = step.node.seq
            if (key, 0) not in self.values or any(
                    id(x) in leaves if x.node is None else (x.node.seq, x.out) in new
                    for x in step.inputs if isinstance(x, Tensor)):
                inputs = [self._value(x, own, leaves, new) for x, own in zip(step.inputs, rerun.inputs)]
                new.update({(key, out): y for out, y in enumerate(rerun.forward(inputs)[1])})
        return new

    def _value(self, x: Any, own: Any, leaves: Mapping[int, Any], new: Mapping[tuple[int, int], Any]) -> Any:
        """The value of an input of a node; own: the recorded one."""
        if not isinstance(x, Tensor):
            return own
        if x.node is None:
            return leaves.get(id(x), own)
        key = x.node.seq, x.out
        return new[key] if key in new else self.values.get(key, own)

    def _loss(self, new: Mapping[tuple[int, int], Any], leaves: Mapping[int, Any]) -> float:
        if self.y.node is None:
            return float(np.sum(leaves.get(id(self.y), on_host(self.y))))
        key = self.y.node.seq, self.y.out
        return float(np.sum(new[key] if key in new else self.values[key]))
