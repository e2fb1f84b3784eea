"""The door between the tape and whatever makes it fast: how ops are run, where gradients in flight are kept.

`Executor` runs the textbook's ops on the arrays of any library. A faster one is a subclass that registers itself in
EXECUTORS for a type of arrays; minigrad/kernels has them. The contract: results are the textbook's up to rounding, and
have the same bits whether a backward is stepped through or run in one go.
"""
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

import numpy as np

from minigrad import device
from minigrad.ops.op import Op

if TYPE_CHECKING:
    from minigrad.tape import Node


class Gradients:
    """The gradients in flight of one backward pass: for each Tensor, by its key, the sum of what its consumers have
    sent so far. The first contribution is stored as it is; a later one makes a new array."""

    def __init__(self) -> None:
        self.sums: dict[Any, Any] = {}

    def add(self, key: Any, dx: Any) -> None:
        """Add a contribution to the gradient of a Tensor."""
        self.sums[key] = self.sums[key] + dx if key in self.sums else dx

    def get(self, key: Any) -> Any:
        """The sum so far; None if nothing was sent."""
        return self.sums.get(key)

    def pop(self, key: Any) -> Any:
        """The whole sum, which is forgotten here; None if nothing was sent."""
        g = self.sums.pop(key, None)
        return np.asarray(g) if isinstance(g, np.generic) else g        # NumPy makes scalars of 0-d results

    def pop_leaf(self, key: Any) -> Any:
        """`pop`, as an array that nothing else refers to: the leaf keeps it."""
        g = self.pop(key)
        return g.copy() if device.is_array(g) else g


class Dropped(NamedTuple):
    """Placeholder for the array of a node's input that no backward needs; `rematerialize` puts the array back."""
    shape: tuple[int, ...]
    dtype: Any


class Executor:
    """Runs the textbook's ops, each to its end before it returns. On a device its library may queue the work."""

    def implementation(self, op_class: type[Op]) -> type[Op]:
        """The class that runs an op: the op itself, or a kernel."""
        return op_class

    def forward(self, op_class: type[Op], arrays: Sequence[Any], static: dict[str, Any], needs: Sequence[bool]
                ) -> tuple[Op, Any]:
        """Run an op on arrays and numbers; needs: which of them want a gradient. Returns the op, with what it saved,
        and its output, a tuple for several."""
        op = op_class()
        op.xp, op.needs = next(device.xp(a) for a in arrays if device.is_array(a)), needs
        return op, op.forward(*arrays, **static)

    def backward(self, op: Op, dys: Sequence[Any], grads: Gradients) -> Any:
        """Run the backward of what `forward` returned: the gradient of each input. grads: the store of this pass."""
        return op.backward(*dys, **op.saved)

    def gradients(self, exclusive: bool) -> Gradients:
        """The store of one backward pass. exclusive: no array of the pass is seen outside, and the graph is used this
        once, so arrays may be overwritten."""
        return Gradients()

    def retain(self, op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs that a node keeps: Tensors and numbers, some perhaps without their array."""
        return inputs

    def rematerialize(self, nodes: dict[int, "Node"]) -> None:
        """Put back the arrays that `retain` left out of these nodes: what made them runs again, with the same bits."""
        made: dict[int, Any] = {}
        for _, node in sorted(nodes.items()):
            for x in node.inputs:
                if type(getattr(x, "_data", None)) is Dropped:
                    if x.node.seq not in made:
                        made[x.node.seq] = x.node.rerun()
                    x._data = made[x.node.seq][x.out]

    def synchronize(self) -> None:
        """Return when all arrays are complete. Needed to measure time: code that reads numbers waits by itself."""
        device.synchronize()

    def update(self, op_class: type[Op], params: Sequence[Any], grads: Sequence[Any], moments: Sequence[Any],
               hyper: Sequence[Any], static: dict[str, Any]) -> None:
        """Run an optimizer's op on each parameter and its gradient, and write the results over parameter and moments.
        moments: flat arrays, each with the values of all the parameters one after the other."""
        end = 0
        for p, g in zip(params, grads):
            start, end = end, end + p.size
            own = [m[start:end].reshape(p.shape) for m in moments]      # views
            op = op_class()
            op.xp = device.xp(p)
            for old, new in zip([p, *own], op.forward(p, g, *own, *hyper, **static)):
                old[...] = new

    def clip(self, grads: Sequence[Any], max_norm: float) -> Any:
        """Scale gradients in place to a joint L2 norm of at most max_norm. Returns the norm before, a 0-d array."""
        xp = device.xp(grads[0])
        norm = xp.sqrt(xp.stack([xp.asarray((g * g).sum()) for g in grads]).sum())
        scale = xp.minimum(max_norm / (norm + 1e-6), 1.0)
        for g in grads:
            g *= scale
        return xp.asarray(norm)


TEXTBOOK = Executor()
EXECUTORS: dict[type, Executor] = {}            # array type -> what runs its ops, where it is not the textbook


def executor_of(array_type: type, plain: bool) -> Executor:
    """What runs the ops of these arrays."""
    return TEXTBOOK if plain else EXECUTORS.get(array_type, TEXTBOOK)
