"""Sums, means and maxima that every op uses.

NumPy adds along some axes one number after the other, so rounding errors grow: its float32 sum of a million equal
numbers along the first axis is 1 % off. And a float16 sum above 65,504 is infinite even if only the mean is needed. So
sums are accumulated in a wider dtype and rounded once: float16 in float32, float32 in float64.
"""
import functools
import math
from typing import Any, Callable, Sequence

import numpy as np

from minigrad import device
from minigrad.backend import BACKENDS

WIDER = {"e": np.dtype("float32"), "f": np.dtype("float64")}       # by NumPy's letters: "e" is float16


def wider(dtype: Any) -> Any:
    """The dtype in which numbers of this dtype are added up."""
    return WIDER.get(dtype.char, dtype)


def total(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum of x, an array or a Tensor, over one axis, several, or all if None."""
    if not device.is_array(x) or x.dtype.char not in WIDER:         # a Tensor's sum is an op that calls total
        return x.sum(axis=axis, keepdims=keepdims)
    return x.sum(axis=axis, keepdims=keepdims, dtype=WIDER[x.dtype.char]).astype(x.dtype)


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum of x, an array or a Tensor, divided by the number of its terms. NaN if there are none."""
    wide = WIDER.get(x.dtype.char) if device.is_array(x) else None
    y = x.sum(axis=axis, keepdims=keepdims) if wide is None else x.sum(axis=axis, keepdims=keepdims, dtype=wide)
    n = x.size // max(1, y.size)
    y = y / n if n else y + math.nan
    return y if wide is None else y.astype(x.dtype)


def add_at(y: Any, index: Any, x: Any) -> None:
    """y[index] += x, once for each index, in a fixed order: the sums have the same bits on every run. CuPy's own add.at
    adds in an order that changes from run to run."""
    device.backend(y).add_at(y, index, x)


def copied_axes(copies: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of the shape `copies` that broadcasting added to `shape` or repeated; None if `copies` does not come
    from broadcasting it."""
    extra = len(copies) - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, copies[extra:])):
        return None
    return tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n != copies[i + extra])


def unbroadcast(dx: Any, shape: tuple[int, ...]) -> Any:
    """Sum dx, an array or a Tensor, over the axes that broadcasting added to `shape` or repeated: the gradient of an
    element is the sum of the gradients of its copies."""
    axes = copied_axes(dx.shape, shape)
    if axes is None:
        raise ValueError(f"a gradient of shape {dx.shape} does not come from broadcasting an input of shape {shape}")
    return total(dx, axes).reshape(shape)


def centered(x: Any, axis: Any) -> Any:
    """x - mean(x). If the mean is much larger than the differences from it, its rounding error is not negligible. So it
    is computed in a wider dtype, or, where there is none, the mean of the result is subtracted once more."""
    if device.is_array(x) and x.dtype.char in WIDER:
        wide = x.astype(wider(x.dtype))
        return (wide - mean(wide, axis, keepdims=True)).astype(x.dtype)
    c = x - mean(x, axis, keepdims=True)
    return c - mean(c, axis, keepdims=True)


def root_mean_square(xp: Any, x: Any, axis: Any) -> Any:
    """sqrt(mean(x^2)) along axis, which stays with size 1. Squares may overflow or underflow: they are computed in a
    wider dtype, or, where there is none, the x are divided by the largest of them."""
    if device.is_array(x) and x.dtype.char in WIDER:
        wide = x.astype(wider(x.dtype))
        return xp.sqrt(mean(wide * wide, axis, keepdims=True)).astype(x.dtype)
    size = largest(abs(x), axis)
    size = xp.where(size > 0, size, 1.0)
    scaled = x / size
    return size * xp.sqrt(mean(scaled * scaled, axis, keepdims=True))


def joint_norm(xp: Any, arrays: Sequence[Any]) -> Any:
    """The L2 norm of all numbers in some arrays, a 0-d array of float64. They are divided by the largest of them,
    because their squares may overflow or underflow."""
    size = xp.stack([xp.abs(a).max() for a in arrays if a.size] or [xp.zeros((), "float64")]).max()
    size = xp.where((size > 0) & (size < math.inf), size, 1.0)
    squares = xp.stack([xp.asarray(xp.square(a / size).sum(dtype="float64")) for a in arrays])
    return xp.asarray(size * xp.sqrt(squares.sum()))


def scale_down(xp: Any, arrays: Sequence[Any], max_norm: float, norm: Any) -> None:
    """Scale arrays of this joint norm, a 0-d array, in place to a norm of at most max_norm."""
    scale = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for a in arrays:
        a *= scale


def largest(x: Any, axis: Any) -> Any:
    """The maximum of x, an array or a Tensor, along axis, which stays with size 1; -inf if there are no numbers."""
    if x.size == 0:
        return x.sum(axis=axis, keepdims=True) - math.inf
    return x.max(axis=axis, keepdims=True)


def is_half(x: Any) -> bool:
    """Whether x is an array or a Tensor of float16."""
    return hasattr(x, "dtype") and x.dtype.char == "e"


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed in float32 if an argument is float16. What it returns is then rounded once, to float16."""
    @functools.wraps(function)
    def wrapped(*inputs: Any, **static: Any) -> Any:
        if not any(map(is_half, inputs)):
            return function(*inputs, **static)
        ys = function(*(x.astype("float32") if is_half(x) else x for x in inputs), **static)
        round_one = lambda y: None if y is None else y.astype("float16")
        return tuple(map(round_one, ys)) if type(ys) is tuple else round_one(ys)

    return wrapped


def run(op: Any, method: Callable[..., Any], arrays: Sequence[Any], static: dict[str, Any]) -> Any:
    """Call the forward or the backward of an op; if the op is wide and an array is float16, in float32. Tensors are not
    cast, because each op that runs on their arrays is called by this function too."""
    if op.wide:
        for a in arrays:                        # not any(...), which takes longer: this runs in every call of an op
            if type(a) in BACKENDS and a.dtype.char == "e":
                return in_float32(method)(*arrays, **static)
    return method(*arrays, **static)
