"""Kernels for CuPy's arrays: ops that draw random numbers draw them on the device; AdamW and clipping, which run on
many small arrays, launch one kernel for each; the graph of a linear layer drops x where w needs no gradient. All other
ops run as in the textbook, whose array functions are CUDA kernels already."""
from typing import Any

import numpy as np

from minigrad.backend import WHEN_REGISTERED, Backend
from minigrad.cuda import kernels
from minigrad.executor import EXECUTORS
from minigrad.kernels.executor import Kernel, KernelExecutor
from minigrad.kernels.recompute import Recompute
from minigrad.ops import attention, dropout, linalg
from minigrad.ops.adamw import AdamW


class DrawsOnDevice(Kernel):
    """A kernel that draws the elements which dropout keeps on the device, with the bits of minigrad.random."""
    dtypes = "efd"
    xp: Any

    def keep_mask(self, key: Any, shape: tuple[int, ...], p: float) -> Any:
        return kernels.keep_mask(self.xp, key, shape, p)


class Dropout(DrawsOnDevice, dropout.Dropout, register=False):
    """The textbook's op with its mask drawn on the device."""


class Attention(DrawsOnDevice, attention.Attention, register=False):
    """The textbook's op with its mask drawn on the device."""


class Linear(Kernel, linalg.Linear, register=False):
    """The textbook's op. Where w needs no gradient, the graph drops x."""
    dtypes = "efd"

    def forward(self, x, w, b=None):
        self.drops = () if self.needs[1] else (0,)
        return super().forward(x, w, b)


KERNELS = Dropout, Attention, Linear, Recompute


class CudaExecutor(KernelExecutor):
    """The executor for CuPy's arrays: kernels, AdamW and clipping in place."""

    def describe(self) -> str:
        return "cuda"

    def update(self, op_class: Any, params: Any, grads: Any, moments: Any, hyper: Any, static: Any) -> None:
        if op_class is not AdamW or not all(same_layout(a, moments[0].dtype) for a in (*params, *grads)):
            return super().update(op_class, params, grads, moments, hyper, static)
        end = 0
        for p, g in zip(params, grads):
            start, end = end, end + p.size
            kernels.adamw(self.xp, p, g, *(m[start:end] for m in moments), *hyper, **static)

    def norm(self, grads: Any) -> Any:
        alike = all(same_layout(g, np.dtype("float32")) for g in grads)
        return kernels.norm(self.xp, grads) if alike else super().norm(grads)


def same_layout(a: Any, dtype: Any) -> bool:
    """Whether an array is contiguous and of this dtype, float32 or float64."""
    return a.flags.c_contiguous and a.dtype == dtype and a.dtype.char in Kernel.dtypes


def register(array_type: type, backend: Backend) -> None:
    """Run these kernels on the arrays of a library that compiles CUDA sources."""
    if hasattr(backend.xp, "RawKernel"):
        EXECUTORS[array_type] = CudaExecutor(backend.xp, KERNELS)


WHEN_REGISTERED.append(register)
