"""Checks of the inputs and results of ops, and their error messages: shapes, dtypes, devices, NaN and infinity."""
import difflib
import inspect
import math
from typing import TYPE_CHECKING, Any, Iterable, Sequence

import numpy as np

from minigrad import device
from minigrad.arrays import as_numbers
from minigrad.ops.op import Op, input_names
from minigrad.ops.sums import copied_axes, unbroadcast

if TYPE_CHECKING:
    from minigrad.tape import Node
    from minigrad.tensor import Tensor

PROMOTED = (": a float64 constant or array, such as np.float64(2), np.zeros(n) or np.eye(n), does that: write Python "
            "numbers, and dtype=x.dtype where an array is made")
WRITES = "writes into an array that it was given: compute a new one, x = x * 2, not x *= 2"
ON_TENSORS = ("for gradients of gradients a Primitive runs on Tensors: call self.xp.exp, not np.exp, and write nothing "
              "in place; or subclass minigrad.Op, which has no second derivatives")
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
    g, data = p.grad, p._data
    if g is None or type(g) is type(data) and g.shape == data.shape and g.dtype == data.dtype:
        return g
    given = f"of shape {g.shape} and dtype {g.dtype}" if type(g) is type(p.data) else f"that is a {type(g).__name__}"
    raise ValueError(f"{name_of(p)} has a .grad {given}: it must be an array of "
                     f"its shape, dtype {p.dtype} and device {p.device}")


def name_of(p: "Tensor", unnamed: str = "a parameter") -> str:
    """The name of a Tensor, or what it is called without one, and its shape, for messages."""
    return f"{getattr(p, 'name', '') or unnamed} {p.shape}"


def clearer_error(error: Exception, op_class: Any, arrays: list[Any], static: dict[str, Any],
                  inputs: Sequence[Any]) -> Exception:
    """A clearer error for an op whose forward raised this one because it is no op class, or got a number instead of an
    array, integers as an input, an argument on another device, or shapes that do not broadcast; else the error itself.
    arrays: the inputs after their cast to one dtype."""
    if not (isinstance(op_class, type) and issubclass(op_class, Op)):
        return TypeError("apply takes a subclass of minigrad.Op and its inputs, not " + (
            f"an object of it: write apply({type(op_class).__name__}, ...)" if isinstance(op_class, Op) else
            f"{op_class!r:.80}"))
    if isinstance(error, TypeError) and (words := wrong_inputs(op_class, len(inputs))):
        return TypeError(words)
    if isinstance(error, AttributeError) and not all(hasattr(a, "shape") for a in arrays):
        return TypeError(f"{op_class.name}: got a number where it needs an array: ({shapes(arrays)})")
    if isinstance(error, (IndexError, TypeError)):
        for name, x, a in zip(input_names(op_class, len(inputs)), inputs, arrays):
            if hasattr(x, "dtype") and x.dtype.kind in "iub" and a.dtype.kind not in "iub":
                return TypeError(
                    f"{op_class.name}: {error}: its inputs are cast to one dtype, so the integers {name} became "
                    f"{a.dtype}; give what has no gradient by keyword: apply({op_class.__name__}, ..., {name}={name})")
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


def wrong_inputs(op_class: type[Op], n: int) -> str:
    """What is wrong with a call of an op with n positional inputs, and the fix; "" if it takes as many."""
    parameters = list(inspect.signature(op_class.forward).parameters.values())[1:]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if n <= len(positional) or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return ""
    keywords = [f"{p.name}=..." for p in parameters if p.kind is p.KEYWORD_ONLY]
    return (f"forward of {op_class.__name__} takes {len(positional)} input{'s' * (len(positional) != 1)} "
            f"({', '.join(p.name for p in positional)}), not {n}"
            f"{'; give by keyword: ' + ', '.join(keywords) if keywords else ''}")


# ---- what an op returns ---------------------------------------------------------------------------------------------

def outputs(op: Op, y: Any) -> Any:
    """What a forward returned, as an array or a tuple of arrays. TypeError for anything that is no array and no
    number."""
    if type(y) is tuple:
        return tuple([outputs(op, a) for a in y])
    if y is None or isinstance(y, (list, dict)) or hasattr(y, "requires_grad"):
        what = "nothing: is its `return` missing?" if y is None else (
            "a Tensor: it computes with arrays, by NumPy or self.xp; code that computes with Tensors is an ordinary "
            "function, which needs no backward") if hasattr(y, "requires_grad") else (
            f"a {type(y).__name__}: return an array, or a tuple of arrays if there are several outputs")
        raise TypeError(f"forward of {type(op).__name__} returns {what}")
    return op.xp.asarray(y)


