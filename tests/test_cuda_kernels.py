"""NVRTC, the compiler that CuPy uses, compiles the CUDA kernels of minigrad/cuda for GPUs. What they compute is tested
in device_suite.py."""
from pathlib import Path

import pytest

from minigrad.cuda import kernels

from cuda_on_cpu import cubin

TYPES = [("float", "float"), ("float", "double"), ("double", "double")]     # X, Y


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", sorted(path.stem for path in Path(kernels.__file__).parent.glob("*.cu")))
def test_a_kernel_compiles_for_gpus_without_spilling_registers(name, arch):
    for x, y in TYPES:
        binary, report = cubin(kernels.source(name), arch, f"-DX={x}", f"-DY={y}")
        assert binary.startswith(b"\x7fELF") and "0 bytes spill stores, 0 bytes spill loads" in report


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
def test_additions_of_integers_and_booleans_compile(dtype):
    c_type = kernels.C_TYPES[dtype]
    assert cubin(kernels.source("add_at"), "sm_90", f"-DX={c_type}", f"-DY={c_type}")[0].startswith(b"\x7fELF")
