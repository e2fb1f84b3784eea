"""The tape: `apply` runs an op forward and records it as a node; `walk` runs the backwards of the nodes, newest first.

A node refers to its inputs and not to its outputs, so a graph has no cycles and is freed by reference counting, without
the garbage collector. An executor, see minigrad/executor.py, runs the ops and stores the gradients of a backward pass.
"""
from collections import deque
from types import CodeType
from typing import Any, Callable, Iterable, Iterator

from minigrad import changes, device, errors
from minigrad.arrays import constants
from minigrad.call_site import call_site, line_of
from minigrad.executor import TEXTBOOK, Executor, Gradients, executor_of
from minigrad.modes import mode, module_path
from minigrad.ops.op import Op, decomposition
from minigrad.ops.sums import run

Hook = Callable[[Any], Any]
Deliver = Callable[["Tensor", Any], None]       # takes a leaf and its whole gradient

tensor_functions: Any = None                    # the module minigrad.functional, which sets it
backward_steps: Callable[..., Iterator[Any]]    # minigrad.step.step.backward_steps: that module sets it


class Node:
    """One recorded call of an op."""
    __slots__ = ("op_class", "op", "inputs", "static", "seq", "outs", "site", "module", "hooks", "retained", "used")

    def __init__(self, op_class: type[Op], op: Op, inputs: tuple[Any, ...], static: dict[str, Any],
                 site: tuple[CodeType, int]) -> None:
        self.op_class = op_class                # the textbook op
        self.op: Any = op                       # the implementation that ran, with its saved values; None once freed
        self.inputs = inputs                    # Tensors and Python numbers
        self.static = static                    # the keyword arguments
        self.seq = changes.clock()              # larger than that of all nodes it depends on
        self.outs: list[Any] | None = None      # shape and dtype of each output, for an op with several
        self.site = site                        # the user's call: code object and instruction
        self.module = module_path.get()         # path of the nn.Module whose forward called the op: "h.0.attn"
        self.hooks: dict[int, list[Hook]] | None = None     # output number -> hooks on its gradient
        self.retained: dict[int, Any] | None = None         # output number -> weak reference to its Tensor
        self.used = False                       # its backward has begun and may have overwritten its saved values

    @property
    def created_at(self) -> str:
        """The user's line that called the op: "train.py:41"."""
        return line_of(*self.site)

    def check_unchanged(self, inputs: Iterable[Any], advice: str = errors.MIXED) -> None:
        """Raise ValueError if the data of one of the node's inputs has changed since the forward: see Tensor.data."""
        if changes.latest < self.seq:
            return
        for x in inputs:
            if isinstance(x, Tensor) and device.is_array(x._data) and changes.changed_since(x._data, self.seq):
                raise errors.changed(x, self, advice)

    def check_unused(self) -> None:
        """ValueError if a backward has used the node and may have overwritten its saved values."""
        if self.used:
            raise ValueError(f"this graph was freed by an earlier backward ({self.op_class.name}, {self.created_at}): "
                             "run the forward again, or give the first backward retain_graph=True")

    def rerun(self) -> tuple[Any, ...]:
        """Run the forward again, by the implementation that ran. Returns a tuple of the output arrays."""
        self.check_unchanged(self.inputs)
        op = type(self.op)()
        op.xp, op.needs = self.op.xp, self.op.needs
        arrays = errors.to_one_dtype(self.op_class, [getattr(x, "_data", x) for x in self.inputs])
        y = run(op, op.forward, arrays, self.static)
        return tuple(op.xp.asarray(a) for a in (y if type(y) is tuple else (y,)))

    def free(self) -> None:
        """Drop the references to everything that the backward needs."""
        self.op, self.inputs, self.static = None, (), {}

    def __repr__(self) -> str:
        return _call_name(self.op_class, self.module, self.site)


def _call_name(op_class: type[Op], module: str, site: tuple[CodeType, int]) -> str:
    return f"{op_class.name}{f' in {module}' if module else ''} at {line_of(*site)}"


