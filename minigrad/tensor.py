"""Tensor: an array, its gradient, and the node of the op that computed it."""
import weakref
from typing import Any, Callable, Iterator

import numpy as np

from minigrad import changes, device, tape
from minigrad.arrays import as_array, as_numbers, check_dtype, numpy_function, plain
from minigrad.modes import mode
from minigrad.ops import adamw, linalg, pointwise, reduce, shape  # noqa: F401  (defining an op registers it)
from minigrad.ops.op import Op
from minigrad.tape import apply

apply_one: Callable[..., "Tensor"] = apply       # for ops with one output


class Tensor:
    """An array. Operations on Tensors are recorded if a Tensor among their inputs requires a gradient.

    data: an array, which is not copied: the Tensor shares its memory; or a number or nested list, which NumPy converts
    to an array; or a Tensor, of which it takes the array, as detach() does. requires_grad: whether `backward` adds to
    its `.grad`; only for floating dtypes. dtype, device: cast the data to this dtype, move it to this device. TypeError
    for a dtype that is not floating, integer or boolean, for bfloat16, for requires_grad with a dtype that is not
    floating, for a masked array, and for a list of Tensors that need gradients. ValueError for a device that is unknown
    or does not work.
    """
    __slots__ = ("_data", "node", "out", "_requires_grad", "grad", "hooks", "__weakref__")
    _data: Any
    __array_ufunc__ = None                      # so that ndarray * Tensor calls Tensor.__rmul__
    __hash__ = object.__hash__

    def __init__(self, data: Any, requires_grad: bool = False, *, dtype: Any = None, device: str | None = None) -> None:
        array = as_numbers(data.data if isinstance(data, Tensor) else data)
        if dtype is not None:
            array = array.astype(check_dtype(dtype), copy=False)
        if device is not None:
            array = _put(array, device)
        self._data = array
        self.node: tape.Node | None = None      # the node that computed it; None for a leaf
        self.requires_grad = requires_grad
        self.out = 0                            # which of the node's outputs it is
        self.grad: Any = None                   # an ordinary array, which stays valid
        self.hooks: list[tape.Hook] | None = None

    @staticmethod
    def output(array: Any, node: "tape.Node | None", out: int) -> "Tensor":
        """A Tensor of an op's output array number `out`. node: the op's node, None if it was not recorded."""
        t = Tensor.__new__(Tensor)
        t._data = array
        t.node = node
        t.out = out
        t._requires_grad = node is not None
        t.grad = t.hooks = None
        return t

    # ---- the array ----

    @property
    def data(self) -> Any:
        """The array itself. `t.data = new` copies new values into it; a backward that needs the old ones then raises
        ValueError, also if the forward read them through another Tensor that shares the memory, such as t.detach(). A
        write into the array, `t.data[0] = 1`, is not detected: a backward that needs the old values silently uses the
        new ones.

        Assigning raises ValueError for another shape, for numbers that an integer or boolean dtype does not hold, and
        for a Tensor that is no leaf; TypeError as for a new Tensor. Values are copied: to exchange the values of two
        Tensors, copy those of one first."""
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        if self.node is not None:
            raise ValueError(
                f"this Tensor is an output of {self.node}: only leaves can be given new data; .detach() returns a leaf"
            )
        array = _put(as_numbers(value.data if isinstance(value, Tensor) else value), self.device)
        if array.shape != self.shape:
            raise ValueError(f"new data has shape {array.shape}, the Tensor {self.shape}: they must agree")
        if self.dtype.kind in "iub" and array.dtype != self.dtype:
            with np.errstate(invalid="ignore"):
                cast = array.astype(self.dtype)
            if (cast != array).any():
                raise ValueError(f"new data of dtype {array.dtype} has numbers that the dtype of the Tensor, "
                                 f"{self.dtype}, does not hold")
        self.data[...] = array
        self.changed()

    def changed(self) -> None:
        """Record that its values have changed: a backward that needs the old ones then raises ValueError."""
        changes.record(self._data)

    @property
    def key(self) -> Any:
        """Its key in the gradients of a backward pass: the same for all Tensors of one output of one node."""
        return id(self) if self.node is None else (self.node.seq, self.out)

    @property
    def xp(self) -> Any:
        """The namespace that computes on its array: numpy or cupy."""
        return device.xp(self._data)

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._data.shape
        return shape

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        size: int = self._data.size
        return size

    @property
    def device(self) -> str:
        """"cpu" or "cuda:N"."""
        return device.name(self._data)

    def numpy(self) -> np.ndarray:
        """A copy of its array on the host, with its rows one after the other in memory."""
        return np.array(device.host(self.data), order="C")

    def item(self) -> Any:
        """Its only element as a Python number; synchronizes with the device. ValueError for several elements."""
        return self.data.item()

    def tolist(self) -> Any:
        return self.data.tolist()

    def detach(self) -> "Tensor":
        """A leaf that shares its array and needs no gradient."""
        return Tensor(self.data)

    def to(self, device: str) -> "Tensor":
        """A leaf with a copy of its values on this device; itself if it is there already. ValueError for a device that
        is unknown or does not work."""
        array = _put(self.data, device)
        return self if array is self._data else Tensor(array, self.requires_grad)

    # ---- gradients ----

    @property
    def requires_grad(self) -> bool:
        """Whether `backward` computes its gradient. It can be set on a leaf: TypeError for True if the dtype is not
        floating, ValueError for a Tensor that is no leaf."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node is not None:
            raise ValueError(f"this Tensor is an output of {self.node}: requires_grad can be set on leaves only; "
                             ".detach() returns a leaf")
        if value and self.dtype.kind in "iub":
            raise TypeError(f"requires_grad=True on dtype {self.dtype}: only floating numbers have gradients; "
                            'give dtype="float32"')
        self._requires_grad = bool(value)

    def backward(self, dy: Any = None, *, retain_graph: bool = False) -> None:
        """Add the gradient of every leaf that self depends on to its `.grad`.

        dy: the gradient of self, an array of its shape; by default 1, if self has one element. The graph is freed
        unless retain_graph. If backward fails or is interrupted, the `.grad` of every leaf is as before. ValueError if
        self needs no gradient, if dy has another shape, dtype or device, if an input's data has changed since the
        forward, and if the graph was freed.
        """
        tape.backward(self, dy, retain_graph=retain_graph)

    def backward_steps(self, dy: Any = None, *, until: Any = None, retain_graph: bool = False) -> Iterator[Any]:
        """`backward` as an iterator: a minigrad.step.Step for each node, newest first. Pausing the loop pauses the
        backward; when the loop has ended, every `.grad` has the same bits as after `backward`.

        until: run all steps, but yield only those of an op ("attention"), in a module ("h.0.attn"), that use a
        parameter ("wte.weight"), whose check against finite differences fails ("bad"), with NaN or infinity in an array
        ("nan"), with a gradient of a large norm ("norm > 3"), or for which a function of the Step returns true.
        ValueError for a name that is not in the graph, and as for `backward`; TypeError for another type of `until`.
        """
        return tape.backward_steps(self, dy, until=until, retain_graph=retain_graph)

    def register_hook(self, hook: tape.Hook) -> None:
        """Call hook(gradient) once in each backward, with the whole gradient of this Tensor, a read-only array. If the
        hook returns an array, it replaces the gradient: backward raises TypeError or ValueError if that is of another
        type, shape or dtype. ValueError if the Tensor needs no gradient."""
        if not self.requires_grad:
            raise ValueError("a hook on a Tensor that needs no gradient would never run: it needs requires_grad=True")
        if self.node is None:
            self.hooks = (self.hooks or []) + [hook]
        else:
            self.node.hooks = self.node.hooks or {}
            self.node.hooks.setdefault(self.out, []).append(hook)

    def retain_grad(self) -> None:
        """Add the gradient of this Tensor, which is not a leaf, to its `.grad` too, after its hooks. A leaf's is added
        anyway. ValueError if the Tensor needs no gradient."""
        if not self.requires_grad:
            raise ValueError("retain_grad on a Tensor that needs no gradient: it needs requires_grad=True")
        if self.node is not None:
            self.node.retained = {**(self.node.retained or {}), self.out: weakref.ref(self)}

    def zero_grad(self) -> None:
        """Set `.grad` to None."""
        self.grad = None

    # ---- never in place ----

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("Tensors are never changed in place: use F.where(mask, value, t), F.concatenate or "
                        "F.scatter_add for a new Tensor, or assign t.data on a leaf")

    def _in_place(self, other: Any) -> "Tensor":
        raise TypeError(
            "Tensors are never changed in place: write t = t + x instead of t += x (likewise -, *, /, @, **)"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _in_place

    # ---- operators ----

    def __add__(self, other: Any) -> "Tensor": return apply_one(pointwise.Add, self, other)
    def __radd__(self, other: Any) -> "Tensor": return apply_one(pointwise.Add, other, self)
    def __sub__(self, other: Any) -> "Tensor": return apply_one(pointwise.Sub, self, other)
    def __rsub__(self, other: Any) -> "Tensor": return apply_one(pointwise.Sub, other, self)
    def __mul__(self, other: Any) -> "Tensor": return apply_one(pointwise.Mul, self, other)
    def __rmul__(self, other: Any) -> "Tensor": return apply_one(pointwise.Mul, other, self)
    def __truediv__(self, other: Any) -> "Tensor": return apply_one(pointwise.Div, self, other)
    def __rtruediv__(self, other: Any) -> "Tensor": return apply_one(pointwise.Div, other, self)
    def __pow__(self, other: Any) -> "Tensor": return apply_one(pointwise.Pow, self, other)
    def __rpow__(self, other: Any) -> "Tensor": return apply_one(pointwise.Pow, other, self)
    def __matmul__(self, other: Any) -> "Tensor": return apply_one(linalg.Matmul, self, other)
    def __rmatmul__(self, other: Any) -> "Tensor": return apply_one(linalg.Matmul, other, self)
    def __neg__(self) -> "Tensor": return apply_one(pointwise.Neg, self)
    def __pos__(self) -> "Tensor": return self
    def __abs__(self) -> "Tensor": return apply_one(pointwise.Abs, self)

    # comparisons have no gradient: they return boolean arrays
    def __eq__(self, other: Any) -> Any: return self.data == plain(other)
    def __ne__(self, other: Any) -> Any: return self.data != plain(other)
    def __lt__(self, other: Any) -> Any: return self.data < plain(other)
    def __le__(self, other: Any) -> Any: return self.data <= plain(other)
    def __gt__(self, other: Any) -> Any: return self.data > plain(other)
    def __ge__(self, other: Any) -> Any: return self.data >= plain(other)

    # ---- methods as on an ndarray ----

    def exp(self) -> "Tensor": return apply_one(pointwise.Exp, self)
    def log(self) -> "Tensor": return apply_one(pointwise.Log, self)
    def sqrt(self) -> "Tensor": return apply_one(pointwise.Sqrt, self)
    def tanh(self) -> "Tensor": return apply_one(pointwise.Tanh, self)

    def clip(self, min: Any = None, max: Any = None) -> "Tensor":
        return apply_one(pointwise.Clip, self, low=min, high=max)

    def sum(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return apply_one(reduce.Sum, self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return apply_one(reduce.Mean, self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return apply_one(reduce.Max, self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        return apply_one(reduce.Min, self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> "Tensor":
        return apply_one(reduce.Var, self, axis=axis, ddof=ddof, keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> Any:
        """Indices of the largest entries along an axis, or of the flattened array if None: an integer array."""
        return self.data.argmax(axis=axis)

    def reshape(self, *shape_: Any) -> "Tensor":
        return apply_one(
            shape.Reshape, self, shape=shape_[0] if len(shape_) == 1 and not isinstance(shape_[0], int) else shape_
        )

    def transpose(self, *axes: Any) -> "Tensor":
        axes = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return apply_one(shape.Transpose, self, axes=axes or None)

    @property
    def T(self) -> "Tensor":
        """The Tensor with the order of its axes reversed."""
        return apply_one(shape.Transpose, self, axes=None)

    def swapaxes(self, axis1: int, axis2: int) -> "Tensor":
        return apply_one(shape.Swapaxes, self, axis1=axis1, axis2=axis2)

    def squeeze(self, axis: Any = None) -> "Tensor": return apply_one(shape.Squeeze, self, axis=axis)

    def astype(self, dtype: Any) -> "Tensor":
        """The Tensor cast to this dtype; its gradient is cast back. A cast to an integer or boolean dtype is not
        recorded, as integers have no gradient. TypeError for a dtype that is none of these, and for bfloat16."""
        if check_dtype(dtype).kind in "iub":
            return Tensor(self.data.astype(dtype))
        return apply_one(shape.Astype, self, dtype=dtype)

    def __getitem__(self, index: Any) -> "Tensor": return apply_one(shape.Getitem, self, index=plain_index(index))

    # ---- as a Python object ----

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d Tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator["Tensor"]: return (self[i] for i in range(len(self)))
    def __float__(self) -> float: return float(self.item())
    def __int__(self) -> int: return int(self.item())
    def __bool__(self) -> bool: return bool(self.data)

    def __repr__(self) -> str:
        numbers = np.array2string(
            self.numpy(), separator=", ", precision=4, threshold=64, edgeitems=3, prefix="Tensor("
        )
        facts = [f"shape={self.shape}", f"dtype={self.dtype}", f"device={self.device}"]
        if name := getattr(self, "name", ""):   # of a Parameter
            facts.insert(0, f"name={name}")
        if self.node is not None:
            facts.append(f"op={self.node.op_class.name}")
        elif self.requires_grad:
            facts.append("requires_grad=True")
        return f"{type(self).__name__}({numbers}, {', '.join(facts)})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For copy and pickle. TypeError for a Tensor that is no leaf: a copy has no graph."""
        if self.node is not None:
            raise TypeError(f"this Tensor is an output of {self.node}: only leaves can be copied and pickled; "
                            ".detach() returns a leaf")
        return super().__reduce_ex__(protocol)

    # ---- exchange ----

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """A function of NumPy called on Tensors: np.sum(t), np.stack([t, u]). If minigrad.functional has a function of
        this name, it runs and is recorded. Any other gets the arrays. TypeError if that would lose a gradient."""
        return numpy_function(tape.tensor_functions, func, args, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """np.asarray(t): its array, read-only; with `copy` or another dtype, a copy. TypeError for a Tensor on a
        device, and, outside no_grad, for a recorded result of an op: np.array([y, z]) would lose its gradient."""
        self._check_export()
        if self.device != "cpu":
            raise TypeError(f"this Tensor lives on {self.device}: .numpy() copies it to the host")
        if copy or (dtype is not None and dtype != self.dtype):
            return np.array(self.data, dtype=dtype)
        view: np.ndarray = self.data.view()
        view.flags.writeable = False
        return view

    def _check_export(self) -> None:
        """TypeError for an output of an op, outside no_grad: as an array it would lose its gradient."""
        if self.node is not None and mode().grad:
            raise TypeError(f"this Tensor is an output of {self.node}: as an array it would lose its gradient. "
                            "F.stack joins Tensors; .numpy() returns a copy of the numbers")

    def __dlpack__(self, **options: Any) -> Any:
        self._check_export()
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any: return self._data.__dlpack_device__()


def from_dlpack(x: Any) -> Tensor:
    """A Tensor that shares the memory of an array of PyTorch, JAX, CuPy, NumPy ... on the device where it is."""
    return Tensor(device.from_dlpack(x))


def operands(op_class: type[Op], inputs: tuple[Any, ...]) -> list[Any]:
    """The inputs of an op as Tensors, floats and ints. TypeError or ValueError for one that NumPy cannot convert to an
    array of numbers."""
    found: list[Any] = []
    for x in inputs:
        if isinstance(x, np.generic):
            x = x.item()
        if isinstance(x, (int, float)):         # bool is an int, float64 a float
            found.append(float(x) if isinstance(x, float) else int(x))
        elif isinstance(x, Tensor):
            found.append(x)
        else:
            try:
                found.append(Tensor(x))
            except (TypeError, ValueError) as error:
                error.add_note(f"as an input of {op_class.name}")
                raise
    return found


def plain_array(x: Any) -> Any:
    """An index, mask or target, a Tensor, array or list, as an array. A list becomes an array on the host, where its
    range can be checked without waiting for a device; ops copy host arrays to their device."""
    return x.data if isinstance(x, Tensor) else as_array(x)


def plain_index(index: Any) -> Any:
    """An index, or a tuple of indices, with its Tensors, lists and arrays of other kinds as arrays."""
    if isinstance(index, tuple):
        return tuple(plain_index(i) for i in index)
    return index if index is None or index is ... or isinstance(index, (int, np.integer, slice)) else plain_array(index)


_put = device.put                               # `device` is also the name of an argument
