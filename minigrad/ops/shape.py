"""Ops that rearrange numbers: reshape, transpose, index, join, split. The backward undoes the rearrangement."""

import math
from typing import Any

import numpy as np

from minigrad import device
from minigrad.ops.op import Primitive
from minigrad.ops.sample import Sample
from minigrad.ops.sums import add_at, wider


def normal_axes(op: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """axis (an integer, a tuple of integers, or None for all) as a tuple of integers in 0 .. ndim - 1. TypeError for
    another type, ValueError for an axis out of range or named twice."""
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not isinstance(a, (int, np.integer)):
            raise TypeError(f"{op}: axis must be None, an integer or a tuple of integers, got {axis!r}")
        if not -ndim <= a < ndim:
            raise ValueError(f"{op}: axis {a} is out of range for {ndim} axes: use {-ndim} to {ndim - 1}")
    normal = tuple(int(a) % ndim for a in axes)
    if len(set(normal)) < len(normal):
        raise ValueError(f"{op}: axis {axis} names an axis twice")
    return normal


class Reshape(Primitive):
    """x; shape  ->  y

    forward   y = x in another shape, same order
    backward  dx = dy in the shape of x
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  dx holds the same numbers as dy: sum(dx**2) = sum(dy**2)
    """

    def forward(self, x, *, shape):
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        known = math.prod(n for n in shape if n != -1)
        if shape.count(-1) > 1 or (x.size != known if -1 not in shape else known == 0 or x.size % known):
            raise ValueError(f"reshape: {x.size} numbers of shape {x.shape} do not fit into shape {shape}")
        self.save(shape=x.shape)
        return x.reshape(shape)

    def backward(self, dy, shape):
        return dy.reshape(shape)

    samples = [
        Sample((2, 3, 5), shape=(5, 6)),
        Sample((2, 3), shape=-1),
        Sample((), shape=(1, 1)),
        Sample((4,), shape=(2, -1)),
    ]


class Transpose(Primitive):
    """x; axes  ->  y

    forward   y = x with its axes in reverse order [if axes is not given]
              y = x with its axes in the given order [if axes is given]
    backward  dx = dy with its axes in reverse order [if axes is not given]
              dx = dy with its axes in the inverse order [if axes is given]
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  dx holds the numbers of dy in the order of x: sum(dx * x) = sum(dy * y)
    """

    def forward(self, x, *, axes=None):
        order = tuple(range(x.ndim))[::-1] if axes is None else normal_axes("transpose", tuple(axes), x.ndim)
        if len(order) != x.ndim:
            raise ValueError(f"transpose: axes {axes} must name each of the {x.ndim} axes of {x.shape} once")
        self.save(inverse=tuple(order.index(i) for i in range(x.ndim)))
        return x.transpose(order)

    def backward(self, dy, inverse):
        return dy.transpose(inverse)

    samples = [Sample((2, 3)), Sample((2, 3, 5), axes=(1, 2, 0)), Sample((2, 3, 5), axes=(0, -1, 1)), Sample((3,))]


class Swapaxes(Primitive):
    """x; axis1, axis2  ->  y

    forward   y = x with two axes exchanged
    backward  dx = dy with the same two exchanged
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  dx holds the numbers of dy in the order of x: sum(dx * x) = sum(dy * y)
    """

    def forward(self, x, *, axis1, axis2):
        normal_axes("swapaxes", (axis1,), x.ndim)
        normal_axes("swapaxes", (axis2,), x.ndim)
        self.save(axis1=axis1, axis2=axis2)
        return x.swapaxes(axis1, axis2)

    def backward(self, dy, axis1, axis2):
        return dy.swapaxes(axis1, axis2)

    samples = [Sample((2, 3, 5), axis1=0, axis2=2), Sample((2, 3, 5), axis1=-1, axis2=-2)]


class BroadcastTo(Primitive):
    """x; shape  ->  y

    forward   y = x repeated along new axes and axes of size 1
    backward  dx = dy summed over the copies
    why       the engine computes the sum over the copies, as for every op that broadcasts; so this backward returns dy
    identity  each dx is the sum of the dy of its copies: sum(dx) = sum(dy)
    """
    broadcasts = True

    def forward(self, x, *, shape):
        return self.xp.broadcast_to(x, shape)

    def backward(self, dy):
        return dy

    samples = [
        Sample((3,), shape=(2, 3)),
        Sample((3, 1), shape=(2, 3, 5)),
        Sample((), shape=(4,)),
        Sample((2, 3), shape=(2, 3)),
    ]


class Squeeze(Primitive):
    """x; axis  ->  y

    forward   y = x without its axes of size 1 [if axis is not given]
              y = x without the given axes of size 1 [if axis is given]
    backward  dx = dy in the shape of x
    why       the op changes the shape and no number, so the gradient has the numbers of dy
    identity  dx holds the same numbers as dy: sum(dx**2) = sum(dy**2)
    """

    def forward(self, x, *, axis=None):
        axes = normal_axes("squeeze", axis, x.ndim)
        if axis is None:
            axes = tuple(i for i in axes if x.shape[i] == 1)
        if any(x.shape[i] != 1 for i in axes):
            raise ValueError(f"squeeze: axis {axis} of shape {x.shape} is not of size 1")
        self.save(shape=x.shape)
        return x.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes))

    def backward(self, dy, shape):
        return dy.reshape(shape)

    samples = [Sample((1, 3, 1)), Sample((1, 3, 1), axis=-1), Sample((1, 3, 1), axis=(0, 2))]


