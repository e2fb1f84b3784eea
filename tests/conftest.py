import gpt  # noqa: F401  (before NumPy: runs in this process and in others then compute with the same BLAS)

import pytest

from minigrad import tape
from minigrad.kernels import cpu, memory, pool

pytest_plugins = ["skips"]


@pytest.fixture
def with_kernels(monkeypatch):
    """Kernels as they are on large arrays: several threads, pieces and blocks, though the arrays here are small."""
    monkeypatch.setattr(pool, "WAKE", 1e-9)
    monkeypatch.setattr(cpu, "SHARE", 1e-9)
    monkeypatch.setattr(cpu, "LATE", 1e-9)
    monkeypatch.setattr(cpu, "LINE", 1)
    monkeypatch.setattr(cpu, "FEW_ROWS", 4)
    monkeypatch.setattr(cpu, "PIECE", 24)
    monkeypatch.setattr(cpu, "QUERIES", 3)
    monkeypatch.setattr(cpu, "STRETCH", 20)
    monkeypatch.setattr(cpu.LinearCrossEntropy, "logits", 130)
    monkeypatch.setattr(memory, "LARGE", 64)
    for kernel in cpu.KERNELS:
        monkeypatch.setattr(kernel, "least", 0)
    before = pool.threads()
    pool.set_threads(2)
    with tape._switch(plain=False):
        yield
    pool.set_threads(before)
