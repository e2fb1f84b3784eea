"""A device for tests: NumPy's memory and arithmetic under CuPy's rules, so that code for a GPU runs on every machine.

Importing this module registers it as the device "fake". A FakeArray is not a NumPy array, as CuPy's arrays are not:

- Names and parameters are those of cupy_api.json, made from CuPy: no `where=`, no `initial=`, `.reduce` of few ufuncs.
- 0-d results are arrays, never NumPy scalars.
- Host arrays and lists raise TypeError, except in asarray, in array and as an index, which copy them to the device.
- `np.asarray(x)` raises TypeError: `x.get()` copies to the host.
- An integer array used as an index wraps around where it is out of range; take and similar functions raise IndexError,
  as in NumPy.
- add.at adds floating numbers in an order that changes from call to call.
- A product of float16 is computed in float32 and rounded once, as in NumPy; one of bfloat16 with more than two axes is
  an error.
- Everything that makes the host wait for the device is recorded: see `synchronizations`.
- One device is the current one: see `current_device`. Its memory can be full: see `full_pool`.

Where CuPy accepts more than NumPy does, NumPy's error stays. cupy_rules.py holds this module to a real CuPy.
"""
import contextlib
import functools
import gc
import json
import os
import pathlib
import sys
import weakref
from inspect import Parameter, Signature
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np

from minigrad.backend import Backend, register
from minigrad.cuda import kernels

from cuda_on_cpu import RawKernel as HostKernel

API = json.loads(pathlib.Path(__file__).with_name("cupy_api.json").read_text())
UFUNC_OPTIONS: dict[str, set[str]] = {
    "__call__": {"out", "dtype", "casting"}, "reduce": {"axis", "dtype", "out", "keepdims"}, "outer": {"dtype"},
    "accumulate": {"axis", "dtype", "out"}, "reduceat": {"axis", "dtype", "out"}, "at": set()}
FROM_NOTHING = {"arange", "array", "asarray", "empty", "eye", "full", "identity", "indices", "linspace", "ones",
                "result_type", "tri", "zeros"}                      # functions that need no device array as an argument
WAITING_METHODS = {"compress", "dump", "dumps", "item", "nonzero", "tobytes", "tofile", "tolist"}
OTHER_MEANING = {"base", "data", "device", "flat"}                  # attributes that mean something else in CuPy
_INTEGERS = {"int32", "int64", "uint32", "uint64"}
ATOMIC = {                                                          # dtypes that the method `at` of a ufunc changes
    "add": _INTEGERS | {"float16", "float32", "float64"}, "subtract": {"int32", "uint32"},
    "maximum": _INTEGERS | {"float32", "float64"}, "minimum": _INTEGERS | {"float32", "float64"},
    "bitwise_and": _INTEGERS, "bitwise_or": _INTEGERS, "bitwise_xor": _INTEGERS}

BFLOAT16 = np.dtype((type("bfloat", (np.void,), {}), 2))            # named as ml_dtypes.bfloat16; without arithmetic
_orders = np.random.default_rng(0)                                  # of the additions of add.at
_recorders: list[list[str]] = []


@contextlib.contextmanager
def synchronizations() -> Iterator[list[str]]:
    """A list, filled inside the block, of every wait of the host for the device: what waited, and the line."""
    made: list[str] = []
    _recorders.append(made)
    try:
        yield made
    finally:
        _recorders.pop()


def caller(library: str) -> str:
    """The file and the line from which code of a library was called, for the function that records it. library: its
    file or folder."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(library) and frame.f_back is not None:
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _wait(what: str) -> None:
    for made in _recorders:
        made.append(f"{what} at {caller(__file__)}")


# ---- the memory of the device ---------------------------------------------------------------------------------------

class OutOfMemoryError(MemoryError):
    """The device is full: CuPy has a subclass of MemoryError too."""


class _Block(NamedTuple):
    """The memory of an array and of its views."""
    nbytes: int
    number: int                                 # of the device that it is on
    owner: "weakref.ref[np.ndarray]"            # its callback removes the block


_blocks: dict[int, _Block] = {}                 # by id of the NumPy array that owns the memory
_capacity = sys.maxsize
_current = 0                                    # the number of the current device


def used_bytes() -> int:
    """How many bytes of the device's memory are in use."""
    return sum(block.nbytes for block in list(_blocks.values()))


def memory() -> tuple[int, int, int]:
    """How many bytes are free, held by the pool, and in use of these. This pool holds only what is in use."""
    used = used_bytes()
    return _capacity - used, used, used


@contextlib.contextmanager
def full_pool(free: int) -> Iterator[None]:
    """Inside the block only `free` bytes of memory are free. An array takes a multiple of 512 bytes, as in CuPy; one
    that does not fit raises OutOfMemoryError."""
    global _capacity
    gc.collect()
    _capacity = used_bytes() + free
    try:
        yield
    finally:
        _capacity = sys.maxsize


