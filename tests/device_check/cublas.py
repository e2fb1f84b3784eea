"""cuBLAS's products, called through CuPy's binding or through ctypes with a handle of its own. CuPy refuses to call
cuBLAS while a stream is captured; a handle that it does not know can be used."""
import ctypes
import functools
from typing import Any, Callable

import cupy
import numpy as np
from cuda import pathfinder
from cupy.cuda import runtime
from cupy_backends.cuda.libs import cublas

TYPES = {"float16": runtime.CUDA_R_16F, "bfloat16": runtime.CUDA_R_16BF, "float32": runtime.CUDA_R_32F,
         "float64": runtime.CUDA_R_64F}
WORKSPACE = 32 << 20                    # bytes: without one, cuBLAS allocates while it is captured


class Cublas:
    """Products through CuPy's binding, on its handle and the current stream."""

    def __init__(self) -> None:
        self.handle = cupy.cuda.device.get_cublas_handle()
        self.gemm, self.batched_gemm = cublas.gemmEx, cublas.gemmStridedBatchedEx

    def product(self, *arguments: Any, **options: Any) -> None:
        """The product of `prepared`."""
        status = self.prepared(*arguments, **options)()
        assert not status, f"cuBLAS returned status {status}"           # CuPy's binding raises, and returns None

    def prepared(self, a: Any, b: Any, c: Any, ta: bool = False, tb: bool = False, alpha: float = 1.0,
                 beta: float = 0.0, tf32: bool = False) -> Callable[[], Any]:
        """A call of cuBLAS that computes c = alpha op(a) @ op(b) + beta c for contiguous arrays (m, k), (k, n), (m, n),
        or with one more axis in front; op transposes the last two axes if ta, tb. c may be float32 where a and b are
        shorter.

        cuBLAS's matrices are stored by columns, so it is given the transposed product: c^T = op(b)^T op(a)^T.
        """
        assert all(x.flags.c_contiguous and x.ndim == c.ndim for x in (a, b, c)) and a.dtype == b.dtype
        (m, n), k = c.shape[-2:], a.shape[-2 if ta else -1]
        assert (m, k) == a.shape[-2:][::-1 if ta else 1] and (k, n) == b.shape[-2:][::-1 if tb else 1]
        double = a.dtype == np.float64
        alpha_address, beta_address = (_number(x, "d" if double else "f").ctypes.data for x in (alpha, beta))
        compute = (cublas.CUBLAS_COMPUTE_64F if double else
                   cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else cublas.CUBLAS_COMPUTE_32F)

        def matrix(x: Any) -> list[Any]:        # address, type, leading dimension, and the step from one to the next
            return [x.data.ptr, TYPES[x.dtype.name], x.shape[-1], *([x.shape[-2] * x.shape[-1]] if c.ndim == 3 else [])]

        call, batch = (self.batched_gemm, [c.shape[0]]) if c.ndim == 3 else (self.gemm, [])
        return functools.partial(call, self.handle, int(tb), int(ta), n, m, k, alpha_address, *matrix(b), *matrix(a),
                                 beta_address, *matrix(c), *batch, compute, cublas.CUBLAS_GEMM_DEFAULT)


@functools.cache                        # cuBLAS reads the number at its address, which must stay
def _number(x: float, letter: str) -> np.ndarray:
    return np.array(x, letter)


class OwnCublas(Cublas):
    """Products through ctypes, on a handle of its own and one stream."""

    def __init__(self, stream: Any) -> None:
        library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
        integer, size, address = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
        matrix = [address, integer, integer]
        self.gemm, self.batched_gemm = library.cublasGemmEx, library.cublasGemmStridedBatchedEx
        self.gemm.argtypes = [address, *5 * [integer], address, *2 * matrix, address, *matrix, integer, integer]
        self.batched_gemm.argtypes = [address, *5 * [integer], address, *2 * [*matrix, size], address, *matrix, size,
                                      integer, integer, integer]
        self.handle = address()
        assert not library.cublasCreate_v2(ctypes.byref(self.handle))
        assert not library.cublasSetStream_v2(self.handle, address(stream.ptr))
        self.workspace = cupy.cuda.alloc(WORKSPACE)
        assert not library.cublasSetWorkspace_v2(self.handle, address(self.workspace.ptr), ctypes.c_size_t(WORKSPACE))
