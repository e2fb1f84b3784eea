"""Kernels with settings so small that they split small arrays into pieces and blocks like large ones."""
import contextlib
from typing import Iterator
from unittest import mock

import numpy as np

from minigrad.executor import EXECUTORS
from minigrad.kernels.vector.settings import settings
from minigrad.modes import switch

SMALL = dict(piece=24, summed_rows=5, queries=3, scores=40, vocabulary=6, logits=130, stretch=20, reused_bytes=64)


@contextlib.contextmanager
def small_kernels() -> Iterator[None]:
    """Kernels are on, for arrays of any size, with these settings."""
    with mock.patch.multiple(settings, **SMALL), mock.patch.object(EXECUTORS[np.ndarray], "min_size", 1), (
            switch(plain=False)):
        yield
