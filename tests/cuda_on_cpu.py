"""CUDA kernels without a GPU: `RawKernel` compiles them with g++ and runs them on NumPy arrays, `cubin` compiles them
for a GPU with NVRTC, the compiler that CuPy uses."""
import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# What CUDA adds to C++. Threads run one after another, so kernels must not wait for each other's threads.
PRELUDE = """
#include <cmath>
using std::sqrt;
#define __global__
#define __device__ static
struct Dimensions { unsigned x; };
static Dimensions gridDim, blockIdx, blockDim, threadIdx;
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
"""
RUN = """
extern "C" void run(unsigned blocks, unsigned threads, {parameters}) {{
    gridDim.x = blocks, blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {name}({arguments});
}}
"""


@functools.cache
def compiled(code: str, name: str, options: tuple[str, ...]) -> Any:
    """A kernel of CUDA source as a function of the host: run(blocks, threads, *arguments). Skips the test if there is
    no g++."""
    if shutil.which("g++") is None:
        pytest.skip("CUDA kernels run on the host after g++ compiled them, and it is not installed")
    parameters = re.search(rf"__global__ void {name}\((.*?)\)", code, re.DOTALL)[1]
    arguments = ", ".join(re.findall(r"(\w+)(?:,|$)", parameters))
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        source.write_text(PRELUDE + code + RUN.format(name=name, parameters=parameters, arguments=arguments))
        subprocess.run(["g++", "-O1", "-shared", "-fPIC", *options, source, "-o", library], check=True)
        return ctypes.CDLL(str(library)).run


class RawKernel:
    """cupy.RawKernel for NumPy arrays and scalars of NumPy, with blocks and threads along one axis."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = ()) -> None:
        self.run = compiled(code, name, options)

    def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
        (blocks,), (threads,) = grid, block
        self.run(blocks, threads, *map(argument, args))


def argument(x: Any) -> Any:
    """An argument of a kernel for ctypes: the address of an array, the value of a scalar."""
    if isinstance(x, np.ndarray):
        assert x.flags.c_contiguous
        return ctypes.c_void_p(x.ctypes.data)
    return np.ctypeslib.as_ctypes_type(x.dtype)(x.item())


def cubin(code: str, arch: str, *options: str) -> tuple[bytes, str]:
    """CUDA source compiled by NVRTC for an architecture, such as "sm_90", and the assembler's report of the registers
    and the memory that each kernel uses. RuntimeError, with the compiler's messages, if it does not compile. Skips the
    test if there is no NVRTC."""
    package = find_spec("nvidia")
    found = [path for folder in (package.submodule_search_locations if package else ())
             for path in Path(folder).glob("cu13/lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("NVRTC compiles CUDA kernels for GPUs, and nvidia-cuda-nvrtc is not installed")
    library = ctypes.CDLL(str(found[0]))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None)
    given = [f"-arch={arch}", "-std=c++17", "--ptxas-options=-v", *options]
    failed = library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*map(str.encode, given)))

    def read(what: str) -> bytes:
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, text)
        return text.raw

    log = read("ProgramLog").decode().strip("\0")
    if failed:
        raise RuntimeError(log)
    return read("CUBIN"), log