# ---- forward --------------------------------------------------------------------------------------------------------

def apply(op_class: type[Op], *inputs: Any, **static: Any) -> Any:
    """Run an op, a subclass of Op, on Tensors, arrays and numbers: `y = apply(MyOp, x, w, axis=1)`. Record it if an
    input requires a gradient, unless inside `no_grad`. Keyword arguments have no gradient.

    Scalars, Python's and NumPy's, take the dtype of the arrays. Integer arrays are cast to the dtype of floating ones.
    Returns a Tensor, or a tuple of Tensors for an op with several outputs. TypeError for two floating dtypes,
    ValueError for two devices. An error of the op gets a note with the op's name, the shapes and the user's line.
    """
    recording, plain, unfused, detect_nan, _ = mode()
    if unfused and op_class.fused:
        return decomposition(op_class)(tensor_functions, *operands(op_class, inputs), **static)
    array_type: Any = None
    dtype: Any = None
    arrays, needs, mixed = [], [], False        # needs: which inputs get a gradient in backward
    for x in inputs:
        if isinstance(x, Tensor):
            a = x._data
            if array_type is None:
                array_type, dtype = type(a), a.dtype
            elif a.dtype is not dtype or type(a) is not array_type:
                mixed = True
            arrays.append(a)
            needs.append(recording and x._requires_grad)
        elif type(x) is float or type(x) is int:
            arrays.append(x)
            needs.append(False)
        else:                                   # an array, a list, a NumPy scalar
            return apply(op_class, *operands(op_class, inputs), **static)
    if array_type is None:                      # only Python numbers
        if not inputs:
            raise ValueError(f"{op_class.name}: needs at least one array")
        return apply(op_class, Tensor(inputs[0]), *inputs[1:], **static)

    executor, recorded = executor_of(array_type, plain), True in needs
    try:
        if mixed:
            arrays = errors.to_one_dtype(op_class, arrays)
        if static:
            static = constants(op_class.name, static, copy=recorded)
        op, y = executor.forward(op_class, arrays, static, needs)
        if type(y) is not array_type:           # several outputs, a NumPy scalar, or a mistake
            y = errors.outputs(op, y)
    except Exception as error:
        clearer = errors.clearer_error(error, op_class, arrays, static, inputs)
        name = getattr(op_class, "name", op_class)
        clearer.add_note(f"in forward of {name} on {errors.shapes(arrays)}, called at {line_of(*call_site())}")
        if clearer is error:
            raise
        raise clearer from error
    if detect_nan:
        call = _call_name(op_class, module_path.get(), call_site())
        errors.check_finite(f"forward of {call}", y if type(y) is tuple else (y,), arrays)
    node = Node(op_class, op, executor.retain(op, inputs), static, call_site()) if recorded else None
    if type(y) is not tuple:
        return Tensor.output(y, node, 0)
    if node is not None:
        node.outs = [(a.shape, a.dtype) for a in y]
    return tuple([Tensor.output(a, node, i) for i, a in enumerate(y)])


# ---- backward -------------------------------------------------------------------------------------------------------

class Visit:
    """One node's backward, just after it ran and before its results are added to the gradients of its inputs.

    dy is the gradient of the output (a tuple for an op with several outputs). dxs is a list with the gradient of each
    input, None for an input that needs none. Its entries may be replaced: they are added when the iterator advances.
    The arrays are read-only, as several gradients may share one array.
    """
    __slots__ = ("index", "node", "op_class", "inputs", "static", "ran", "saved", "dy", "dxs", "_grads", "__weakref__")

    def __init__(self, index: int, node: Node, saved: dict[str, Any], dys: tuple[Any, ...], dxs: list[Any],
                 grads: Gradients) -> None:
        self.index = index
        self.node = node
        self.op_class, self.inputs, self.static = node.op_class, node.inputs, node.static
        self.ran = node.op                      # the implementation that ran: the op, or a kernel
        self.saved = saved                      # name -> value that the forward saved
        self.dy = tuple(map(device.read_only, dys)) if len(dys) > 1 else device.read_only(dys[0])
        self.dxs = list(map(device.read_only, dxs))
        self._grads = grads

    @property
    def earlier(self) -> list[Any]:
        """For each input, the partial gradient: the sum of what earlier steps computed, to which its entry of dxs will
        be added; None if there is none. Valid only until the iterator advances."""
        return [self._grads.get(x.key) if need else None for x, need in zip(self.inputs, self.ran.needs)]


