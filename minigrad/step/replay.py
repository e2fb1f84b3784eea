"""What the loss would be with other values of some leaves: the recorded forward, run again."""
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

from minigrad.step.formula import Formula
from minigrad.step.line_trace import Listing
from minigrad.step.rerun import Rerun, on_host
from minigrad.tensor import Tensor


class Nudge(NamedTuple):
    """One number of a leaf moved a little: the change of the loss that its gradient predicts, and the actual change."""
    leaf: str
    at: tuple[int, ...]
    gradient: float
    delta: float
    predicted: float                # gradient * delta
    actual: float


class ParameterUpdate(NamedTuple):
    """An optimizer's update of one parameter, line by line, and the change of the loss that it causes."""
    leaf: str
    formula: Formula
    listing: Listing                # the lines of the op's forward, with the arrays that they computed
    given: dict[str, Any]           # the op's inputs by name: p, g, m, v arrays; lr, beta1, ... numbers; t
    change: Any                     # p_new - p
    picks: list[tuple[int, ...]]    # the elements with the largest gradients
    predicted: float                # sum(gradient * change)
    actual: float                   # change of the loss if only this parameter is updated


class OptimizerStep(NamedTuple):
    """A whole step of an optimizer."""
    op: str                         # "adamw"
    clip: str                       # what clipping did to the gradients, in words; "" if there was none
    updates: list[ParameterUpdate]
    predicted: float                # sum of the updates' predictions
    actual: float                   # change of the loss if all parameters are updated


class Replay:
    """The recorded graph run forwards again, in float64 on the host, with other values of some leaves.

    steps: of the whole backward of y, in its order; reruns: one for each.
    """

    def __init__(self, steps: Sequence[Any], reruns: Sequence[Rerun], y: Tensor) -> None:
        self.steps, self.reruns, self.y = steps[::-1], reruns[::-1], y
        self.values: dict[tuple[int, int], Any] = {}        # (number of the node, number of the output) -> array
        self.values = self._run({})
        self.loss = self._loss(self.values, {})

    def change(self, leaves: Mapping[int, Any]) -> float:
        """How much the loss changes with these leaves: id of the Tensor -> float64 array."""
        return self._loss(self._run(leaves), leaves) - self.loss

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
