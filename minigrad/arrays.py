"""Conversion of what a user passes (numbers, nested lists, arrays of any kind, Tensors) to arrays. TypeError where a
gradient, a mask or a value would be lost."""
from typing import Any

import numpy as np

from minigrad import device
from minigrad.modes import mode
from minigrad.random import Key

_NUMBERS = {int, float, bool, np.float64, np.float32, np.int64}             # a list of these alone need not be searched
_UNCHANGED = {int, float, bool, str, type(None), type(...), slice, Key}     # keyword arguments that need no conversion


def as_array(x: Any) -> Any:
    """An array, number or nested list as an array in the machine's byte order. An array in that order is returned as it
    is. TypeError for a masked array, and for a list of Tensors that need gradients."""
    if not device.is_array(x):
        _refuse_losses(x)
        x = np.asarray(x)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def as_numbers(x: Any) -> Any:
    """as_array, for the values of a Tensor. TypeError also for a dtype that is not floating, integer or boolean: a cast
    would turn texts, dates and None into numbers, and drop imaginary parts."""
    array = as_array(x)
    check_dtype(array.dtype)
    device.name(array)                          # ValueError for an array of a second CUDA device
    return array


def check_dtype(dtype: Any) -> np.dtype:
    """A dtype, its name or its type, as a dtype of NumPy. TypeError for one that a Tensor cannot have."""
    if isinstance(dtype, np.dtype) and dtype.kind in "fiub":        # the usual case, which takes the shortest time
        return dtype
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", getattr(dtype, "__name__", ""))
    if name == "bfloat16":
        raise TypeError("a Tensor cannot have dtype bfloat16: NumPy has no such dtype, and with ml_dtypes, which adds "
                        "it, a bfloat16 array times a Python float is a float32 array; give float32 or float16")
    found: np.dtype = np.dtype(dtype)
    if found.kind not in "fiub":
        raise TypeError(f"a Tensor holds numbers of a floating, integer or boolean dtype, not {found}")
    return found


def _refuse_losses(x: Any) -> None:
    """TypeError for a masked array and for a Tensor that needs a gradient, also inside lists and tuples."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("a masked array would lose its mask: give x.filled(value), or x.compressed(), which has only "
                        "the entries that are not masked")
    if getattr(x, "requires_grad", False):
        raise TypeError("a list of Tensors as an array would lose their gradients: F.stack(tensors) joins Tensors of "
                        "one shape along a new axis; [t.item() for t in tensors] has their numbers")
    if isinstance(x, (list, tuple)) and not set(map(type, x)) <= _NUMBERS:
        for entry in x:
            _refuse_losses(entry)


def plain(x: Any) -> Any:
    """x with each Tensor replaced by its array, also inside lists, tuples and dicts; anything else unchanged."""
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(map(plain, x))
    return x._data if hasattr(x, "requires_grad") else x       # not "_data": a masked array has that too


# functions of NumPy whose results have no gradient
WITHOUT_GRADIENT = frozenset(
    "all allclose any argmax argmin argpartition argsort array2string array_equal array_equiv array_repr array_str "
    "can_cast count_nonzero digitize empty_like flatnonzero full_like histogram isclose may_share_memory ndim nonzero "
    "ones_like result_type save savetxt savez savez_compressed searchsorted shape shares_memory size zeros_like".split()
)


def numpy_function(recorded: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """A function of NumPy that was called on Tensors: see Tensor.__array_function__. recorded: the module
    minigrad.functional."""
    name = {"amax": "max", "amin": "min"}.get(func.__name__, func.__name__)
    function = getattr(recorded, name, None) if func.__module__ == "numpy" else None
    if function is not None:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            error.add_note(f"np.{name} of Tensors runs minigrad.functional.{name} and takes the arguments of that")
            raise
    if mode().grad and name not in WITHOUT_GRADIENT and _needs_gradient([*args, *kwargs.values()]):
        raise TypeError(f"{func.__module__.replace('numpy', 'np')}.{name} of a Tensor would lose its gradient: use "
                        "what is recorded, such as @, F.sum, F.stack, F.concatenate, F.where (minigrad.functional), "
                        "or give it t.detach() or t.numpy()")
    return func(*plain(args), **plain(kwargs))


def constants(op_name: str, static: dict[str, Any], copy: bool) -> dict[str, Any]:
    """The keyword arguments of an op, with Tensors as arrays. copy: copy the arrays, so that the backward uses these
    values even if the user changes the array before it. TypeError for a Tensor that needs a gradient and for a masked
    array."""
    if _UNCHANGED.issuperset(map(type, static.values())):               # the usual case
        return static
    found = dict(static)
    for name, value in static.items():
        if is_simple(value):
            continue
        if _needs_gradient(value):
            raise TypeError(f"{op_name}: {name} has no gradient, so it cannot be a Tensor that requires one: give "
                            f"{name}.detach()" + ("; F.maximum and F.minimum have gradients to their limits"
                                                  if op_name == "clip" else ""))
        if isinstance(value, np.ma.MaskedArray):
            _refuse_losses(value)
        found[name] = _copied(plain(value)) if copy else plain(value)
    return found


def is_simple(value: Any) -> bool:
    """Whether a keyword argument of an op is a number, a text, None, a slice, a Key, or a tuple of these."""
    return type(value) in _UNCHANGED or type(value) is tuple and _UNCHANGED.issuperset(map(type, value))


def _copied(x: Any) -> Any:
    """x with its arrays copied, also inside tuples."""
    if type(x) is tuple:
        return tuple(map(_copied, x))
    return x.copy() if device.is_array(x) else x


def _needs_gradient(x: Any) -> bool:
    """Whether x is a Tensor that needs a gradient, or a list or tuple with one."""
    return any(map(_needs_gradient, x)) if isinstance(x, (list, tuple)) else getattr(x, "requires_grad", False)