class ExpandDims(Primitive):
    """x; axis  ->  y

    forward   y = x with new axes of size 1 at the given places of y
    backward  dx = dy in the shape of x
    why       the op changes the shape and no number, so the gradient has the numbers of dy
    identity  dx holds the same numbers as dy: sum(dx**2) = sum(dy**2)
    """

    def forward(self, x, *, axis):
        count = len(axis) if isinstance(axis, tuple) else 1
        axes = normal_axes("expand_dims", axis, x.ndim + count)
        sizes = iter(x.shape)
        self.save(shape=x.shape)
        return x.reshape(tuple(1 if i in axes else next(sizes) for i in range(x.ndim + count)))

    def backward(self, dy, shape):
        return dy.reshape(shape)

    samples = [Sample((2, 3), axis=1), Sample((2, 3), axis=-1), Sample((2, 3), axis=(0, 2)), Sample((), axis=0)]


class Astype(Primitive):
    """x; dtype  ->  y

    forward   y = x in another floating dtype
    backward  dx = dy in the dtype of x
    why       rounding to another dtype is treated as if it changed no number: the derivative is set to 1
    identity  dx holds the same numbers as dy, up to rounding: sum(dx) = sum(dy)
    """
    analytic = False

    def forward(self, x, *, dtype):
        self.save(dtype=x.dtype)
        return x.astype(dtype)

    def backward(self, dy, dtype):
        return dy.astype(dtype)

    samples = [Sample((2, 3), dtype=np.float64)]


