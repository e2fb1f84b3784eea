"""CUDA devices through CuPy, and the CUDA kernels that the engine adds to it. The only file that imports CuPy.

A process uses one CUDA device, because CuPy computes on its current device, wherever its arrays are.
"""
import functools
import os
import re
from pathlib import Path
from typing import Any, Callable

import numpy as np

from minigrad.backend import Backend, register
from minigrad.cuda import kernels

_in_use: list[int] = []                         # the number of the device that this process computes on


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full. CuPy has MemoryError for its arrays alone; CUDA and cuBLAS, which
    allocate for kernels and products, have RuntimeErrors."""
    return isinstance(error, MemoryError) or any(name in str(error) for name in (
        "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@functools.cache                                # the trial computes and waits for the device: only once
def cuda_status() -> tuple[bool, str]:
    """(True, name of the first CUDA device), or (False, in one line what is missing: CuPy, its libraries, the driver, a
    device, free memory, or a CUDA toolkit that knows this device)."""
    try:
        cupy = _cupy()
    except Exception as error:                  # ValueError if it was compiled for another NumPy
        absent = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        return False, (
            "CuPy is not installed: pip install 'minigrad[cuda13]' (or 'minigrad[cuda12]', by your driver)" if absent
            else f"CuPy is installed but does not load ({_first_line(error.__cause__ or error)})")
    runtime = cupy.cuda.runtime
    try:
        if not cupy.cuda.is_available():
            missing = "no CUDA driver was found" if runtime.driverGetVersion() == 0 else "no CUDA device is visible"
            return False, f"{missing}: check nvidia-smi and CUDA_VISIBLE_DEVICES"
        rounds = _rounds_factors(cupy)          # by a product and a compiled kernel: both libraries must load
        name = _name(cupy)
    except Exception as error:                  # CuPy's errors have no common base class
        return False, _reason(cupy, error)
    if rounds:
        return False, "CuPy multiplies float32 in TF32, as CUPY_TF32 was 1 at its first product: unset it"
    return True, name


def _rounds_factors(cupy: Any) -> bool:
    """Whether a product of float32 rounds its factors to the 11 bits of TF32."""
    a = cupy.full((256, 256), 1.0 + 2.0 ** -12, "float32")
    return bool((a @ cupy.eye(256, dtype="float32") != a).any())


def _reason(cupy: Any, error: Exception) -> str:
    """Why the trial of a device failed, in one line."""
    reason = _first_line(error)
    if lacks_memory(error):
        try:
            free, total = cupy.cuda.runtime.memGetInfo()
            reason = f"{free / 1e6:,.0f} of {total / 1e6:,.0f} MB are free"
        except Exception:                       # not even CUDA's own state fits: the first reason stays
            pass
        return f"the memory of the CUDA device is full ({reason}): nvidia-smi shows which programs use it"
    if type(error).__name__ == "CompileException":
        major, minor = cupy.cuda.nvrtc.getVersion()
        return (f"the compiler of CUDA {major}.{minor} does not compile for this device, {_name(cupy)} of compute "
                f"capability {cupy.cuda.Device().compute_capability} ({reason}): the extra of minigrad, cuda12 or "
                "cuda13, must fit the device and its driver")
    return f"the CUDA toolkit does not work ({reason}): pip install 'minigrad[cuda13]' brings its libraries"


def _cupy() -> Any:
    """The module cupy. It reads CUPY_TF32 at its first product: with 1, float32 would be less exact on a device."""
    os.environ["CUPY_TF32"] = "0"
    import cupy
    return cupy


def _name(cupy: Any) -> str:
    """The name of the CUDA device of this process."""
    name: bytes = cupy.cuda.runtime.getDeviceProperties(number_in_use())["name"]
    return name.decode()


def number_in_use() -> int:
    """The number of the CUDA device of this process; 0, the first, if it uses none yet."""
    return _in_use[0] if _in_use else 0


def check_number(number: int) -> None:
    """ValueError unless the CUDA device of this number exists and is the one of this process, if it uses one."""
    count = _cupy().cuda.runtime.getDeviceCount()
    if number >= count:
        raise ValueError(f"device 'cuda:{number}' does not exist: this machine has {count}, numbered from 0")
    if _in_use and number != _in_use[0]:
        raise ValueError(f"device 'cuda:{number}' cannot be used: this process computes on cuda:{_in_use[0]}, and a "
                         f"process uses one CUDA device; CUDA_VISIBLE_DEVICES={number} in its environment would make "
                         f"that one its only device, 'cuda:0'")


def use(number: int) -> None:
    """Make the CUDA device of this number the one of this process. ValueError if it uses another."""
    if not _in_use:
        _cupy().cuda.Device(number).use()
        _in_use.append(number)
    elif number != _in_use[0]:
        check_number(number)


def register_cupy() -> None:
    """Let the engine compute on CuPy's arrays."""
    cupy = _cupy()

    def put(array: np.ndarray, number: int) -> Any:
        use(number)
        return cupy.asarray(array)

    def number(array: Any) -> int:
        n: int = array.device.id
        use(n)
        return n

    def synchronize() -> None:
        cupy.cuda.get_current_stream().synchronize()    # all arrays are on the current stream

    def seconds(f: Callable[[], Any]) -> float:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        f()
        end.record()
        end.synchronize()
        milliseconds: float = cupy.cuda.get_elapsed_time(start, end)
        return milliseconds / 1e3

    def memory() -> tuple[int, int, int]:
        pool, free = cupy.get_default_memory_pool(), cupy.cuda.runtime.memGetInfo()[0]
        if pool.get_limit():                    # CUPY_GPU_MEMORY_LIMIT
            free = min(free, pool.get_limit() - pool.total_bytes())
        return free, pool.total_bytes(), pool.used_bytes()

    register(cupy.ndarray, Backend("cuda", cupy, put, cupy.asnumpy, number, synchronize, wraps=True,
                                   address=lambda array: array.data.ptr,
                                   add_at=functools.partial(kernels.add_at, cupy), seconds=seconds, memory=memory,
                                   facts=lambda: _facts(cupy)))


def _facts(cupy: Any) -> dict[str, Any]:
    """What the bits of results depend on: the device, its driver and libraries, and whether TF32 is on."""
    def version(number: int) -> str:            # 13020 -> "13.2"
        return f"{number // 1000}.{number % 1000 // 10}"

    runtime, driver = cupy.cuda.runtime, Path("/proc/driver/nvidia/version")
    found = re.search(r"Module .*?(\d+\.[\d.]+)", driver.read_text("utf-8")) if driver.exists() else None
    cublas = cupy.cuda.cublas.getVersion(cupy.cuda.device.get_cublas_handle())
    return {"gpu": _name(cupy), "driver": found[1] if found else f"of CUDA {version(runtime.driverGetVersion())}",
            "cuda": version(runtime.runtimeGetVersion()),
            "cublas": f"{cublas // 10000}.{cublas // 100 % 100}.{cublas % 100}", "cupy": cupy.__version__,
            "tf32": _rounds_factors(cupy)}


def from_dlpack(x: Any) -> Any:
    """An array of CuPy that shares the memory of another library's array x."""
    return _cupy().from_dlpack(x)
