import gpt  # noqa: F401  (before NumPy: it configures BLAS, here as in the processes that tests start)

import signal

import numpy as np
import pytest

import minigrad as mg
from minigrad.executor import EXECUTORS
from minigrad.kernels import loops

from tests.small_kernels import small_kernels

pytest_plugins = ["skips"]


def pytest_sessionstart():
    """Compile the loops before the first test: the processes that tests start would say that they compile them. And
    let Ctrl-C end those processes: a shell starts programs in the background without it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(EXECUTORS[np.ndarray], loops.LoopsExecutor):
        for dtype in ("float32", "float64"):
            loops.compiling.compile_ahead(dtype)
        loops.compiling.elsewhere = False       # arrays that lie in memory in other ways: this process compiles faster


@pytest.fixture
def with_kernels():
    """Kernels with small settings; BLAS has two threads."""
    before = mg.get_num_threads()
    mg.set_num_threads(2)
    with small_kernels():
        yield
    mg.set_num_threads(before)
