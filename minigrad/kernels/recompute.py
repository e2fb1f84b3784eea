"""Activation recomputation, for arrays of any library."""
from minigrad.kernels.executor import Kernel
from minigrad.ops import recompute


class Recompute(Kernel, recompute.Recompute, register=False):
    """The textbook's op. Its gradients are those of leaves of another backward, which nothing else refers to: those of
    parameters are not copied."""
    dtypes = "efd"
    min_size = 1

    def forward(self, *xs, f):
        self.unaliased = tuple(range(len(xs)))
        return super().forward(*xs, f=f)