def walk(y: "Tensor", dy: Any, *, retain_graph: bool = False, create_graph: bool = False,
         watched: type[Visit] | None = None, deliver: Deliver | None = None) -> Iterator[Any]:
    """The backward loop. For each node that y depends on, from the newest to the oldest: take the gradients of its
    outputs, run its backward, and add the results to the gradients of its inputs. All nodes that use a node's outputs
    are newer than it, so these gradients are complete when its backward runs.

    dy: the gradient of y, an array. deliver: called with each leaf, and each Tensor of retain_grad, and its whole
    gradient, by default `accumulate`.
    watched: Visit or a subclass; one is yielded for each node with a gradient. create_graph: the gradients are recorded
    Tensors. Each node is freed after its turn unless retain_graph.
    """
    deliver, detect_nan = deliver or accumulate, mode().detect_nan
    executor = TEXTBOOK if create_graph else executor_of(type(y._data), mode().plain)
    grads = executor.gradients(exclusive=watched is None and not retain_graph)
    grads.add(y.key, Tensor(dy) if create_graph else dy)
    if y.node is None:                          # y is a leaf
        deliver(y, grads.pop_leaf(y.key))
        return
    nodes, uses_left = collect(y.node)
    if watched or create_graph or detect_nan:   # these read the inputs of the nodes
        executor.rematerialize(nodes)
    saved: Any
    dxs: Any
    visit: Any
    for index, seq in enumerate(sorted(nodes, reverse=True)):
        node = nodes.pop(seq)
        node.check_unused()                     # another backward may have run since this one began
        node.used = not retain_graph
        dys = _output_gradients(node, grads, create_graph, deliver)
        if dys is None:                         # no gradient reached its outputs
            dxs = [None] * len(node.inputs)
        else:
            saved, dxs = _run_backward(node, dys, executor, grads, create_graph)
            if detect_nan:
                errors.check_finite(f"backward of {node}", dxs, dys + node.inputs)
            if watched:
                visit = watched(index, node, saved, dys, dxs, grads)
                shown = list(visit.dxs)
                yield visit
                dxs = [dx if new is old else new if new is None else errors.replacement(new, dx, "a step")
                       for new, old, dx in zip(visit.dxs, shown, dxs, strict=True)]
        for x, need, dx in zip(node.inputs, node.op.needs, dxs):
            if not need:
                continue
            key = x.key
            if dx is not None:
                grads.add(key, dx)
            if x.node is None:                  # x is a leaf
                uses_left[key] -= 1
                if uses_left[key] == 0 and (g := grads.pop_leaf(key)) is not None:
                    deliver(x, g)               # its gradient is complete
        if not retain_graph:
            node.free()
        x = dx = g = dys = dxs = saved = visit = None       # so that these arrays are freed before the next backward


def collect(root: Node) -> tuple[dict[int, Node], dict[Any, int]]:
    """The nodes that root depends on, and root, by seq; and how often these nodes use each leaf, by the leaf's key.
    ValueError for a graph that was freed."""
    nodes: dict[int, Node] = {root.seq: root}
    uses: dict[Any, int] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        node.check_unused()
        for x, need in zip(node.inputs, node.op.needs):
            if not need:
                continue
            if x.node is None:
                uses[x.key] = uses.get(x.key, 0) + 1
            elif x.node.seq not in nodes:
                nodes[x.node.seq] = x.node
                stack.append(x.node)
    return nodes, uses


