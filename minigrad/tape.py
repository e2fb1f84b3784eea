"""The tape: `apply` records ops going forward, `walk` undoes them going back, newest first.

A node refers to its inputs and not to its output, so a graph has no cycles and is freed by reference counting, without
the garbage collector. How an op is run is up to an executor: see minigrad/executor.py.
"""
import itertools
from collections import deque
from types import CodeType
from typing import Any, Callable, Iterable, Iterator

from minigrad import errors
from minigrad.call_site import call_site, line_of
from minigrad.executor import TEXTBOOK, Executor, Gradients, executor_of
from minigrad.modes import mode, module_path
from minigrad.ops.op import Op

Hook = Callable[[Any], Any]
Deliver = Callable[["Tensor", Any], None]       # takes a leaf and its whole gradient

clock = itertools.count(1).__next__             # numbers nodes, and changes of parameters, in the order of time
tensor_functions: Any = None                    # the namespace that computes on Tensors: minigrad.functional sets it
backward_steps: Callable[..., Iterator[Any]]    # the backward, a Step at a time: minigrad.step sets it


class Node:
    """One recorded call of an op."""
    __slots__ = ("op_class", "op", "inputs", "static", "seq", "outs", "site", "module", "hooks", "used")

    def __init__(self, op_class: type[Op], op: Op, inputs: tuple[Any, ...], static: dict[str, Any],
                 site: tuple[CodeType, int]) -> None:
        self.op_class = op_class                # the textbook op
        self.op: Any = op                       # the implementation that ran, with its saved values; None once freed
        self.inputs = inputs                    # Tensors and Python numbers
        self.static = static                    # the keyword arguments
        self.seq = clock()
        self.outs: list[Any] | None = None      # of an op of several outputs: shape and dtype of each
        self.site = site                        # the user's call: code object and instruction
        self.module = module_path.get()         # path of the nn.Module that made it: "h.0.attn"
        self.hooks: dict[int, list[Hook]] | None = None     # output number -> functions of its gradient
        self.used = False                       # its backward has begun and may have overwritten what was saved

    @property
    def created_at(self) -> str:
        """The user's line that made this node: "train.py:41"."""
        return line_of(*self.site)

    def check_unchanged(self) -> None:
        """ValueError if an input was given other values after the forward."""
        for x in self.inputs:
            if isinstance(x, Tensor) and x.version > self.seq:
                raise ValueError(f"{getattr(x, 'name', '') or 'a Tensor'} {x.shape} was changed after {self} had used "
                                 "it: backward would mix old and new values; run the forward again first")

    def rerun(self) -> tuple[Any, ...]:
        """The outputs, computed again by the implementation that ran."""
        self.check_unchanged()
        op = type(self.op)()
        op.xp, op.needs = self.op.xp, self.op.needs
        y = op.forward(*errors.reconcile(self.op_class, [getattr(x, "_data", x) for x in self.inputs]), **self.static)
        return tuple(op.xp.asarray(a) for a in (y if type(y) is tuple else (y,)))

    def free(self) -> None:
        """Release what was kept for the backward."""
        self.op, self.inputs, self.static = None, (), {}

    def __repr__(self) -> str:
        return f"{self.op_class.name}{_in_module(self.module)} at {self.created_at}"


def _in_module(path: str) -> str:
    return f" in {path}" if path else ""


# ---- forward --------------------------------------------------------------------------------------------------------

def apply(op_class: type[Op], *inputs: Any, **static: Any) -> Any:
    """Run an op on Tensors, arrays and numbers, and record it if a gradient is wanted.

    Numbers (Python's and NumPy's scalars) are weak: they take the dtype of the arrays. Integer arrays beside floating
    ones are cast. Returns a Tensor, or a tuple of Tensors for an op of several outputs. Raises TypeError for two
    floating dtypes, ValueError for two devices; what the op itself raises gets a note with op, shapes and user's line.
    """
    recording, plain, unfused, checking = mode()
    if unfused and op_class.fused:
        return op_class.composed(tensor_functions, *operands(op_class, inputs), **static)
    kind: Any = None
    dtype: Any = None
    arrays, needs, mixed = [], [], False
    for x in inputs:
        if isinstance(x, Tensor):
            a = x._data
            if kind is None:
                kind, dtype = type(a), a.dtype
            elif a.dtype is not dtype or type(a) is not kind:
                mixed = True
            arrays.append(a)
            needs.append(x.requires_grad)
        elif type(x) is float or type(x) is int:
            arrays.append(x)
            needs.append(False)
        else:
            return apply(op_class, *operands(op_class, inputs), **static)
    if kind is None:
        if not inputs:
            raise ValueError(f"{op_class.name}: needs at least one array")
        return apply(op_class, Tensor(inputs[0]), *inputs[1:], **static)

    run = executor_of(kind, plain)
    try:
        if mixed:
            arrays = errors.reconcile(op_class, arrays)
        op, y = run.forward(op_class, arrays, static, needs if recording else [False] * len(needs))
    except Exception as error:
        better = errors.explained(error, op_class, arrays, static)
        better.add_note(f"in forward of {op_class.name} on {errors.shapes(arrays)}, called at {line_of(*call_site())}")
        if better is error:
            raise
        raise better from error
    if checking:
        where = f"{op_class.name}{_in_module(module_path.get())} at {line_of(*call_site())}"
        errors.stop_at_bad(f"forward of {where}", y if type(y) is tuple else (y,), arrays)
    node = None
    if recording and True in needs:
        node = Node(op_class, op, run.retain(op, inputs), static, call_site())
    if type(y) is not tuple:
        return Tensor.output(y if type(y) is kind else op.xp.asarray(y), node, 0)
    if node is not None:
        node.outs = [(a.shape, a.dtype) for a in y]
    return tuple([Tensor.output(a if type(a) is kind else op.xp.asarray(a), node, i) for i, a in enumerate(y)])


