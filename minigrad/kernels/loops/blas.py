"""gemm, the matrix product of NumPy's own BLAS, called inside loops.

Each thread of a loop calls it for its own part of a product, so BLAS runs on one thread while such a loop runs. This
needs OpenBLAS, which NumPy's wheels contain. With another BLAS, GEMM is False, and products are NumPy's.
"""
import ctypes
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minigrad.threads import numpys_blas


def find() -> int:
    """Give LLVM the addresses of OpenBLAS's functions, by names that start with minigrad_. Returns the number of bits
    of its integers; 0 if it is not found."""
    library = numpys_blas()
    if library is None or library.internal_api != "openblas":
        return 0
    names = {"sgemm": "sgemm_", "dgemm": "dgemm_", "get_threads": "openblas_get_num_threads",
             "set_threads": "openblas_set_num_threads"}
    for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "_64"), ("", "")):
        functions: dict[str, Any] = {name: getattr(library.dynlib, prefix + symbol + suffix, None)
                                     for name, symbol in names.items()}
        if None not in functions.values():
            for name, function in functions.items():
                binding.add_symbol(f"minigrad_{name}", ctypes.cast(function, ctypes.c_void_p).value)
            config = getattr(library.dynlib, f"{prefix}openblas_get_config{suffix}")
            config.restype = ctypes.c_char_p
            return 64 if b"USE64BITINT" in config() else 32
    return 0


BITS = find()
GEMM = BITS > 0
get_threads = types.ExternalFunction("minigrad_get_threads", types.int32())
set_threads = types.ExternalFunction("minigrad_set_threads", types.void(types.int32))


@intrinsic
def call_gemm(typing, a_letter, b_letter, m, n, k, alpha, a, a_step, b, b_step, beta, c, c_step):
    """BLAS's gemm on matrices at addresses a, b and c, which are stored column by column."""
    name = {types.float32: "minigrad_sgemm", types.float64: "minigrad_dgemm"}[alpha]

    def generate(context, builder, signature, args):
        pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(BITS)
        by_reference = []
        for value, kind in zip(args, signature.args):
            if kind in (types.uintp, types.voidptr):                # an address
                by_reference.append(builder.inttoptr(value, pointer))
                continue
            if kind == types.intp:
                value = builder.trunc(value, integer) if BITS < 64 else value
            by_reference.append(builder.bitcast(cgutils.alloca_once_value(builder, value), pointer))
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer] * len(args)), name)
        builder.call(function, by_reference)
        return context.get_dummy_value()

    number, address = types.intp, types.uintp
    return types.void(types.uint8, types.uint8, number, number, number, alpha, address, number, address, number, alpha,
                      address, number), generate
