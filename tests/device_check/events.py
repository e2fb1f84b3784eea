"""Times on the device, and arrays to measure with."""
import functools
import math
import time
from typing import Any, Callable

import cupy
import numpy as np

SAMPLES, LEAST_MS = 5, 2.0              # timed samples, and how long one lasts at least: short calls are repeated in it


def device_ms(f: Callable[[], Any]) -> list[float]:
    """Milliseconds of f() on the device, by events, SAMPLES times after a warm-up."""
    f()
    calls = max(1, math.ceil(LEAST_MS / max(sample(f, 1), 1e-3)))
    return [sample(f, calls) for _ in range(SAMPLES)]


def sample(f: Callable[[], Any], calls: int) -> float:
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(calls):
        f()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) / calls


def host_us(f: Callable[[], Any], batches: int = 20, calls: int = 100) -> list[float]:
    """Microseconds for which the host is busy with one f(), in each of some batches. The device's queue is empty before
    each batch and holds a whole one."""
    f()
    found = []
    for _ in range(batches):
        cupy.cuda.get_current_stream().synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            f()
        found.append(1e6 * (time.perf_counter() - start) / calls)
    cupy.cuda.get_current_stream().synchronize()
    return found


def random_array(dtype: str, *shape: int) -> Any:
    """Standard normal numbers on the device: products of zeros run faster than products of numbers."""
    return cupy.resize(_numbers(), shape).astype(numpy_dtype(dtype))


@functools.cache
def _numbers() -> Any:
    return cupy.asarray(np.random.default_rng(0).normal(size=1_000_003).astype("float32"))      # a prime number


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes                # ModuleNotFoundError where it is missing
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
