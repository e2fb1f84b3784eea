"""Kernels for NumPy arrays as explicit loops, compiled by numba: what an op computes, element by element.

They run where numba can be imported, unless the environment variable MINIGRAD_EXECUTOR is "vector"; if it is "loops",
numba must be there. Files, classes and variables are named as in minigrad/ops. The loops are functions that take arrays
and n, the number of parts that they are split into, and write into arrays; the classes below them allocate these
arrays.
"""
import contextlib
import os
from typing import Any

import numpy as np

from minigrad.executor import EXECUTORS
from minigrad.kernels import vector
from minigrad.kernels.executor import Kernel
from minigrad.ops.adamw import AdamW

choice = os.environ.get("MINIGRAD_EXECUTOR")
if choice not in (None, "loops", "vector"):
    raise ValueError(f"MINIGRAD_EXECUTOR={choice}: expected loops or vector, or the variable not set")


class LoopsExecutor(vector.VectorExecutor):
    """The executor for NumPy arrays that runs loops, and the vector kernels of ops that have none."""

    def update(self, op_class: Any, params: Any, grads: Any, moments: Any, hyper: Any, static: Any) -> None:
        from minigrad.kernels.loops.adamw import adamw_in_place
        dtype = moments[0].dtype
        if op_class is AdamW and dtype.char in Kernel.dtypes and {a.dtype for a in (*params, *grads)} == {dtype}:
            adamw_in_place(params, grads, *moments, *hyper, **static)
        else:
            super().update(op_class, params, grads, moments, hyper, static)

    def describe(self) -> str:
        import numba
        from minigrad.kernels.loops import blas, threads
        products = "gemm of openblas" if blas.GEMM else "products of NumPy"
        return f"loops (numba {numba.__version__}, {threads.layer()}, {products})"


def executor() -> LoopsExecutor:
    """An executor with all loops. ImportError if numba cannot be imported, or does not compile."""
    try:
        import numba
    except ImportError as error:
        raise ImportError(f'loops need numba: pip install "minigrad[fast]" ({error})') from None
    if numba.config.DISABLE_JIT:
        raise ImportError("loops need numba's compiler, which NUMBA_DISABLE_JIT switches off")
    from minigrad.kernels.loops import blas
    from minigrad.kernels.loops.attention import Attention
    from minigrad.kernels.loops.dropout import Dropout
    from minigrad.kernels.loops.embedding import Embedding
    from minigrad.kernels.loops.linalg import Linear
    from minigrad.kernels.loops.loss import CrossEntropy, LinearCrossEntropy
    from minigrad.kernels.loops.norm import LayerNorm
    from minigrad.kernels.loops.pointwise import Add, Gelu
    kernels = [Add, LayerNorm, Linear, Gelu, Dropout, Embedding, CrossEntropy, LinearCrossEntropy]
    if blas.GEMM:
        kernels.append(Attention)
    return LoopsExecutor(np, [*vector.KERNELS, *kernels], min_size=1024)


def register() -> None:
    """Run loops on NumPy arrays; in a child that is forked after they have run, the vector kernels. ImportError as of
    `executor`."""
    vectors, EXECUTORS[np.ndarray] = EXECUTORS[np.ndarray], executor()
    from minigrad.kernels.loops import threads

    def after_fork() -> None:
        if not threads.survive_fork():
            threads.forked, EXECUTORS[np.ndarray] = True, vectors

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=after_fork)


if choice != "vector":
    with contextlib.suppress(*() if choice else (ImportError,)):
        register()
