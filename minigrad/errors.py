"""Checks of the inputs and results of ops, and their error messages: shapes, dtypes, devices, NaN and infinity."""
import math
from typing import TYPE_CHECKING, Any, Iterable

import numpy as np

from minigrad import device
from minigrad.arrays import as_numbers
from minigrad.ops.op import Op

if TYPE_CHECKING:
    from minigrad.tape import Node
    from minigrad.tensor import Tensor

MIXED = ": backward would mix old and new values; run the forward again first"


def shapes(arrays: Iterable[Any]) -> str:
    """The shapes of arrays and the values of numbers: "(3, 4), 2.0"."""
    return ", ".join(str(getattr(a, "shape", a)) for a in arrays)


def to_one_dtype(op_class: type[Op], arrays: list[Any]) -> list[Any]:
    """The arrays, with integer ones cast to the dtype of the floating ones. TypeError for two floating dtypes,
    ValueError for two devices."""
    tensors = [a for a in arrays if device.is_array(a)]
    devices = sorted({device.name(a) for a in tensors})
    if len(devices) > 1:
        raise ValueError(f"{op_class.name}: inputs live on {' and '.join(devices)}: move one with .to({devices[0]!r})")
    floats = sorted({str(a.dtype) for a in tensors if a.dtype.kind not in "biu"})
    if len(floats) > 1:
        raise TypeError(f"{op_class.name}: inputs have dtypes {' and '.join(floats)}: cast one with "
                        f".astype({floats[0]!r}); Python numbers take the other's dtype by themselves")
    if not floats:
        return arrays
    return [a.astype(floats[0]) if device.is_array(a) and a.dtype.kind in "biu" else a for a in arrays]


def first_gradient(y: "Tensor", dy: Any) -> Any:
    """The gradient that a backward of y starts with: dy as an array of y's shape and dtype; if dy is None and y has one
    element, 1. ValueError if y needs no gradient, or if dy has another shape, dtype or device; TypeError for a dy that
    does not hold numbers."""
    if not y.requires_grad:
        raise ValueError(f"backward of a Tensor {y.shape} that needs no gradient: no input had requires_grad=True, "
                         "or it was made under no_grad() or by detach()")
    if dy is None:
        if y.size != 1:
            raise ValueError(
                f"backward of a Tensor of shape {y.shape} needs dy, a gradient of the same shape; or reduce "
                "it to one number first, with .sum() or .mean()"
            )
        return y.xp.ones_like(y._data)
    if hasattr(dy, "requires_grad") and dy.device != y.device:
        raise ValueError(f"dy lives on {dy.device}, the Tensor on {y.device}: move it with dy.to({y.device!r})")
    dy = dy._data if hasattr(dy, "requires_grad") else y.xp.asarray(as_numbers(dy), dtype=y.dtype)
    if dy.shape != y.shape or dy.dtype != y.dtype:
        raise ValueError(
            f"dy has shape {dy.shape} and dtype {dy.dtype}, the Tensor {y.shape} and {y.dtype}: they must agree"
        )
    return dy


def replacement(returned: Any, g: Any, giver: str = "a hook") -> Any:
    """The gradient that replaces g: what a hook or a step gave, or g if that is None. TypeError if it has another type
    than g, ValueError if it has another shape or dtype."""
    if returned is None:
        return g
    if g.ndim == 0:                             # NumPy computes scalars from 0-d arrays
        returned, g = (np.asarray(a) if isinstance(a, np.generic) else a for a in (returned, g))
    if type(returned) is not type(g):
        raise TypeError(f"{giver} gave a {type(returned).__name__} for a gradient, which is a {type(g).__name__}")
    if returned.shape != g.shape or returned.dtype != g.dtype:
        raise ValueError(f"{giver} gave shape {returned.shape} and dtype {returned.dtype} for a gradient of shape "
                         f"{g.shape} and dtype {g.dtype}: they must agree")
    return returned


def gradient_of(p: "Tensor") -> Any:
    """The `.grad` of a leaf, an array or None. ValueError for an array of another shape, dtype or device than the
    leaf's, and for anything else."""
    if isinstance(p.grad, np.generic):          # NumPy computes scalars from 0-d arrays
        p.grad = np.asarray(p.grad)
    g = p.grad
    if g is None or type(g) is type(p.data) and g.shape == p.shape and g.dtype == p.dtype:
        return g
    given = f"of shape {g.shape} and dtype {g.dtype}" if type(g) is type(p.data) else f"that is a {type(g).__name__}"
    raise ValueError(f"{name_of(p)} has a .grad {given}: it must be an array of "
                     f"its shape, dtype {p.dtype} and device {p.device}")


def name_of(p: "Tensor", unnamed: str = "a parameter") -> str:
    """The name of a Tensor, or what it is called without one, and its shape, for messages."""
    return f"{getattr(p, 'name', '') or unnamed} {p.shape}"


def clearer_error(error: Exception, op_class: type[Op], arrays: list[Any], static: dict[str, Any]) -> Exception:
    """A clearer error for an op that raised this one because it got a number instead of an array, an argument on
    another device, or shapes that do not broadcast; else the error itself."""
    if isinstance(error, AttributeError) and not all(hasattr(a, "shape") for a in arrays):
        return TypeError(f"{op_class.name}: got a number where it needs an array: ({shapes(arrays)})")
    here = next(device.name(a) for a in arrays if device.is_array(a))
    for name, value in static.items():
        for a in value if isinstance(value, tuple) else (value,):
            if device.is_array(a) and device.name(a) not in ("cpu", here):
                return ValueError(
                    f"{op_class.name}: {name} lives on {device.name(a)}, the input on {here}: move one of them"
                )
    if not op_class.broadcasts:
        return error
    given = [a.shape for a in arrays if hasattr(a, "shape")]
    try:
        np.broadcast_shapes(*given)
        return error
    except ValueError:
        return ValueError(
            f"{op_class.name}: shapes {' and '.join(map(str, given))} do not broadcast: counted from the "
            "last, axes must be equal or 1; reshape, transpose or expand_dims one of them"
        )


def changed(x: "Tensor", node: "Node", advice: str) -> ValueError:
    """The error for an input that was given other values after a node had used it. advice: the end of the message."""
    return ValueError(f"{name_of(x, 'a Tensor')} was changed after {node} had used it{advice}")


def check_finite(where: str, results: Iterable[Any], inputs: Iterable[Any]) -> None:
    """Raise FloatingPointError if a result contains NaN, or infinity while no input does. where: the op, for the
    message. results, inputs: arrays, Tensors and numbers; a result may be None."""
    results, inputs = ([getattr(x, "_data", x) for x in xs] for xs in (results, inputs))

    def infinite(x: Any) -> bool:
        return math.isinf(x) if isinstance(x, (int, float)) else bool(device.xp(x).isinf(x).any())

    for r in results:
        if r is None:
            continue
        xp = np if isinstance(r, np.generic) else device.xp(r)
        nans = int(xp.isnan(r).sum())
        if nans or (xp.isinf(r).any() and not any(infinite(x) for x in inputs)):
            bad = f"{nans} NaN" if nans else f"{int(xp.isinf(r).sum())} infinite"
            raise FloatingPointError(f"{where} made the first bad value: {bad} of {r.size} in an array of shape "
                                     f"{r.shape}; given: {', '.join(map(_range, inputs))}")


def _range(x: Any) -> str:
    if isinstance(x, (int, float)):
        return str(x)
    return f"{x.shape} in [{float(x.min()):.4g}, {float(x.max()):.4g}]" if x.size else str(x.shape)