# ---- backward -------------------------------------------------------------------------------------------------------

class Visit:
    """One node's backward, just after it ran and before its results are added to the gradients of its inputs.

    dy is the gradient of the output (a tuple for an op of several outputs), dxs that of each input, None where none is
    wanted. An entry of dxs may be replaced: what is there when the iterator advances is added.
    """
    __slots__ = ("index", "node", "op_class", "inputs", "static", "ran", "saved", "dy", "dxs", "_grads", "__weakref__")

    def __init__(self, index: int, node: Node, saved: dict[str, Any], dys: tuple[Any, ...], dxs: list[Any],
                 grads: Gradients) -> None:
        self.index = index
        self.node = node
        self.op_class, self.inputs, self.static = node.op_class, node.inputs, node.static
        self.ran = node.op                      # the implementation that ran: the op, or a kernel
        self.saved = saved                      # by name: what the forward kept
        self.dy = dys if len(dys) > 1 else dys[0]
        self.dxs = dxs
        self._grads = grads

    @property
    def earlier(self) -> list[Any]:
        """For each input the sum of what earlier steps have sent it, to which dxs is added; None if nothing. Valid only
        until the iterator advances."""
        return [self._grads.get(x.key) if need else None for x, need in zip(self.inputs, self.ran.needs)]


def walk(y: "Tensor", dy: Any, *, retain_graph: bool = False, create_graph: bool = False,
         watched: type[Visit] | None = None, deliver: Deliver | None = None) -> Iterator[Any]:
    """The backward loop. From the newest node to the oldest: take the gradients of its outputs, run its backward, add
    what comes back to the gradients of its inputs. A leaf's whole gradient goes to `deliver`, by default `accumulate`,
    after its last consumer has run.

    dy: the gradient of y, an array. watched: a class of Visit, of which one is yielded for each node. create_graph: the
    gradients are Tensors on the tape. The graph is freed on the way unless retain_graph.
    """
    deliver, checking = deliver or accumulate, mode().detect_nan
    run = TEXTBOOK if create_graph else executor_of(type(y._data), mode().plain)
    grads = run.gradients(exclusive=watched is None and not retain_graph)
    grads.add(y.key, Tensor(dy) if create_graph else dy)
    if y.node is None:
        deliver(y, grads.pop_leaf(y.key))
        return
    nodes, consumers = collect(y.node)
    if watched or create_graph or checking:
        run.rematerialize(nodes)
    saved: Any
    dxs: Any
    visit: Any
    for index, seq in enumerate(sorted(nodes, reverse=True)):
        node = nodes.pop(seq)
        node.used = not retain_graph
        dys = _output_gradients(node, grads, create_graph)
        if dys is None:                         # no consumer sent a gradient
            dxs = [None] * len(node.inputs)
        else:
            saved, dxs = _run_backward(node, dys, run, grads, create_graph)
            if checking:
                errors.stop_at_bad(f"backward of {node}", dxs, dys + node.inputs)
            if watched:
                visit = watched(index, node, saved, dys, dxs, grads)
                yield visit
                dxs = visit.dxs
        for x, need, dx in zip(node.inputs, node.op.needs, dxs):
            if not need:
                continue
            key = x.key
            if dx is not None:
                grads.add(key, dx)
            if x.node is None:
                consumers[key] -= 1
                if consumers[key] == 0:
                    g = grads.pop_leaf(key)
                    if g is not None:
                        deliver(x, g)
        if not retain_graph:
            node.free()
        x = dx = g = dys = dxs = saved = visit = None       # refer to no array while the next backward runs


def collect(root: Node) -> tuple[dict[int, Node], dict[Any, int]]:
    """All nodes that root depends on, by number; and how many inputs of these each leaf is, by the leaf's key.
    ValueError for a graph that was freed."""
    nodes: dict[int, Node] = {root.seq: root}
    consumers: dict[Any, int] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node.used:
            raise ValueError(
                f"this graph was freed by an earlier backward ({node.op_class.name}, {node.created_at}): run "
                "the forward again, or give the first backward retain_graph=True"
            )
        for x, need in zip(node.inputs, node.op.needs):
            if not need:
                continue
            if x.node is None:
                consumers[x.key] = consumers.get(x.key, 0) + 1
            elif x.node.seq not in nodes:
                nodes[x.node.seq] = x.node
                stack.append(x.node)
    return nodes, consumers


