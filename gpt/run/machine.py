"""The machine that a run computes on."""
import contextlib
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import device, kernels

from gpt import blas


def allowed_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def environment(device_name: str) -> dict[str, Any]:
    """What the bits of a run depend on besides its options: the content of env.json."""
    return {"minigrad": mg.__version__, "python": platform.python_version(), "platform": platform.platform(),
            "numpy": np.__version__, "blas": blas.describe(), "device": device_name, "threads": mg.get_num_threads(),
            "executor": kernels.describe(device_name)}


def memory() -> float:
    """Bytes of memory that this process may use; infinite if unknown."""
    amounts = [math.inf]
    if hasattr(os, "sysconf"):
        amounts.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):          # the limit of a container; "max" if there is none
        amounts.append(int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
    return min(amounts)


def matmul_peak(device_name: str, dtype: str) -> float:
    """Floating-point operations per second of a matrix product (768, 768) @ (768, 768) on a device: the best of 4."""
    n = 768
    a = device.put(np.ones((n, n), dtype), device_name)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        device.host((a @ a)[0])                 # synchronizes with the device
        seconds.append(time.perf_counter() - start)
    return 2 * n ** 3 / min(seconds)
