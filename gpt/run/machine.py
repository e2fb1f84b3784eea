"""The machine that a run computes on."""
import contextlib
import math
import os
import platform
import statistics
from pathlib import Path
from typing import Any, Mapping

import numpy as np

import minigrad as mg
from minigrad import device
from minigrad.executor import executor_of
from minigrad.modes import mode

from gpt import blas

PEAK_SIZE = 8192                # rows of the matrices whose product shows the peak of a device: enough to fill it


def allowed_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def environment(device_name: str) -> dict[str, Any]:
    """What the bits of a run depend on besides its options: the content of env.json."""
    return {"minigrad": mg.__version__, "python": platform.python_version(), "platform": platform.platform(),
            "numpy": np.__version__, "blas": blas.describe(), "device": device_name, "threads": mg.get_num_threads(),
            "executor": executor(device_name), **device.library(device_name).facts()}


def executor(device_name: str) -> str:
    """What runs the ops on the arrays of a device, in words: "loops (numba 0.68.1, OpenMP, gemm of openblas)"."""
    return executor_of(type(device.put(np.zeros(1), device_name)), mode().plain).describe()


def device_of(machine: Mapping[str, Any]) -> str:
    """The device of an `environment`, with the name of its GPU if it is one: "cuda:0 (NVIDIA H100)"."""
    return f"{machine['device']} ({machine['gpu']})" if "gpu" in machine else str(machine["device"])


def memory() -> float:
    """Bytes of memory that this process may use; infinite if unknown."""
    amounts = [math.inf]
    if hasattr(os, "sysconf"):
        amounts.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):          # the limit of a container; "max" if there is none
        amounts.append(int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
    return min(amounts)


def matmul_peak(device_name: str, dtype: str) -> float:
    """Floating-point operations per second of a product of two square matrices of random numbers: on the CPU of 768
    rows, the best of 5, as other programs slow it; on a device of PEAK_SIZE rows, fewer if memory is short, the median
    of 5."""
    library = device.library(device_name)
    n = 768 if device_name == "cpu" else PEAK_SIZE
    free, held, used = library.memory() or (math.inf, 0, 0)
    while n > 16 and 3 * n * n * np.dtype(dtype).itemsize > free + held - used:
        n //= 2
    block = np.random.default_rng(0).random((n // 16, n // 16)).astype(dtype)
    a = library.xp.tile(device.put(block, device_name), (16, 16))                       # (n, n)
    seconds = [library.seconds(lambda: a @ a) for _ in range(6)][1:]          # the first product loads the library
    return 2 * n ** 3 / (min(seconds) if device_name == "cpu" else statistics.median(seconds))