def _output_gradients(node: Node, grads: Gradients, create_graph: bool, deliver: Deliver) -> tuple[Any, ...] | None:
    """The whole gradient of each output, after its hooks. If some outputs have no gradient, theirs is zeros; if none
    has one, the result is None. deliver: called with each Tensor of retain_grad and its gradient."""
    if node.outs is None and node.hooks is None and node.retained is None:      # the usual case: one output, no hook
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
        t = node.retained[k]() if node.retained and k in node.retained else None
        if t is not None:
            deliver(t, dys[k] if create_graph else dys[k].copy())
    return tuple(dys)


def _run_backward(node: Node, dys: tuple[Any, ...], executor: Executor, grads: Gradients, create_graph: bool
                  ) -> tuple[dict[str, Any], list[Any]]:
    """Run one op's backward. Returns the values that its forward saved, and the gradient of each input in the input's
    shape, None for an input that needs none."""
    node.check_unchanged(node.inputs)
    op = node.op
    try:
        if create_graph:
            op = _on_tensors(node)
        result, kind = executor.backward(op, dys, grads), type(dys[0])
        dxs = list(result) if type(result) is tuple else [result]
        if len(dxs) != len(node.inputs):
            raise ValueError(f"{node.op_class.name}: {errors.wrong_count(node.op_class, result, len(node.inputs))}")
        for i, (x, need, dx) in enumerate(zip(node.inputs, node.op.needs, dxs)):
            if not need:
                dxs[i] = None
            elif type(dx) is not kind or dx.shape != x._data.shape or dx.dtype is not x._data.dtype:
                dxs[i] = errors.fitted(node.op_class, node.inputs, i, dx, kind)
    except Exception as error:
        clearer = errors.clearer_backward_error(error, op, dys)
        clearer.add_note(f"in backward of {node}, dy {errors.shapes(dys)}")
        if create_graph and isinstance(error, TypeError):
            clearer.add_note(errors.ON_TENSORS)
        if clearer is error:
            raise
        raise clearer from error
    return op.saved, dxs


def _on_tensors(node: Node) -> Op:
    """The node's op, its forward run again on Tensors: its saved values are then Tensors that depend on the inputs, and
    its backward, the same code, is recorded."""
    if node.op_class.fused:
        decomposition(node.op_class, f"; the op was called at {node.created_at}")
        raise ValueError(
            f"{node.op_class.name} is a fused op: its backward cannot be differentiated again. Record the primitives "
            f"it is composed of: put `with mg.unfused():` around the forward, called at {node.created_at}"
        )
    op = node.op_class()
    op.xp, op.needs = tensor_functions, node.op.needs
    op.forward(*node.inputs, **node.static)
    return op


def after_hooks(hooks: Iterable[Hook], g: Any) -> Any:
    """Call the hooks one after the other with the gradient g; what one returns replaces g. Returns the last g."""
    for hook in hooks:
        g = errors.replacement(hook(device.read_only(g)), g)
    return g


def accumulate(leaf: "Tensor", g: Any) -> None:
    """Call the leaf's hooks with g, an array that nothing else refers to, then add it to the leaf's `.grad`."""
    if leaf.hooks:
        g = after_hooks(leaf.hooks, g).copy()   # a hook may have kept a reference
    if (before := errors.gradient_of(leaf)) is not None:
        g += before                             # the sum is a new .grad: the one before stays as it is
    leaf.grad = g


def backward(y: "Tensor", dy: Any = None, *, retain_graph: bool = False, deliver: Deliver = accumulate) -> None:
    """Run `walk` to its end. If it fails or is interrupted, the `.grad` of every leaf is as it was before."""
    before: list[tuple[Tensor, Any]] = []

    def undoable(leaf: Tensor, g: Any) -> None:
        before.append((leaf, leaf.grad))
        deliver(leaf, g)

    try:
        deque(walk(y, errors.first_gradient(y, dy), retain_graph=retain_graph, deliver=undoable), maxlen=0)
    except BaseException:
        for leaf, grad in before:
            leaf.grad = grad
        raise


from minigrad.tensor import Tensor, operands  # noqa: E402  (circular: apply makes Tensors, whose operators call apply)
