"""Activation recomputation: a part of a forward keeps its inputs alone, and runs again in the backward."""
import weakref
from collections import deque
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np

from minigrad import changes, device
from minigrad import functional as F
from minigrad.arrays import is_simple
from minigrad.modes import mode, module_path, switch
from minigrad.nn import Module
from minigrad.ops.recompute import Recompute
from minigrad.ops.sample import Sample
from minigrad.random import Key
from minigrad.tape import Node, apply, collect, walk
from minigrad.tensor import Tensor

SAMPLED = 100                                   # about as many elements of the two results are compared


def recompute(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """f as one op that keeps its inputs alone until the backward, which runs f again: `y = mg.recompute(f)(x, key)`. It
    saves the memory of the activations inside f, for the time of a second forward of f (Chen et al. 2016, "Training
    Deep Nets with Sublinear Memory Cost").

    f: a function, or a Module, that returns one Tensor. Its inputs, which get gradients, are the floating Tensors among
    its arguments, and leaves that it uses without being given them, such as the parameters of a Module. From a Key
    among its arguments, both runs draw the same numbers. Other arguments are constants: arrays are copied.

    The gradients have the same bits as those without recompute. Only if a Tensor is used three times or more, inside f
    and outside of it, its contributions are added in another order. Tensors that f computes are computed again, so
    `retain_grad` on one of them has no effect. Inside `no_grad` and `unfused`, and where nothing requires a gradient,
    recompute(f) is f.

    TypeError if f returns no Tensor. ValueError if f uses an output of an op outside of it that is not among its
    arguments, and in the backward if the second run records other ops or has another result.
    """
    def call(*args: Any, **kwargs: Any) -> Tensor:
        if not mode().grad or mode().unfused:
            return f(*args, **kwargs)
        return _recomputed(f, args, kwargs)
    return call


class Call:
    """A call of a function, to be run again on other arrays in the modes of the first run. The op's inputs are those of
    the function, and after them the captured Tensors."""

    def __init__(self, function: Callable[..., Tensor], name: str) -> None:
        self.function, self.name = function, name       # takes Tensors, one for each input
        self.captured: list[Tensor] = []        # leaves that the function uses without being given them
        self.context = copy_context()           # holds the modes and the path of the Module
        self.ops: list[Any] | None = None       # what the first run recorded, as `recorded_ops` gives it
        self.sample: Any = None                 # some elements of its result
        self.first: Any = None                  # its result, until the op's first forward takes it
        self.xs: Sequence[Any] = ()             # the arrays of the first run

    def result(self, xs: Sequence[Any], needs: Sequence[bool]) -> Any:
        """The result for these arrays: that of the first run, if it was not taken yet."""
        if self.first is not None:
            y, self.first, self.xs = self.first, None, xs
            return y
        with self.run(xs, needs) as (_, y):
            return y.data

    @contextmanager
    def run(self, xs: Sequence[Any], needs: Sequence[bool]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Run the function on these arrays, recorded. Gives the inputs, which are leaves, and the result. Until the
        block ends, each captured Tensor has the array that the op was given for it.

        Where the op is checked or explained, the arrays are others than in the first run, perhaps of another precision:
        the textbook's ops run on these."""
        n, detect_nan, other = len(xs) - len(self.captured), mode().detect_nan, not self.is_first(xs)
        given = [Tensor(x, need) for x, need in zip(xs[:n], needs)]

        def recorded() -> Tensor:
            with switch(grad=True, plain=other or mode().plain, detect_nan=detect_nan or mode().detect_nan):
                return self.function(*given)

        own = [(t._data, t._requires_grad) for t in self.captured]
        try:
            for t, x, need in zip(self.captured, xs[n:], needs[n:]):
                t._data, t._requires_grad = x, need
            yield given + self.captured, self.context.run(recorded)
        finally:
            for t, (data, requires_grad) in zip(self.captured, own):
                t._data, t._requires_grad = data, requires_grad

    def is_first(self, xs: Sequence[Any]) -> bool:
        """Whether these arrays are those of the first run."""
        return len(xs) == len(self.xs) and all(x is first for x, first in zip(xs, self.xs))

    def check_same(self, xs: Sequence[Any], y: Tensor) -> None:
        """ValueError if a second run, on these arrays, has recorded other ops than the first one, or if it has another
        result for the arrays of the first one."""
        if self.ops is None:
            return
        ops, sample = recorded_ops(nodes_of(y)), sampled(y)
        other = next((f", {now[0]} in place of {then[0]}" for then, now in zip(self.ops, ops) if then != now), "")
        if len(ops) != len(self.ops) or other:
            what = f"records {len(self.ops)} ops in the forward and {len(ops)} in the backward{other}"
        elif self.is_first(xs) and _far(sample, self.sample):
            what = "has another result in the backward than in the forward"
        else:
            return
        raise ValueError(
            f"{self.name} {what}: until the backward, leave all that it uses as it is, such as model.train() and "
            "model.eval(), and draw random numbers from a Key among its arguments, mg.recompute(f)(x, key)")

    def gradients(self, inputs: Sequence[Tensor], y: Tensor, dy: Any) -> tuple[Any, ...]:
        """The gradient of each input in a backward of y that begins with dy, an array; None for one that needs none."""
        found: dict[Any, Any] = {}
        deque(walk(y, dy, deliver=lambda leaf, g: found.__setitem__(leaf.key, g)), maxlen=0)
        return tuple(found.get(x.key) for x in inputs)

    def unfused(self, xs: Sequence[Any]) -> Tensor:
        """The result for Tensors, with the ops of the function recorded as primitives."""
        with switch(unfused=True):
            return self.function(*xs[:len(xs) - len(self.captured)])

    def unfused_gradients(self, xs: Sequence[Any], dy: Any) -> list[Any]:
        """`gradients`, for arrays and a gradient of the result, with the ops of the function recorded as primitives."""
        with self.run(xs, [True] * len(xs)) as (inputs, _):
            return list(self.gradients(inputs, self.unfused(inputs), dy))

    def __repr__(self) -> str:
        return self.name


class Slot(NamedTuple):
    """In the place of a Tensor among the arguments of a function: the number of the input."""
    i: int


def _recomputed(f: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Run f, recorded, on copies of the Tensors among its arguments, which all require a gradient. This shows which
    leaves it captures, also those of ops that would else not be recorded. Drop what was recorded, and record the op,
    which takes the result."""
    name = f.path or type(f).__name__ if isinstance(f, Module) else getattr(f, "__qualname__", type(f).__name__)
    tensors: dict[Any, Tensor] = {}             # the Tensors among the arguments, by key
    kept = [_kept(value, tensors) for value in args]
    kept_by_name = {key: _kept(value, tensors) for key, value in kwargs.items()}
    copies = [Tensor(t._data, requires_grad=True) for t in tensors.values()]
    constant = {c.key for t, c in zip(tensors.values(), copies) if not t._requires_grad}

    def function(*xs: Tensor) -> Tensor:
        return f(*[_filled(value, xs) for value in kept], **{k: _filled(v, xs) for k, v in kept_by_name.items()})

    def first_run() -> Any:
        """The result and, if it was recorded, the ops, and weak references to the leaves, by key."""
        start = changes.clock()
        y = f(*[copies[k.i] if type(k) is Slot else value for k, value in zip(kept, args)],
              **{key: copies[k.i] if type(k) is Slot else kwargs[key] for key, k in kept_by_name.items()})
        if not isinstance(y, Tensor):
            raise TypeError(f"{name} returns a {type(y).__name__}: mg.recompute takes a function that returns a Tensor")
        nodes = nodes_of(y)
        if nodes and nodes[0].seq < start:
            outer = max((node for node in nodes if node.seq < start), key=lambda node: node.seq)
            raise ValueError(f"{name} uses an output of {outer}, computed outside of it: give it as an argument of "
                             "its own, mg.recompute(f)(x, y)")
        leaves = {x.key: weakref.ref(x) for node in nodes for x in node.inputs
                  if isinstance(x, Tensor) and x.node is None}
        return y, recorded_ops(_without(constant, nodes)), leaves

    call = Call(function, name)
    y, call.ops, leaves = first_run()
    if not call.ops:
        return next((t for t, c in zip(tensors.values(), copies) if c is y), y if y.node is None else y.detach())
    call.first, call.sample = y._data, sampled(y)
    del y                                       # the last reference to what was recorded
    given = {c.key for c in copies}
    call.captured = [x for key, ref in leaves.items() if key not in given and (x := ref()) is not None
                     and x.dtype.kind not in "iub"]
    xs = [t if c.key in leaves else t.detach() for t, c in zip(tensors.values(), copies)]
    token = module_path.set(f.path if isinstance(f, Module) else module_path.get())
    try:
        recomputed: Tensor = apply(Recompute, *xs, *call.captured, f=call)
        return recomputed
    finally:
        module_path.reset(token)


def _kept(value: Any, tensors: dict[Any, Tensor]) -> Any:
    """What a second run takes an argument from: for a floating Tensor, which is added to tensors, the number of the
    input; a copy of an array and of a Key."""
    if isinstance(value, Tensor):
        if value.dtype.kind in "iub":
            return Tensor(value._data.copy())
        tensors.setdefault(value.key, value)
        return Slot(list(tensors).index(value.key))
    if isinstance(value, Key):
        return replace(value)
    return value.copy() if device.is_array(value) else value


def _filled(kept: Any, xs: Sequence[Tensor]) -> Any:
    """The argument for another run on these Tensors. A Key is copied, as `next` counts in it."""
    return xs[kept.i] if type(kept) is Slot else replace(kept) if isinstance(kept, Key) else kept


def nodes_of(y: Tensor) -> list[Node]:
    """The nodes that y depends on, oldest first."""
    return [] if y.node is None else [node for _, node in sorted(collect(y.node)[0].items())]


def recorded_ops(nodes: list[Node]) -> list[Any]:
    """For each node the name of its op, its simple keyword arguments, and where its inputs come from: another node and
    the number of its output, or a leaf. Equal for two runs that have recorded the same."""
    number = {node.seq: i for i, node in enumerate(nodes)}
    leaves: dict[Any, int] = {}

    def source(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.node is None or x.node.seq not in number:
            return leaves.setdefault(x.key, len(leaves))
        return number[x.node.seq], x.out

    return [(node.op_class.name, {key: value for key, value in node.static.items() if is_simple(value)},
             [source(x) for x in node.inputs]) for node in nodes]


def _without(constant: set[Any], nodes: list[Node]) -> list[Node]:
    """Those of the nodes, oldest first, that are recorded if the leaves of these keys require no gradient."""
    found: dict[int, Node] = {}
    for node in nodes:
        if any(need and (x.key not in constant if x.node is None else x.node.seq in found)
               for x, need in zip(node.inputs, node.op.needs)):
            found[node.seq] = node
    return list(found.values())


def sampled(y: Tensor) -> Any:
    """Some elements of y, an array."""
    flat = y._data.reshape(-1)
    return flat[::max(1, flat.size // SAMPLED)].copy()


def _far(a: Any, b: Any) -> bool:
    """Whether two arrays differ by more than another order of a sum explains. Where they hold NaN, they do not."""
    with np.errstate(all="ignore"):
        return bool(a.size and abs(a - b).max() > 1e-2 * abs(b).max())


def _two_layers(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x + F.gelu(F.linear(x, w, b)), b)


def _with_key(x: Tensor) -> Tensor:
    return F.dropout(F.tanh(x) * x, 0.4, Key(seed=1))


Recompute.samples = [Sample((4, 3), (3, 3), (3,), f=Call(_two_layers, "two_layers")),
                     Sample((2, 3, 5), f=Call(_with_key, "with_key"))]