def _output_gradients(node: Node, grads: Gradients, create_graph: bool) -> tuple[Any, ...] | None:
    """The whole gradient of each output, after its hooks; zeros for an output that nothing used, None if that is all
    of them."""
    if node.outs is None and node.hooks is None:                    # most nodes
        dy = grads.pop((node.seq, 0))
        return None if dy is None else (dy,)
    dys = [grads.pop((node.seq, k)) for k in range(len(node.outs or (None,)))]
    if all(dy is None for dy in dys):
        return None
    for k, dy in enumerate(dys):
        if dy is None and node.outs is not None:
            zeros = node.op.xp.zeros(*node.outs[k])
            dys[k] = Tensor(zeros) if create_graph else zeros
        if node.hooks is not None:
            dys[k] = after_hooks(node.hooks.get(k, ()), dys[k])
    return tuple(dys)


def _run_backward(node: Node, dys: tuple[Any, ...], run: Executor, grads: Gradients, create_graph: bool
                  ) -> tuple[dict[str, Any], list[Any]]:
    """One op's backward: what its forward saved, and the gradient of each input in the input's shape, None if not
    wanted."""
    node.check_unchanged()
    op = _on_tensors(node) if create_graph else node.op
    try:
        result = run.backward(op, dys, grads)
        dxs = list(result) if type(result) is tuple else [result]
        if len(dxs) != len(node.inputs):
            raise ValueError(f"{node.op_class.name} gave {len(dxs)} gradients for {len(node.inputs)} inputs")
        for i, (x, need, dx) in enumerate(zip(node.inputs, node.op.needs, dxs)):
            if not need:
                dxs[i] = None
            elif dx is not None and (dx.shape != x._data.shape or dx.dtype is not x._data.dtype):
                dxs[i] = _fitted(node, i, x._data, dx)
    except Exception as error:
        error.add_note(f"in backward of {node}, dy {errors.shapes(dys)}")
        raise
    return op.saved, dxs


def _on_tensors(node: Node) -> Op:
    """The op run forward again on Tensors: what it saves is connected to its inputs, and its backward, line for line
    the same, is recorded."""
    if node.op_class.fused:
        raise ValueError(
            f"{node.op_class.name} is a fused op: its backward cannot be differentiated again. Record the primitives "
            f"it is composed of with `with mg.unfused():` around the forward (made at {node.created_at})"
        )
    op = node.op_class()
    op.xp, op.needs = tensor_functions, node.op.needs
    op.forward(*node.inputs, **node.static)
    return op


def _fitted(node: Node, i: int, x: Any, dx: Any) -> Any:
    """dx in the shape of x: summed over the axes along which x was broadcast. Anything else is a bug of the op."""
    if dx.dtype != x.dtype:
        raise TypeError(f"{node.op_class.name} gave input {i} a gradient of dtype {dx.dtype}, the input is {x.dtype}")
    if dx.shape == x.shape:
        return dx
    if not node.op_class.broadcasts:
        raise ValueError(f"{node.op_class.name} gave input {i} a gradient of shape {dx.shape}, the input is {x.shape}")
    return unbroadcast(dx, x.shape)


def unbroadcast(dx: Any, shape: tuple[int, ...]) -> Any:
    """Sum dx, an array or a Tensor, over the axes that broadcasting added to `shape` or stretched: the gradients of
    copies add up."""
    extra = dx.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, dx.shape[extra:])):
        raise ValueError(f"a gradient of shape {dx.shape} does not come from broadcasting an input of shape {shape}")
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n != dx.shape[i + extra])
    return dx.sum(axis=axes).reshape(shape)


def after_hooks(hooks: Iterable[Hook], g: Any) -> Any:
    """The gradient g, or what hooks put in its place."""
    for hook in hooks:
        changed = hook(g)
        g = g if changed is None else changed
    return g


def accumulate(leaf: "Tensor", g: Any) -> None:
    """Add g, an array that nothing else refers to, to the leaf's `.grad`, after the leaf's hooks."""
    if leaf.hooks:
        g = after_hooks(leaf.hooks, g).copy()      # a hook may have kept it
    leaf.grad = g if leaf.grad is None else leaf.xp.asarray(leaf.grad + g)


def backward(y: "Tensor", dy: Any = None, *, retain_graph: bool = False) -> None:
    """Run the whole walk. If it fails or is interrupted, the `.grad` of every leaf is as it was before."""
    before: list[tuple[Tensor, Any]] = []

    def deliver(leaf: Tensor, g: Any) -> None:
        before.append((leaf, leaf.grad))
        accumulate(leaf, g)

    try:
        deque(walk(y, errors.first_gradient(y, dy), retain_graph=retain_graph, deliver=deliver), maxlen=0)
    except BaseException:
        for leaf, grad in before:
            leaf.grad = grad
        raise


from minigrad.tensor import Tensor, operands  # noqa: E402  (the one circle: apply makes Tensors, their operators call it)
