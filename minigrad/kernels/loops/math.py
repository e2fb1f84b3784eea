"""exp, written so that LLVM computes several at once; the C library's exp would be called for one at a time."""
import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minigrad.kernels.loops.compiling import FASTMATH

LOG2_E, LN_2_HIGH = 1.0 / math.log(2.0), 355 / 512      # k * LN_2_HIGH is exact for whole k
LN_2_LOW = math.log(2.0) - LN_2_HIGH


@intrinsic
def float_of_bits(typing, i):
    """The float32 or float64 with the bits of an int32 or int64."""
    to, llvm = {types.int32: (types.float32, ir.FloatType()), types.int64: (types.float64, ir.DoubleType())}[i]
    return to(i), lambda context, builder, signature, args: builder.bitcast(args[0], llvm)


def exp(x):
    """exp(x), x a float32 or a float64 that is limited to the exponents of normal numbers: -87 to 88, -708 to 709.

    x = k ln 2 + r with a whole k and |r| <= ln(2) / 2, so exp(x) = 2^k exp(r). The bits of 2^k are k + 127 (k + 1023 in
    float64) followed by 23 (52) zeros. exp(r) is a Taylor polynomial.
    """


@overload(exp, jit_options={"fastmath": FASTMATH})
def _exp(x):
    single = x == types.float32
    T, I = (np.float32, np.int32) if single else (np.float64, np.int64)
    low, high, bias, zeros = (-87.0, 88.0, 127, 23) if single else (-708.0, 709.0, 1023, 52)
    log2_e, ln_2_high, ln_2_low, rounding = T(LOG2_E), T(LN_2_HIGH), T(LN_2_LOW), T(bias + 0.5)
    taylor = tuple(T(1.0 / math.factorial(n)) for n in range(7 if single else 13, -1, -1))

    def compute(x):
        x = T(low) if x < T(low) else x                         # by comparison, so that NaN stays NaN
        x = T(high) if x > T(high) else x
        biased = np.int32(x * log2_e + rounding)                # k + bias
        k = T(biased - np.int32(bias))
        r = x - k * ln_2_high - k * ln_2_low
        y = taylor[0]
        for i in range(1, len(taylor)):
            y = y * r + taylor[i]
        return y * float_of_bits(I(I(biased) << I(zeros)))         # numba shifts an int32 in 64 bits
    return compute
