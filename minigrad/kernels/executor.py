"""An executor that runs an op's kernel if there is one, and the textbook's op if not.

It also saves memory and copies, with the same results: it drops activations that no backward needs, and in a pass whose
arrays only the tape reads, it adds gradients in place and kernels overwrite the values that they saved.
"""
import math
from typing import Any, Iterable, Sequence

from minigrad.executor import Dropped, Executor, Gradients
from minigrad.ops.op import Op
from minigrad.ops.sums import run


class Kernel:
    """The base class of kernels. A kernel is a faster version of an op: it subclasses Kernel and the op, overrides
    `forward` and `backward`, and may declare the following."""
    dtypes = "fd"                               # the dtypes it runs on, in NumPy's letters: float32 and float64
    min_size = math.inf                         # runs on so many elements even if its executor's min_size is larger
    unaliased: tuple[int, ...] = ()             # inputs whose returned gradient is an array that nothing else refers to
    drops: tuple[int, ...] = ()                 # inputs whose values its backward does not need
    may_overwrite = False                       # set before backward: it may write over the values that forward saved
    exposed = False                             # an earlier pass may have shown the saved values, in a Step


def op_of(kernel: type[Kernel]) -> type[Op]:
    """The op that a kernel is a version of: the first class that it inherits from which is an op and no kernel."""
    return next(base for base in kernel.__mro__ if issubclass(base, Op) and not issubclass(base, Kernel))


class OwnedGradients(Gradients):
    """A store that adds in place. The first contribution is stored without a copy. The second allocates a new array,
    unless one of the two is unaliased; later ones are added in place. A leaf gets an owned array without a copy if the
    pass is exclusive; else something outside may refer to it, and it is copied."""

    def __init__(self, exclusive: bool) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.owned: set[Any] = set()            # keys of gradients whose arrays only this store refers to
        self.unaliased: list[Any] = []          # those of the gradients that the last backward returned

    def add(self, key: Any, dx: Any) -> None:
        total = self.sums.get(key)
        unaliased = bool(self.unaliased) and any(dx is a for a in self.unaliased)
        if total is None:
            self.sums[key] = dx
            if unaliased:
                self.owned.add(key)
            return
        if key in self.owned:
            total += dx
        elif unaliased:
            dx += total
            total = dx
        else:
            total = total + dx
        self.sums[key] = total                  # of a NumPy scalar, += makes a new object
        self.owned.add(key)

    def pop_leaf(self, key: Any) -> Any:
        return self.pop(key) if key in self.owned and self.exclusive else super().pop_leaf(key)


class KernelExecutor(Executor):
    """Runs kernels on the arrays of one library, whose namespace is xp. min_size: the kernel runs if the op's first
    input has at least this many elements; on smaller ones the textbook is as fast."""

    def __init__(self, xp: Any, kernels: Iterable[type[Kernel]], min_size: int = 1) -> None:
        self.xp, self.min_size = xp, min_size
        self.kernels = {op_of(kernel): kernel for kernel in kernels}    # op class -> kernel

    def implementation(self, op_class: type[Op]) -> type[Op]:
        kernel: Any = self.kernels.get(op_class, op_class)
        return kernel

    def forward(self, op_class: type[Op], arrays: Sequence[Any], static: dict[str, Any], needs: Sequence[bool]
                ) -> tuple[Op, Any]:
        kernel: Any = self.kernels.get(op_class)
        if kernel is not None and getattr(arrays[0], "size", 0) >= min(self.min_size, kernel.min_size) and (
                arrays[0].dtype.char in kernel.dtypes):
            op_class = kernel
        op = op_class()
        op.xp, op.needs = self.xp, needs
        return op, run(op, op.forward, arrays, static)

    def backward(self, op: Op, dys: Sequence[Any], grads: Any) -> Any:
        grads.unaliased = []
        if not isinstance(op, Kernel):
            return super().backward(op, dys, grads)
        if not grads.exclusive:
            op.exposed = True
            return run(op, op.backward, dys, op.saved)
        op.may_overwrite = not op.exposed
        dxs = run(op, op.backward, dys, op.saved)
        each = dxs if type(dxs) is tuple else (dxs,)
        grads.unaliased = [each[i] for i in op.unaliased if i < len(each)]
        return dxs

    def gradients(self, exclusive: bool) -> Gradients:
        return OwnedGradients(exclusive)

    def retain(self, op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs, with the arrays dropped that the kernel's backward does not need and that a node can compute
        again."""
        if not isinstance(op, Kernel):
            return inputs
        kept = list(inputs)
        for i in op.drops:
            x = inputs[i]
            node = getattr(x, "node", None)     # None for a leaf or a number
            if node is not None:
                kept[i] = x.output(Dropped(x._data.shape, x._data.dtype), node, x.out)
        return tuple(kept)
