"""Walk a forward, op by op."""
from dataclasses import dataclass
from typing import Any, Iterator

from minigrad.ops.op import input_names
from minigrad.step.line_trace import Listing
from minigrad.step.rerun import nodes_of, on_host, output_names, trace_forward
from minigrad.tensor import Tensor


@dataclass(frozen=True)
class ForwardStep:
    """The forward of one node, run again."""
    index: int
    op: str
    name: str                       # the module's path, or the op's name
    created_at: str                 # the user's line
    inputs: dict[str, Any]          # name -> array on the host, or number
    outputs: dict[str, Any]         # name -> array on the host
    listing: Listing


def forward_steps(fn: Any) -> Iterator[ForwardStep]:
    """The forward of y = fn(), one op at a time, oldest first: its inputs and outputs, and the values that each of its
    lines computed. An op runs again only when the loop reaches it.

    ValueError if y is no Tensor, if none of its inputs needs a gradient, as then no op was recorded, and if the data of
    an input changes before the loop reaches its op.
    """
    y = fn()
    if not isinstance(y, Tensor) or y.node is None:
        raise ValueError(f"fn gave {y!r:.80}: forward_steps needs a Tensor made from at least one that has "
                         "requires_grad=True, outside no_grad()")
    for index, node in enumerate(nodes_of(y)):
        node.check_unchanged(node.inputs, ", so the op cannot be run again with the values that it had")
        outputs = len(node.outs or (None,))
        _, ys, listing = trace_forward(node.op_class, node.op.needs, node.inputs, node.static, outputs)
        names = input_names(node.op_class, len(node.inputs))
        yield ForwardStep(index, node.op_class.name, node.module or node.op_class.name, node.created_at,
                          dict(zip(names, map(on_host, node.inputs))),
                          dict(zip(output_names(node.op_class, outputs), ys)), listing)
