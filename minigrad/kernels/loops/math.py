"""exp and the maximum, written so that LLVM computes several numbers at once: without branches and calls."""
import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minigrad.kernels.loops.compiling import FASTMATH, inner


@intrinsic
def float_of_bits(typing_context, bits):
    """The float32 or float64 that has the bits of this int32 or int64."""
    number, llvm = {32: (types.float32, ir.FloatType()), 64: (types.float64, ir.DoubleType())}[bits.bitwidth]
    return number(bits), lambda context, builder, signature, args: builder.bitcast(args[0], llvm)


def exp(x):
    """e^x = 2^k e^r for a float32 or float64, where k is a whole number and |r| is at most ln(2) / 2.

    e^r = 1 + r + r^2 / 2! + r^3 / 3! + ...    2^k is the float that has the bits of k + bias as its exponent

    NaN stays NaN. Beyond the largest float the result is inf, and below the smallest normal one it is 0.
    """


@overload(exp, jit_options={"fastmath": FASTMATH, "error_model": "numpy"})
def _exp(x):
    single = x == types.float32
    number, whole = (np.float32, np.int32) if single else (np.float64, np.int64)
    bias, fraction, terms = (127, 23, 7) if single else (1023, 52, 13)      # of the format; terms of the series
    series = tuple(number(1.0 / math.factorial(n)) for n in range(terms, -1, -1))
    lowest, highest = number((1 - bias) * math.log(2.0)), number(math.log(np.finfo(number).max))
    ln2, per_ln2, rounding = number(math.log(2.0)), number(1.0 / math.log(2.0)), number(bias + 0.5)
    zero, inf = number(0.0), number(math.inf)

    def exp_of(x):
        exponent = min(np.int32(x * per_ln2 + rounding), np.int32(2 * bias))        # k + bias
        r = x - number(np.int32(exponent - bias)) * ln2
        p = zero
        for c in series:
            p = p * r + c
        y = p * float_of_bits(whole(whole(exponent) << fraction))
        y = zero if x < lowest else y
        return inf if x > highest else y

    return exp_of


@inner
def largest(x):
    """The maximum of x (N,), as that of four maxima: none of them waits for the others. It may pass over a NaN."""
    a, b, c, d = x[0], x[0], x[0], x[0]
    for j in range(x.size // 4):
        a = larger(a, x[4 * j])
        b = larger(b, x[4 * j + 1])
        c = larger(c, x[4 * j + 2])
        d = larger(d, x[4 * j + 3])
    for j in range(x.size - x.size % 4, x.size):
        a = larger(a, x[j])
    return larger(larger(a, b), larger(c, d))


@inner
def larger(a, b):
    return b if b > a else a
