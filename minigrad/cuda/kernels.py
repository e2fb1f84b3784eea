"""Calls of the CUDA kernels in this folder. xp: cupy, or another namespace with its RawKernel."""
import functools
import math
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from minigrad.random import Key, threshold

THREADS = 128                                   # in a block
SUMS = 64 * THREADS                             # that the norm of an array is added up from
C_TYPES = {"bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
           "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int",
           "uint64": "unsigned long long", "float32": "float", "float64": "double"}     # a dtype's name in CUDA


def source(name: str) -> str:
    """The CUDA source of a kernel."""
    return Path(__file__).with_name(f"{name}.cu").read_text("utf-8")


@functools.cache                                # CuPy compiles a kernel at its first call
def kernel(xp: Any, name: str, **types: str) -> Any:
    """The kernel of a source file, with names of types in it defined: kernel(xp, "add_at", X="float", Y="double")."""
    return xp.RawKernel(source(name), name, tuple(f"-D{name}={c_type}" for name, c_type in types.items()))


def launch(kernel: Any, threads: int, *arguments: Any) -> None:
    """Queue a kernel that needs this many threads, a few more of which may run."""
    if threads:
        kernel((-(-threads // THREADS),), (THREADS,), arguments)


def keep_mask(xp: Any, key: Key, shape: tuple[int, ...], p: float) -> Any:
    """minigrad.random.keep_mask with the same bits, drawn on the device."""
    limit = threshold(key, p)
    keep = xp.empty(shape, dtype=bool)
    words = (np.uint64(word) for word in (key.seed, key.stream, key.micro, key.step, limit))
    launch(kernel(xp, "keep_mask"), -(-keep.size // 8), *words, np.int64(keep.size), keep)
    return keep


def adamw(xp: Any, p: Any, g: Any, m: Any, v: Any, lr: float, beta1: float, beta2: float, eps: float,
          weight_decay: float, *, t: int) -> None:
    """A step of the op adamw, written over p, m and v: contiguous arrays of one dtype, float32 or float64."""
    numbers = (lr, beta1, 1.0 - beta1, 1.0 - beta1 ** t, beta2, 1.0 - beta2, 1.0 - beta2 ** t, eps, weight_decay)
    launch(kernel(xp, "adamw", X=C_TYPES[p.dtype.name]), p.size, p, g, m, v, np.int64(p.size),
           *map(p.dtype.type, numbers))


def norm(xp: Any, arrays: Sequence[Any]) -> Any:
    """The L2 norm of all numbers in some contiguous arrays of float32, a 0-d array of float64."""
    sums = xp.empty((len(arrays), SUMS), "float64")
    for x, own in zip(arrays, sums):
        launch(kernel(xp, "square_sum"), SUMS, x, own, np.int64(x.size))
    return xp.sqrt(sums.sum())


def add_at(xp: Any, y: Any, index: Any, x: Any) -> None:
    """y[index] += x, once for each index, for a contiguous y that is not float16. The additions to an element are in
    the order of the indices, so the sums have the same bits on every run; those of CuPy's add.at, which are atomic, do
    not. Indices out of range wrap around."""
    if getattr(index, "dtype", None) is not None and index.dtype.kind in "iu":      # rows of y
        rows, width = xp.asarray(index).astype("int64", copy=False) % y.shape[0], math.prod(y.shape[1:])
        shape = (*index.shape, *y.shape[1:])
    else:                                                           # elements of y
        rows, width = xp.arange(y.size, dtype="int64").reshape(y.shape)[index], 1
        shape = rows.shape
    x = xp.broadcast_to(x if x.dtype.name in C_TYPES else x.astype(y.dtype), shape)
    rows = rows.reshape(-1)
    order = xp.argsort(rows, kind="stable")
    types = {"X": C_TYPES[x.dtype.name], "Y": C_TYPES[y.dtype.name]}
    launch(kernel(xp, "add_at", **types), rows.size * width, rows[order], order, xp.ascontiguousarray(x), y,
           np.int64(rows.size), np.int64(width))
