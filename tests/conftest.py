import gpt  # noqa: F401  (before NumPy: it configures BLAS, here as in the processes that tests start)

import numpy as np
import pytest

import minigrad as mg
from minigrad.executor import EXECUTORS
from minigrad.kernels.vector.settings import settings
from minigrad.modes import switch

pytest_plugins = ["skips"]


@pytest.fixture
def with_kernels(monkeypatch):
    """Kernels are on, with settings so small that they split small arrays into pieces and blocks like large ones. BLAS
    has two threads."""
    small = dict(piece=24, queries=3, scores=40, vocabulary=6, logits=130, stretch=20, reused_bytes=64)
    for name, value in small.items():
        monkeypatch.setattr(settings, name, value)
    monkeypatch.setattr(EXECUTORS[np.ndarray], "min_size", 1)
    before = mg.get_num_threads()
    mg.set_num_threads(2)
    with switch(plain=False):
        yield
    mg.set_num_threads(before)