def is_basic(index: Any) -> bool:
    """Whether an index selects each element at most once: integers, slices, None, Ellipsis and boolean masks only."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        isinstance(i, (int, np.integer, slice)) or i is None or i is Ellipsis or getattr(i, "dtype", None) == bool
        for i in parts
    )


def check_index(op: str, index: Any, shape: tuple[int, ...]) -> None:
    """Raise IndexError for an integer array with an index out of range, TypeError for an array of another dtype."""
    parts = index if isinstance(index, tuple) else (index,)
    axis = 0
    for i, part in enumerate(parts):
        if part is Ellipsis:
            axis = len(shape) - sum(p is not None for p in parts[i + 1:])
        elif part is not None:
            dtype = None if isinstance(part, np.integer) else getattr(part, "dtype", None)
            if dtype is not None and dtype.kind not in "iub":
                raise TypeError(f"{op}: an index must be of integers or booleans, got dtype {dtype}: use .astype(int)")
            if dtype is not None and dtype.kind in "iu" and axis < len(shape):
                device.in_range("index", part, shape[axis], low=-shape[axis])
            axis += part.ndim if dtype == bool else 1


class Getitem(Primitive):
    """x; index  ->  y

    forward   y = x[index]    index: integers, slices, boolean masks, arrays of integers with repeats
    backward  dx = 0    dx[index] += dy, once for each index
    why       an element of x that was read several times gets the sum of the gradients of its copies
    identity  y is linear in x: sum(dx * x) = sum(dy * y); each dy is added to one element of dx: sum(dx) = sum(dy)
    """

    def forward(self, x, *, index):
        check_index("getitem", index, x.shape)
        self.save(index=index, shape=x.shape)
        return x[index]

    def backward(self, dy, index, shape):
        return scatter(self.xp, dy, index, shape)

    _rows, _repeats = np.array([2, 0]), np.array([[1, 3, 1], [0, 1, 0]])
    samples = [
        Sample((4, 3), index=1),
        Sample((4, 3), index=(slice(None, None, 2), -1)),
        Sample((4, 3), index=(Ellipsis, None, 0)),
        Sample((4, 3), index=_repeats),
        Sample((4, 3), index=(_repeats, np.array([2, 0, 1]))),
        Sample((4, 3), index=(slice(1, 3), _rows)),
        Sample((4, 3), index=np.array([True, False, True, True])),
        Sample((4, 3), index=slice(3, 0, -2)),
    ]


class ScatterAdd(Primitive):
    """x; index, shape  ->  y

    forward   y = 0    y[index] += x, once for each index
    backward  dx = dy[index]
    why       every x is added to one element of y, and gets the gradient of this element
    identity  y is linear in x: sum(dx * x) = sum(dy * y)
    """

    def forward(self, x, *, index, shape):
        check_index("scatter_add", index, shape)
        self.save(index=index)
        return scatter(self.xp, x, index, shape)

    def backward(self, dy, index):
        return dy[index]

    samples = [
        Sample((2, 3, 5), index=Getitem._repeats, shape=(4, 5)),
        Sample((2,), index=(slice(0, 2), -1), shape=(4, 3)),
        Sample((3,), index=np.array([True, False, True, True]), shape=(4,)),
    ]


def scatter(xp: Any, x: Any, index: Any, shape: tuple[int, ...]) -> Any:
    """zeros(shape) with x added at index; for Tensors the op scatter_add."""
    if hasattr(xp, "scatter_add"):              # xp is minigrad.functional; NumPy and CuPy have no such function
        return xp.scatter_add(x, index, shape)
    if is_basic(index):
        y = xp.zeros(shape, x.dtype)
        y[index] = x
        return y
    y = xp.zeros(shape, wider(x.dtype))
    add_at(y, index, x)
    return y.astype(x.dtype)


class Concatenate(Primitive):
    """x0, x1, ...; axis  ->  y

    forward   y = the xs joined along an axis
    backward  dxs = dy cut at the same places
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  each dy is the gradient of an element of one of the xs: sum(dxs) = sum(dy)
    """

    def forward(self, *xs, axis=0):
        axis, = normal_axes("concatenate", axis, xs[0].ndim)
        rest = [x.shape[:axis] + x.shape[axis + 1:] for x in xs]
        if any(x.ndim != xs[0].ndim for x in xs) or any(r != rest[0] for r in rest):
            raise ValueError(f"concatenate: shapes {[x.shape for x in xs]} must be equal except along axis {axis}")
        self.save(axis=axis, sizes=[x.shape[axis] for x in xs])
        return self.xp.concatenate(xs, axis=axis)

    def backward(self, dy, axis, sizes):
        ends = np.cumsum(sizes).tolist()
        return tuple(dy[(slice(None),) * axis + (slice(end - n, end),)] for n, end in zip(sizes, ends))

    samples = [Sample((2, 3), (5, 3)), Sample((2, 3), (2, 1), (2, 4), axis=-1), Sample((3,))]


class Stack(Primitive):
    """x0, x1, ...; axis  ->  y

    forward   y = the xs along a new axis
    backward  dxs = the slices of dy along it
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  each dy is the gradient of an element of one of the xs: sum(dxs) = sum(dy)
    """

    def forward(self, *xs, axis=0):
        axis, = normal_axes("stack", axis, xs[0].ndim + 1)
        if any(x.shape != xs[0].shape for x in xs):
            raise ValueError(f"stack: shapes {[x.shape for x in xs]} must be equal")
        self.save(axis=axis, n=len(xs))
        return self.xp.stack(xs, axis=axis)

    def backward(self, dy, axis, n):
        return tuple(dy[(slice(None),) * axis + (i,)] for i in range(n))

    samples = [Sample((2, 3), (2, 3)), Sample((2, 3), (2, 3), (2, 3), axis=-1), Sample(())]


class Split(Primitive):
    """x; sections, axis  ->  y0, y1, ...

    forward   ys = x cut along an axis into as many equal parts as sections says, or before the indices in sections
    backward  dx = the dys joined along that axis
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  dx holds all the dys: sum(dx) = sum(dys)
    """

    def forward(self, x, *, sections, axis=0):
        axis, = normal_axes("split", axis, x.ndim)
        n = x.shape[axis]
        if isinstance(sections, (int, np.integer)):
            if sections < 1 or n % sections:
                raise ValueError(
                    f"split: {n} along axis {axis} of {x.shape} does not divide into {sections} equal parts"
                )
            sections = range(n // sections, n, n // sections)
        ends = [*sections, n]
        self.save(axis=axis)
        parts = tuple(x[(slice(None),) * axis + (slice(a, b),)] for a, b in zip([0, *ends], ends))
        if sum(y.shape[axis] for y in parts) != n:
            raise ValueError(f"split: the indices {list(sections)} along axis {axis} of {x.shape} do not increase")
        return parts

    def backward(self, *dys, axis):
        return self.xp.concatenate(dys, axis=axis)

    samples = [Sample((6, 2), sections=3), Sample((2, 7), sections=[2, 3], axis=-1), Sample((2, 3), sections=1)]


class SplitHeads(Primitive):
    """x (B, T, 3 n_head hs); n_head  ->  y0, y1, y2 (B, n_head, T, hs)

    axes      B batch, T token, 3 n_head hs feature, n_head head, hs feature
    forward   ys = queries, keys and values, the thirds of the last axis of x, each cut into n_head heads
    backward  dx = the heads of all dys side by side
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  dx holds the dys of all heads: sum(dx) = sum(dys)
    """

    def forward(self, x, *, n_head):
        if len(x.shape) != 3 or n_head < 1 or x.shape[2] % (3 * n_head):
            raise ValueError(f"split_heads: x {x.shape} does not fit n_head {n_head}: expected (B, T, 3 C) with C "
                             "divisible by n_head")
        B, T, C3 = x.shape
        heads = x.reshape(B, T, 3 * n_head, C3 // (3 * n_head)).swapaxes(1, 2)      # (B, 3 nh, T, hs)
        self.save(shape=x.shape)
        return tuple(heads[:, i * n_head:(i + 1) * n_head] for i in range(3))       # 3 x (B, nh, T, hs)

    def backward(self, *dys, shape):
        heads = self.xp.concatenate(dys, axis=1)                                    # (B, 3 nh, T, hs)
        return heads.swapaxes(1, 2).reshape(shape)                                  # (B, T, 3 C)

    samples = [Sample((2, 5, 12), n_head=2), Sample((1, 3, 6), n_head=1), Sample((3, 1, 9), n_head=3)]


class MergeHeads(Primitive):
    """x (B, nh, T, hs)  ->  y (B, T, nh hs)

    axes      B batch, T token, nh head, hs feature, nh hs feature
    forward   y = the heads of each position side by side
    backward  dx = dy cut into heads again
    why       the op moves numbers and changes none, so the backward moves each gradient back to where its number was
    identity  dx holds the same numbers as dy: sum(dx**2) = sum(dy**2)
    """

    def forward(self, x):
        if len(x.shape) != 4:
            raise ValueError(f"merge_heads: expected x (B, nh, T, hs), got {x.shape}")
        B, nh, T, hs = x.shape
        self.save(shape=(B, T, nh, hs))
        return x.swapaxes(1, 2).reshape(B, T, nh * hs)

    def backward(self, dy, shape):
        return dy.reshape(shape).swapaxes(1, 2)

    samples = [Sample((2, 3, 5, 4)), Sample((1, 1, 3, 2))]