@contextlib.contextmanager
def current_device(number: int) -> Iterator[None]:
    """Inside the block this device is the current one: new arrays are made on it, and computing with an array that is
    on another one raises ValueError. Other than in CuPy, methods that return a view, such as reshape, raise it too."""
    global _current
    before, _current = _current, number
    try:
        yield
    finally:
        _current = before


def _block(array: np.ndarray) -> _Block:
    """The block that the array is in, which is a new one if the array is new. OutOfMemoryError if it does not fit."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    key = id(array)
    if key not in _blocks:
        nbytes = -(-array.nbytes // 512) * 512
        if _capacity != sys.maxsize and used_bytes() + nbytes > _capacity:
            gc.collect()                        # as CuPy does, before it gives up
            if (used := used_bytes()) + nbytes > _capacity:
                raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes (allocated so far: {used:,} bytes).")
        _blocks[key] = _Block(nbytes, _current, weakref.ref(array, lambda _, pop=_blocks.pop: pop(key)))
    return _blocks[key]


# ---- between device arrays and the memory behind them ---------------------------------------------------------------

def _lower(x: Any) -> Any:
    """The NumPy arrays behind device arrays, also inside lists and tuples. TypeError for host arrays, ValueError for
    arrays that are not on the current device."""
    if isinstance(x, FakeArray):
        if x._number != _current:
            raise ValueError(f"The device where the array resides ({x._number}) is different from the current device "
                             f"({_current}). Peer access is unavailable between these devices.")
        return x._array
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: a host array among device arrays")
    return type(x)(map(_lower, x)) if type(x) in (list, tuple) else x


def _lift(x: Any, given: Any = ()) -> Any:
    """NumPy's results as device arrays; where NumPy returned one of the arrays `given`, that same object."""
    if isinstance(x, (list, tuple)):
        return [_lift(y) for y in x] if isinstance(x, list) else tuple(_lift(y) for y in x)
    if not isinstance(x, (np.ndarray, np.generic, bool)):           # a bool: array_equal, allclose
        return x
    return next((g for g in given if isinstance(g, FakeArray) and g._array is x), FakeArray(np.asarray(x)))


