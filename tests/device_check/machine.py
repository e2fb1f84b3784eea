"""What the device and its libraries are, and whether they work."""
import importlib.metadata
import platform
import subprocess
import time

import cupy
import numpy as np

from gpt.bench.machine import describe

from minigrad import device
from minigrad.cuda import cuda_status

from .found import Found

FILL = r"""
extern "C" __global__ void fill(float* x, float value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = value;
}
"""


def versions(found: Found) -> None:
    start = time.perf_counter()
    works, reason = cuda_status()
    seconds = time.perf_counter() - start
    found.answer(f"cuda_status: {reason}, after {seconds:.1f} s, in which the first product and kernels ran", works)
    found.number("seconds of cuda_status", seconds)

    runtime, gpu = cupy.cuda.runtime, cupy.cuda.Device()
    free, total = runtime.memGetInfo()
    host = describe(1, "cuda", with_torch=False)
    found.number("machine", {
        **device.library("cuda").facts(), "compute capability": gpu.compute_capability,
        "SMs": gpu.attributes["MultiProcessorCount"], **nvidia_smi(),
        "memory": f"{total / 2 ** 30:.1f} GiB, {free / 2 ** 30:.1f} free",
        "CUDA of the driver": runtime.driverGetVersion(), "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "python": platform.python_version(), "numpy": f"{np.__version__} ({host['blas']})",
        **{name: version(name) for name in ("torch", "ml_dtypes", "pytest")},
        "cpu": f"{host['cpu']}, {host['cores']} cores"})

    kernel = cupy.RawKernel(FILL, "fill")
    x = cupy.empty(1000, "float32")
    start = time.perf_counter()
    kernel((4,), (256,), (x, np.float32(1.5), np.int32(1000)))
    filled = bool((x == 1.5).all())
    seconds = time.perf_counter() - start
    found.answer(f"a raw kernel, compiled, run and read in {seconds:.2f} s", filled)
    found.number("seconds of a raw kernel", seconds)

    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(256, 256)).astype("float32") for _ in range(2))
    want = a.astype("float64") @ b
    error = float(np.abs(cupy.asnumpy(cupy.asarray(a) @ cupy.asarray(b)) - want).max() / np.abs(want).max())
    found.answer(f"a product in float32 is exact to {error:.1e} (TF32 would be 1e-3)", error < 1e-5)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def nvidia_smi() -> dict[str, str]:
    """The limits that the speed depends on, clocks at most; empty where nvidia-smi does not tell."""
    names = {"power limit": "power.limit", "SM clock": "clocks.max.sm", "memory clock": "clocks.max.mem"}
    try:
        line = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(names.values())}", "--format=csv,noheader"],
                              capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return {}
    return dict(zip(names, (value.strip() for value in line.split(","))))
