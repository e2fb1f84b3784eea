"""Kernels with settings so small that they split small arrays into pieces and blocks like large ones."""
import contextlib
import sys
from typing import Iterator
from unittest import mock

import numpy as np

from minigrad.executor import EXECUTORS
from minigrad.kernels import loops, vector
from minigrad.kernels.vector.settings import settings
from minigrad.modes import switch

# the executors of NumPy arrays by name: vector, and loops if numba is there
NUMPY_EXECUTORS = {"vector": vector.VectorExecutor(np, vector.KERNELS)}
with contextlib.suppress(ImportError):
    NUMPY_EXECUTORS["loops"] = loops.executor()

SMALL = dict(piece=24, summed_rows=5, queries=3, scores=40, vocabulary=6, logits=130, stretch=20, reused_bytes=64)


@contextlib.contextmanager
def small_kernels() -> Iterator[None]:
    """Kernels are on, for arrays of any size, with these settings; loops run on all threads."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(settings, **SMALL))
        stack.enter_context(mock.patch.object(EXECUTORS[np.ndarray], "min_size", 1))
        if "minigrad.kernels.loops.threads" in sys.modules:
            stack.enter_context(mock.patch.object(loops.threads, "WORTH", 1e-3))
        stack.enter_context(switch(plain=False))
        yield
