"""Kernels for NumPy arrays of float32 and float64. They compute in place, block by block, and reuse memory.

Matrix products run on BLAS's threads, all else on the calling thread. Files, classes and variables are named as in
minigrad/ops, whose formulas the kernels compute. A kernel never writes into its inputs.
"""
from typing import Any

import numpy as np

from minigrad.executor import EXECUTORS
from minigrad.kernels.executor import Kernel, KernelExecutor
from minigrad.kernels.recompute import Recompute
from minigrad.kernels.vector.adamw import adamw_in_place, clip_in_place, norm_of
from minigrad.kernels.vector.attention import Attention
from minigrad.kernels.vector.embedding import Embedding
from minigrad.kernels.vector.linalg import Linear
from minigrad.kernels.vector.loss import CrossEntropy, LinearCrossEntropy
from minigrad.kernels.vector.norm import LayerNorm
from minigrad.kernels.vector.pointwise import Add, Gelu
from minigrad.kernels.vector.shape import SplitHeads
from minigrad.ops.adamw import AdamW

KERNELS = Add, LayerNorm, Linear, Gelu, Attention, SplitHeads, Embedding, CrossEntropy, LinearCrossEntropy, Recompute


class VectorExecutor(KernelExecutor):
    """The executor for NumPy arrays: kernels, AdamW and clipping in place."""

    def describe(self) -> str:
        return "vector"

    def update(self, op_class: Any, params: Any, grads: Any, moments: Any, hyper: Any, static: Any) -> None:
        if op_class is AdamW and params[0].dtype.char in Kernel.dtypes:
            adamw_in_place(params, grads, *moments, *hyper, **static)
        else:
            super().update(op_class, params, grads, moments, hyper, static)

    def norm(self, grads: Any) -> Any:
        return norm_of(grads) if has_kernels(grads) else super().norm(grads)

    def clip(self, grads: Any, max_norm: float, norm: Any) -> None:
        if has_kernels(grads):
            clip_in_place(grads, max_norm, float(norm))
        else:
            super().clip(grads, max_norm, norm)


def has_kernels(arrays: Any) -> bool:
    """Whether all arrays are of dtypes that kernels are for."""
    return all(a.dtype.char in Kernel.dtypes for a in arrays)


EXECUTORS[np.ndarray] = VectorExecutor(np, KERNELS, min_size=1024)