def wrong_count(op_class: type[Op], result: Any, n: int) -> str:
    """The message for a backward whose result is not one gradient for each of n inputs."""
    write = f"write `return {', '.join(f'd{name}' for name in input_names(op_class, n))}`"
    if result is None:
        return f"backward returns nothing: {write}"
    if type(result) is list:
        return f"backward returns a list: {write}"
    given = len(result) if type(result) is tuple else 1
    return (f"backward returns {given} gradients for {n} inputs: {write}, with None for an input that has no gradient; "
            "or give such an input by keyword")


def check_kind(op_class: type[Op], name: str, dx: Any, kind: type, shape: tuple[int, ...]) -> None:
    """TypeError if the gradient of this name, which a backward returned, is not of this kind of array."""
    if type(dx) is not kind and not isinstance(dx, (kind, np.generic)):
        raise TypeError(f"{op_class.name}: backward returns a {type(dx).__name__} for {name}: return an array of shape "
                        f"{shape}")


def clearer_backward_error(error: Exception, op: Any, dys: Sequence[Any]) -> Exception:
    """A clearer error for a backward that takes other names than the forward saved, or writes into an array that may
    not change; else the error itself."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        return ValueError(f"backward of {type(op).__name__} {WRITES} ({error})")
    if not isinstance(error, TypeError):
        return error
    try:
        inspect.signature(op.backward).bind(*dys, **op.saved)
        return error
    except TypeError:
        parameters = list(inspect.signature(op.backward).parameters.values())
    takes = [p.name for p in parameters[len(dys):] if p.kind is not p.VAR_KEYWORD]
    missing = [name for name in takes if name not in op.saved]
    unused = [name for name in op.saved if name not in takes]
    name = type(op).__name__
    if len(parameters) < len(dys):
        words = (f"takes {len(parameters)} arguments, but there are {len(dys)} outputs, and it gets the gradient of "
                 f"each: `def backward(self, {', '.join(f'dy{k}' for k in range(len(dys)))}, ...)`")
    elif missing and unused:
        near = difflib.get_close_matches(missing[0], unused, 1, 0.0)[0]
        words = (f"takes {missing[0]}, but forward saved {near}: the names must agree, "
                 f"self.save({missing[0]}=...) in forward or {near} in backward")
    elif missing:
        words = f"takes {missing[0]}, which forward did not save: add {missing[0]}=... to the one self.save(...) in it"
    else:
        words = (f"does not take {unused[0]}, which forward saved: add it to the arguments of backward, or do not save "
                 "it") if unused else f"cannot be called with the gradients of {len(dys)} outputs: {error}"
    return TypeError(f"backward of {name} {words}")


def fitted(op_class: type[Op], inputs: Sequence[Any], i: int, dx: Any, kind: type) -> Any:
    """The gradient dx of input i, in the shape of that input: summed over the axes along which it was broadcast.
    TypeError if dx is not of this kind of array or of another dtype, ValueError for another shape: they are bugs of the
    op."""
    x, name = inputs[i]._data, f"d{input_names(op_class, len(inputs))[i]}"
    given = f"{op_class.name}: backward returns"
    if dx is None:
        raise ValueError(f"{given} None for {name}, which is needed: is its `return` missing? If no output depends on "
                         "this input, return zeros, or give it by keyword")
    check_kind(op_class, name, dx, kind, x.shape)
    if dx.dtype != x.dtype:
        raise TypeError(f"{given} {name}, a gradient of dtype {dx.dtype}, the input is {x.dtype}{PROMOTED}")
    if dx.shape == x.shape:
        return dx
    if not op_class.broadcasts:
        raise ValueError(f"{given} {name}, a gradient of shape {dx.shape}, the input is {x.shape}"
                         f"{_summed(dx.shape, x.shape)}")
    return unbroadcast(dx, x.shape)


def _summed(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What to do if a gradient of this shape only lacks the sum over the axes along which its input was broadcast."""
    axes = copied_axes(shape, wanted)
    if axes is None:
        return ""
    return (f": the input was broadcast, so sum over axis {' and '.join(map(str, axes))}; or set broadcasts = True in "
            "the class, and the engine sums")


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
