"""Kernels for NumPy arrays as explicit loops, compiled by numba: what an op computes, element by element.

They are registered if numba can be imported, unless the environment variable MINIGRAD_EXECUTOR is "vector". Files,
classes and variables are named as in minigrad/ops. The loops themselves are functions that take arrays and n, the number
of threads, and write into arrays; the classes below them allocate these arrays.
"""
import os
from typing import Any

import numpy as np

from minigrad.executor import EXECUTORS
from minigrad.kernels import vector

CHOICES = "loops", "vector"
choice = os.environ.get("MINIGRAD_EXECUTOR", "loops")
if choice not in CHOICES:
    raise ValueError(f"MINIGRAD_EXECUTOR={choice}: expected one of {', '.join(CHOICES)}")


def loop_kernels() -> Any:
    from minigrad.kernels.loops.linalg import Linear
    return [Linear]


class LoopsExecutor(vector.VectorExecutor):
    """The executor for NumPy arrays that runs loops, and the vector kernels for what has none."""


try:
    if choice == "loops":
        EXECUTORS[np.ndarray] = LoopsExecutor(np, [*vector.KERNELS, *loop_kernels()], min_size=2048)
except ImportError:
    pass