def _index(key: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """An index with which NumPy does what CuPy does: integer arrays wrap around, and 0-d results are arrays."""
    parts = list(key) if isinstance(key, tuple) else [key]
    parts = [xp.asarray(np.asarray(p)) if isinstance(p, (np.ndarray, list)) else p for p in parts]
    if not any(p is Ellipsis for p in parts):
        parts.append(Ellipsis)
    masks = [isinstance(p, FakeArray) and p.dtype == bool for p in parts]
    widths = [p.ndim if mask else int(p is not None and p is not Ellipsis) for p, mask in zip(parts, masks)]
    axis, lowered = 0, []
    for p, mask, width in zip(parts, masks, widths):
        if mask:
            _wait("boolean mask")
        elif isinstance(p, FakeArray) and p.dtype.kind in "iu":
            p = p.astype(np.int64) % shape[axis]
        lowered.append(_lower(p))
        axis += len(shape) - sum(widths) if p is Ellipsis else width
    return tuple(lowered)


# ---- names and parameters -------------------------------------------------------------------------------------------

@functools.cache
def _signature(parameters: str) -> Signature:
    """The signature of a function whose parameters the table gives as "a, axis=, *, dtype="."""
    found = []
    kind: Any = Parameter.POSITIONAL_OR_KEYWORD
    for word in filter(None, parameters.split(", ")):
        name = word.strip("*=")
        stars = {"*": Parameter.VAR_POSITIONAL, "**": Parameter.VAR_KEYWORD}.get(word.removesuffix(name), kind)
        if word.startswith("*"):
            kind = Parameter.KEYWORD_ONLY
        if name:
            found.append(Parameter(name, stars, default=None if word.endswith("=") else Parameter.empty))
    return Signature(found)


def _bind(what: str, parameters: str, args: Any, kwargs: Any) -> None:
    try:
        _signature(parameters).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{what}({parameters}): {error}") from None


def _ufunc(ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """One call of a ufunc, or of a method of it."""
    name = ufunc.__name__
    if name not in API["ufuncs"] or method != "__call__" and method not in API["ufuncs"][name].split():
        raise NotImplementedError(f"CuPy has no {name}{'' if method == '__call__' else '.' + method}")
    if unknown := options.keys() - UFUNC_OPTIONS[method]:
        raise TypeError(f"cupy.{name} has no parameter {', '.join(unknown)}")
    if method == "at":
        x, key, *values = inputs
        if x.dtype.name not in ATOMIC[name]:
            raise TypeError(f"cupy.{name}.at only supports {', '.join(sorted(ATOMIC[name]))} as data type")
        change = _add_at if x.dtype.kind == "f" and name == "add" else ufunc.at
        return change(_lower(x), _index(key, x.shape), *map(_lower, values))
    if any(isinstance(x, (list, tuple)) for x in inputs):
        raise TypeError(f"cupy.{name}: Unsupported type {list}")
    if name == "matmul" and any(np.ndim(x) > 2 and x.dtype.name == "bfloat16" for x in map(_lower, inputs)):
        raise TypeError("data type 'E' not understood: CuPy has no product of bfloat16 with more than two axes")
    out = options.get("out", ())
    given = (*inputs, *(out if isinstance(out, tuple) else (out,)))
    return _lift(getattr(ufunc, method)(*map(_lower, inputs), **{k: _lower(v) for k, v in options.items()}), given)


def _add_at(x: np.ndarray, index: Any, values: Any) -> None:
    """x[index] += values, once for each index, in a random order."""
    positions = np.arange(x.size).reshape(x.shape)[index]           # in the flattened x
    order = _orders.permutation(positions.size)
    sums = x.flatten()
    np.add.at(sums, positions.ravel()[order], np.broadcast_to(values, positions.shape).ravel()[order])
    x[...] = sums.reshape(x.shape)


class FakeArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the fake device."""
    __slots__ = ("_array", "_number")
    __imatmul__ = np.lib.mixins.NDArrayOperatorsMixin.__matmul__    # CuPy has none: a @= b makes a new array

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self._number = _block(array).number     # of its device

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return _ufunc(ufunc, method, *inputs, **options)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        function = getattr(xp, func.__name__, func) if func.__module__ == "numpy" else func
        if function is func or not all(issubclass(t, (FakeArray, np.ndarray)) for t in types):
            return NotImplemented
        return function(*args, **kwargs)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed: use .get()")

    def __getattr__(self, name: str) -> Any:
        if name in API["attributes"] and name not in OTHER_MEANING:
            return _lift(getattr(self._array, name))
        if name not in API["methods"]:
            raise AttributeError(f"cupy.ndarray has no attribute {name!r} that NumPy has too")
        return functools.partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        _bind(f"cupy.ndarray.{name}", API["methods"][name], args, kwargs)
        if name in WAITING_METHODS:
            _wait(name)
        result = getattr(_lower(self), name)(*_lower(args), **{k: _lower(v) for k, v in kwargs.items()})
        return result if name in ("item", "tolist") else _lift(result, (self, *args, *kwargs.values()))

    def __getitem__(self, key: Any) -> "FakeArray":
        return FakeArray(self._array[_index(key, self.shape)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            raise TypeError(f"Unsupported type {type(value)}")
        _lower(self)[_index(key, self.shape)] = _lower(value)

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator["FakeArray"]:
        return (self[i] for i in range(len(self)))

    def get(self) -> np.ndarray:
        """A copy on the host."""
        _wait("get")
        return self._array.copy()

    def _as(self, convert: Callable[..., Any], *options: Any) -> Any:
        _wait(convert.__name__)
        return convert(self._array[()], *options)

    def __bool__(self) -> bool: return self._as(bool)
    def __int__(self) -> int: return self._as(int)
    def __float__(self) -> float: return self._as(float)
    def __complex__(self) -> complex: return self._as(complex)
    def __repr__(self) -> str: return self._as(repr)
    def __format__(self, spec: str) -> str: return self._as(format, spec)


class Ufunc:
    """A ufunc, with the methods that CuPy has for it."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self.ufunc = ufunc

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return _ufunc(self.ufunc, "__call__", *inputs, **options)

    def __getattr__(self, method: str) -> Any:
        return functools.partial(_ufunc, self.ufunc, method)


class RawKernel(HostKernel):
    """A kernel of CUDA source, compiled for the host."""

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        super().__call__(grid, block, tuple(map(_lower, args)))


class Namespace:
    """The module `cupy`, as far as NumPy has the same names, and its RawKernel."""
    ndarray, RawKernel = FakeArray, RawKernel

    def __getattr__(self, name: str) -> Any:
        if name in API["same"]:
            return getattr(np, name)
        if name in API["ufuncs"]:
            return Ufunc(getattr(np, name))
        if name not in API["functions"]:
            raise AttributeError(f"CuPy has no {name!r} that NumPy has too")
        return functools.partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        _bind(f"cupy.{name}", API["functions"][name], args, kwargs)
        if name in ("array", "asarray") and isinstance(args[0], np.ndarray):
            args = (FakeArray(args[0].copy()), *args[1:])           # the copy to the device
        given = [y for x in (*args, *kwargs.values()) for y in (x if isinstance(x, (list, tuple)) else (x,))]
        if name not in FROM_NOTHING and not any(isinstance(y, FakeArray) for y in given):
            raise TypeError(f"cupy.{name} computes on device arrays, got {', '.join(type(y).__name__ for y in given)}")
        if name in API["waits"] and not (name == "where" and len(given) == 3):
            _wait(name)
        return _lift(getattr(np, name)(*_lower(args), **{k: _lower(v) for k, v in kwargs.items()}), given)


xp = Namespace()

register(FakeArray, Backend("fake", xp, put=lambda array, number: FakeArray(array.copy()), host=FakeArray.get,
                            number=lambda array: None, synchronize=lambda: _wait("synchronize"), wraps=True,
                            address=lambda array: array._array.__array_interface__["data"][0],
                            add_at=functools.partial(kernels.add_at, xp), memory=memory))
