"""The interface between the tape and the code that runs ops and stores the gradients of a backward pass.

`Executor` runs the textbook's ops, the classes in minigrad/ops, on the arrays of any library. Subclasses run faster
versions of them and are registered in EXECUTORS for a type of arrays: see minigrad/kernels. Their results must equal
the textbook's up to rounding, and have the same bits whether a backward is stepped through or run in one go.
"""
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

import numpy as np

from minigrad import device
from minigrad.ops.op import Op
from minigrad.ops.sums import joint_norm, run, scale_down

if TYPE_CHECKING:
    from minigrad.tape import Node


class Gradients:
    """The partial gradients of one backward pass: for each Tensor, by its key, the sum of the contributions so far. The
    first contribution is stored without a copy; adding a later one allocates a new array."""

    def __init__(self) -> None:
        self.sums: dict[Any, Any] = {}

    def add(self, key: Any, dx: Any) -> None:
        """Add a contribution to the gradient of a Tensor."""
        self.sums[key] = self.sums[key] + dx if key in self.sums else dx

    def get(self, key: Any) -> Any:
        """The partial gradient; None if there is none."""
        return self.sums.get(key)

    def pop(self, key: Any) -> Any:
        """Remove a gradient, which is complete now, and return it; None if there is none."""
        g = self.sums.pop(key, None)
        return np.asarray(g) if isinstance(g, np.generic) else g        # a sum of 0-d arrays is a NumPy scalar

    def pop_leaf(self, key: Any) -> Any:
        """`pop`, as an array that nothing else refers to: it becomes the leaf's `.grad`."""
        g = self.pop(key)
        return g.copy() if device.is_array(g) else g


class Dropped(NamedTuple):
    """Placeholder for the array of a node's input that backward does not need; `rematerialize` restores the array."""
    shape: tuple[int, ...]
    dtype: Any


class Executor:
    """Runs the textbook's ops: synchronously on the host; on a device, its library may queue them."""

    def describe(self) -> str:
        """What runs the ops, in words."""
        return "textbook"

    def implementation(self, op_class: type[Op]) -> type[Op]:
        """The class that runs an op: the op's own class, or a kernel."""
        return op_class

    def forward(self, op_class: type[Op], arrays: Sequence[Any], static: dict[str, Any], needs: Sequence[bool]
                ) -> tuple[Op, Any]:
        """Run an op on arrays and numbers. needs: for each, whether it requires a gradient. Returns the op, with its
        saved values, and its output, a tuple if there are several."""
        op = op_class()
        op.xp, op.needs = next(device.xp(a) for a in arrays if device.is_array(a)), needs
        return op, run(op, op.forward, arrays, static)

    def backward(self, op: Op, dys: Sequence[Any], grads: Gradients) -> Any:
        """Run the backward of an op that `forward` returned. dys: the gradient of each output. grads: the store of this
        pass. Returns the gradient of the input, or a tuple with one for each input."""
        return run(op, op.backward, dys, op.saved)

    def gradients(self, exclusive: bool) -> Gradients:
        """A store for one backward pass. exclusive: only the tape reads the arrays of this pass, and the pass frees the
        graph, so gradients and saved arrays may be overwritten."""
        return Gradients()

    def retain(self, op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs, Tensors and numbers, that the node of this op refers to. A Tensor may be replaced by one that has
        a `Dropped` in place of its array."""
        return inputs

    def rematerialize(self, nodes: dict[int, "Node"]) -> None:
        """Restore the arrays that `retain` dropped from the inputs of these nodes, with the same bits: run the nodes
        that computed them again."""
        outputs: dict[int, Any] = {}            # seq of a node that was run again -> its output arrays
        for _, node in sorted(nodes.items()):   # oldest first: a node's inputs are restored before it runs again
            for x in node.inputs:
                if type(getattr(x, "_data", None)) is Dropped:
                    if x.node.seq not in outputs:
                        outputs[x.node.seq] = x.node.rerun()
                    x._data = outputs[x.node.seq][x.out]

    def synchronize(self) -> None:
        """Return when all queued work is done. Only needed to measure time: reading an array waits for it."""
        device.synchronize()

    def update(self, op_class: type[Op], params: Sequence[Any], grads: Sequence[Any], moments: Sequence[Any],
               hyper: Sequence[Any], static: dict[str, Any]) -> None:
        """Run an optimizer's op, such as adamw, on each parameter and its gradient, and write the new parameter and
        moments over the old ones. moments: 1-D arrays, each with the values of all the parameters one after the other.
        hyper, static: the op's further inputs and its keyword arguments."""
        end = 0
        for p, g in zip(params, grads):
            start, end = end, end + p.size
            own = [m[start:end].reshape(p.shape) for m in moments]      # views of this parameter's moments
            op = op_class()
            op.xp = device.xp(p)
            p_own, g_own = (a.astype(own[0].dtype, copy=False) for a in (p, g))     # float32 if they are float16
            for old, new in zip([p, *own], op.forward(p_own, g_own, *own, *hyper, **static)):
                old[...] = new

    def norm(self, grads: Sequence[Any]) -> Any:
        """The joint L2 norm of gradients, a 0-d array."""
        return joint_norm(device.xp(grads[0]), grads)

    def clip(self, grads: Sequence[Any], max_norm: float, norm: Any) -> None:
        """Scale gradients of this joint L2 norm, a 0-d array, in place to a norm of at most max_norm."""
        scale_down(device.xp(grads[0]), grads, max_norm, norm)


TEXTBOOK = Executor()
EXECUTORS: dict[type, Executor] = {}            # array type -> the executor of its ops, where it is not TEXTBOOK


def executor_of(array_type: type, plain: bool) -> Executor:
    """The executor of ops on arrays of this type. plain: TEXTBOOK, whatever is registered."""
    return TEXTBOOK if plain else EXECUTORS.get(array_type, TEXTBOOK)
