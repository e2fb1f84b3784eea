"""Kernels for CuPy's arrays: ops whose random numbers are drawn on the device. All other ops run as in the textbook,
whose array functions are CUDA kernels already."""
from typing import Any

from minigrad.backend import WHEN_REGISTERED, Backend
from minigrad.cuda.kernels import keep_mask
from minigrad.executor import EXECUTORS
from minigrad.kernels.executor import Kernel, KernelExecutor
from minigrad.ops import attention, dropout


class DrawsOnDevice(Kernel):
    """A kernel that draws the elements which dropout keeps on the device, with the bits of minigrad.random."""
    dtypes = "efd"
    xp: Any

    def keep_mask(self, key: Any, shape: tuple[int, ...], p: float) -> Any:
        return keep_mask(self.xp, key, shape, p)


class Dropout(DrawsOnDevice, dropout.Dropout, register=False):
    """The textbook's op with its mask drawn on the device."""


class Attention(DrawsOnDevice, attention.Attention, register=False):
    """The textbook's op with its mask drawn on the device."""


KERNELS = Dropout, Attention


def register(array_type: type, backend: Backend) -> None:
    """Run these kernels on the arrays of a library that compiles CUDA sources."""
    if hasattr(backend.xp, "RawKernel"):
        EXECUTORS[array_type] = KernelExecutor(backend.xp, KERNELS)


WHEN_REGISTERED.append(register)
