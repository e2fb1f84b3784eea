"""Run the op of a step again: the textbook op, on copies of its inputs on the host, in any floating dtype."""
import inspect
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from minigrad import device
from minigrad.executor import executor_of
from minigrad.ops.op import Op, input_names
from minigrad.step.line_trace import Listing, last_values, trace_lines
from minigrad.ops.sums import unbroadcast
from minigrad.tape import Node, collect
from minigrad.tensor import Tensor


class Rerun:
    """The op of a Step, to be run again with the textbook's forward and backward.

    dtype: of all floating arrays; None for that of the upstream gradient. given: copies on the host of the inputs and
    of the upstream gradients; without them ValueError if an input was changed after the forward.
    """

    def __init__(self, step: Any, dtype: Any = None, given: tuple[list[Any], list[Any]] | None = None) -> None:
        if given is None:
            step.node.check_unchanged(step.inputs, ", so the op cannot be run again: call check(), why() and lines "
                                      "before the optimizer changes the weights")
            given = list(map(on_host, step.inputs)), on_host(step.dy if type(step.dy) is tuple else (step.dy,))
        self.op_class, self.needs = step.op_class, step.ran.needs
        inputs, dys = given
        self.dtype = np.dtype(dtype or dys[0].dtype)
        self.inputs: list[Any] = [cast(x, self.dtype) for x in inputs]
        self.static: dict[str, Any] = {name: on_host(value) for name, value in step.static.items()}
        self.dys = [cast(dy, self.dtype) for dy in dys]                 # upstream gradients, one for each output
        self.names = input_names(step.op_class, len(self.inputs))
        self.wanted = [i for i, need in enumerate(self.needs) if need]  # the inputs that have a gradient

    def forward(self, inputs: list[Any] | None = None) -> tuple[Op, list[Any]]:
        """The op after its forward, with what it saved, and its outputs. inputs: others than the step's."""
        op = new_op(self.op_class, self.needs)
        y = op.forward(*(self.inputs if inputs is None else inputs), **self.static)
        return op, as_arrays(y)

    def outputs_with(self, i: int, x: Any) -> list[Any]:
        """The outputs for another value of input i."""
        return self.forward([x if j == i else old for j, old in enumerate(self.inputs)])[1]

    def gradients(self, op: Op, dys: Sequence[Any] | None = None) -> list[Any]:
        """The gradient of each input in the input's shape, None where none is wanted. op: as `forward` returns it.
        dys: other upstream gradients than the step's."""
        return self._fitted(op.backward(*(self.dys if dys is None else dys), **op.saved))

    def trace_forward(self) -> tuple[Op, list[Any], Listing]:
        """`forward`, and the values that its lines computed."""
        return trace_forward(self.op_class, self.needs, self.inputs, self.static, len(self.dys))

    def trace_backward(self, op: Op) -> tuple[list[Any], Listing]:
        """`gradients`, and the values that the lines of the backward computed."""
        raw, listing = trace_lines(op.backward, [f"d{name}" for name in self.names], *self.dys, **op.saved)
        return self._fitted(raw), listing

    def last_values(self, op: Op) -> tuple[list[Any], dict[str, Any]]:
        """`gradients`, and the variables of the backward at its end."""
        raw, values = last_values(op.backward, *self.dys, **op.saved)
        return self._fitted(raw), values

    def upstream_names(self) -> list[str]:
        """The backward's names for the upstream gradients: ["dy"], ["dp_new", "dm_new"]."""
        if len(self.dys) == 1:
            return ["dy"]
        return [f"d{name}" for name in output_names(self.op_class, len(self.dys))]

    def _fitted(self, dxs: Any) -> list[Any]:
        found = dxs if type(dxs) is tuple else (dxs,)
        return [unbroadcast(np.asarray(dx), np.shape(x)) if need and dx is not None else None
                for x, need, dx in zip(self.inputs, self.needs, found)]


def new_op(op_class: type[Op], needs: Sequence[bool]) -> Op:
    """An op that computes with NumPy. needs: which inputs want a gradient."""
    op = op_class()
    op.xp, op.needs = np, needs
    return op


def trace_forward(op_class: type[Op], needs: Sequence[bool], inputs: Sequence[Any], static: Mapping[str, Any],
                  outputs: int) -> tuple[Op, list[Any], Listing]:
    """Run the textbook's forward on the host: the op after it, its outputs, and the values that its lines computed.
    inputs: Tensors, arrays of any device, numbers. outputs: how many the op has."""
    op = new_op(op_class, needs)
    y, listing = trace_lines(op.forward, output_names(op_class, outputs), *map(on_host, inputs),
                             **{name: on_host(value) for name, value in static.items()})
    return op, as_arrays(y), listing


def on_host(x: Any) -> Any:
    """Tensors and arrays as arrays on the host, also inside tuples and lists; anything else unchanged."""
    if isinstance(x, Tensor):
        x = x.data
    if type(x) in (tuple, list):
        return type(x)(map(on_host, x))
    return device.host(x) if device.is_array(x) else x


def as_arrays(y: Any) -> list[Any]:
    """What a forward returned, one array for each output."""
    return [np.asarray(a) for a in (y if type(y) is tuple else (y,))]


def cast(x: Any, dtype: Any) -> Any:
    """A copy of an array in another floating dtype; a number unchanged."""
    return x.astype(dtype) if isinstance(x, np.ndarray) else x


def output_names(op_class: type[Op], n: int) -> list[str]:
    """Names for the n outputs of an op, from the parameters of its backward: ["y"], ["p_new", "m_new"]."""
    kinds = inspect.signature(op_class.backward).parameters.values()
    if n == 1:
        return ["y"]
    if any(p.kind is p.VAR_POSITIONAL for p in kinds):
        return [f"y{i}" for i in range(n)]
    return [p.name.removeprefix("d") for p in list(kinds)[1:n + 1]]


def nodes_of(y: Tensor) -> Iterator[Node]:
    """All nodes that y depends on, oldest first, with the arrays of all their inputs."""
    if y.node is not None:
        found = collect(y.node)[0]
        executor_of(type(y.data), plain=False).rematerialize(found)
        yield from (found[seq] for seq in sorted(found))
