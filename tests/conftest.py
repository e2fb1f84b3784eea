import gpt  # noqa: F401  (before NumPy: it configures BLAS, here as in the processes that tests start)

import pytest

import minigrad as mg

from tests.small_kernels import small_kernels

pytest_plugins = ["skips"]


@pytest.fixture
def with_kernels():
    """Kernels with small settings; BLAS has two threads."""
    before = mg.get_num_threads()
    mg.set_num_threads(2)
    with small_kernels():
        yield
    mg.set_num_threads(before)
