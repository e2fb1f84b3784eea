"""The tape: what `apply` records going forward, `backward_steps` undoes, one node at a time, going back.

Nodes run in decreasing order of creation: the backward undoes the forward line by line. A node knows its inputs and not
its output, so a graph has no cycles, and its memory goes as soon as nobody holds it.
"""
import contextlib
import inspect
import itertools
import math
import os
import sys
import textwrap
from collections import deque
from contextvars import ContextVar
from types import CodeType
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple

import numpy as np

from minigrad import device
from minigrad.kernels import pool
from minigrad.ops.op import Op, input_names

if TYPE_CHECKING:
    from minigrad.gradcheck import Report
    from minigrad.step.explain import Why
    from minigrad.step.formula import Formula
    from minigrad.step.line_trace import Line
    from minigrad.tensor import Tensor

Hook = Callable[[Any], Any]
Deliver = Callable[[Any, Any, bool], None]      # leaf, its whole gradient, whether that array may be kept

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_EXAMPLES = os.path.join(_PACKAGE, "step", "examples.py")       # a user's code, though it lives in this package
_tensor: Any = None                     # the class Tensor; tensor.py puts it here, the one name that comes from above
clock = itertools.count(1).__next__     # numbers nodes, and changes of parameters, in the order in which they happen


# ---- modes: per thread, nested, restored on the way out ------------------------------------------------------------

class Mode(NamedTuple):
    grad: bool = True
    plain: bool = False
    unfused: bool = False
    detect_nan: bool = False


_MODE: ContextVar[Mode] = ContextVar("mode", default=Mode(plain=os.environ.get("MINIGRAD_PLAIN", "0") != "0"))
module_path: ContextVar[str] = ContextVar("module_path", default="")    # of the nn.Module whose forward is running


@contextlib.contextmanager
def _switch(**changes: bool) -> Iterator[None]:
    token = _MODE.set(_MODE.get()._replace(**changes))
    try:
        yield
    finally:
        _MODE.reset(token)


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Record nothing: `with no_grad():`, for evaluation and sampling."""
    return _switch(grad=False)


def plain() -> contextlib.AbstractContextManager[None]:
    """Run the textbook ops, not the kernels that may stand in for them. MINIGRAD_PLAIN=1 in the environment does so for
    a whole program."""
    return _switch(plain=True)


def unfused() -> contextlib.AbstractContextManager[None]:
    """Put the composed twins of fused ops on the tape: every step inside attention becomes a node of its own, and
    gradients of gradients go through."""
    return _switch(unfused=True)


def detect_nan() -> contextlib.AbstractContextManager[None]:
    """Stop with FloatingPointError at the first NaN, or the first infinity that the op's inputs did not have, forward
    or backward. Waits for the device after every op."""
    return _switch(detect_nan=True)


# ---- forward --------------------------------------------------------------------------------------------------------

class Node:
    """One recorded call of an op."""
    __slots__ = ("op_class", "op", "inputs", "static", "seq", "outs", "site", "module", "hooks")

    def __init__(self, op_class: type[Op], op: Op, inputs: tuple[Any, ...], static: dict[str, Any], outs: Any) -> None:
        self.op_class = op_class                # the textbook op
        self.op: Any = op                       # what ran, the op or a kernel, with what it saved; None once freed
        self.inputs = inputs                    # Tensors and Python numbers
        self.static = static                    # the keyword arguments
        self.seq = clock()
        self.outs = outs                        # of an op of several outputs: shape and dtype of each; else None
        self.site = _call_site()                # the user's call: code object and instruction
        self.module = module_path.get()         # path of the nn.Module that made it: "h.0.attn"
        self.hooks: dict[int, list[Hook]] | None = None     # output number -> functions of its gradient

    @property
    def created_at(self) -> str:
        """The user's line that made this node: "train.py:41"."""
        return _line(*self.site)

    def free(self) -> None:
        """Let go of what was kept for the backward."""
        self.op, self.inputs, self.static = None, (), {}

    def __repr__(self) -> str:
        return f"{self.op_class.name}{_in_module(self.module)} at {self.created_at}"


def _in_module(path: str) -> str:
    return f" in {path}" if path else ""


def _call_site() -> tuple[CodeType, int]:
    """The nearest caller outside this package."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE) and (
            frame.f_code.co_filename != _EXAMPLES):
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def _line(code: CodeType, instruction: int) -> str:
    line = next((line for start, end, line in code.co_lines() if start <= instruction < end), None)
    return f"{code.co_filename.removeprefix(os.getcwd() + os.sep)}:{line}"


def apply(op_class: type[Op], *inputs: Any, **static: Any) -> Any:
    """Run an op on Tensors, arrays and numbers, and record it if a gradient is wanted.

    Numbers (Python's and NumPy's scalars) are weak: they take the dtype of the arrays. Integer arrays beside floating
    ones are cast. Returns a Tensor, or a tuple of Tensors for an op of several outputs. Raises TypeError for two
    floating dtypes, ValueError for two devices; what the op itself raises gets a note with op, shapes and user's line.
    """
    recording, textbook, composed, checking = _MODE.get()
    if composed and op_class.fused:
        from minigrad import functional
        return op_class.composed(functional, *_operands(op_class, inputs), **static)
    kind = None
    dtype: Any = None
    arrays, needs, mixed, users = [], [], False, False
    for x in inputs:
        if isinstance(x, _tensor):
            a = x._data
            if kind is None:
                kind, dtype = type(a), a.dtype
            elif a.dtype is not dtype or type(a) is not kind:
                mixed = True
            arrays.append(a)
            needs.append(x.requires_grad)
            if x.out < 0 and not x.requires_grad:
                users = True                    # who may change the array when the op is done
        elif type(x) is float or type(x) is int:
            arrays.append(x)
            needs.append(False)
        else:
            return apply(op_class, *_operands(op_class, inputs), **static)
    if kind is None:
        if not inputs:
            raise ValueError(f"{op_class.name}: needs at least one array")
        return apply(op_class, _tensor(inputs[0]), *inputs[1:], **static)

    kernel = None if textbook else op_class.kernels.get(kind)
    if kernel is None or dtype.char not in kernel.dtypes or getattr(arrays[0], "size", 1) < kernel.least:
        kernel = op_class
    op = kernel()
    op.xp = xp = np if kind is np.ndarray else device.BACKENDS[kind].xp
    op.needs = needs if recording else [False] * len(needs)
    try:
        if kernel is op_class:
            pool.wait()
        if mixed:
            arrays = _reconcile(op_class, inputs)
        y = op.forward(*arrays, **static)
        if users:
            pool.wait()
    except Exception as error:
        better = _explained(error, op_class, arrays, static)
        better.add_note(f"in forward of {op_class.name} on {_shapes(arrays)}, called at {_line(*_call_site())}")
        if better is error:
            raise
        raise better from error
    if checking:
        where = f"{op_class.name}{_in_module(module_path.get())} at {_line(*_call_site())}"
        _stop_at_bad(f"forward of {where}", y if type(y) is tuple else (y,), arrays)
    recorded = recording and True in needs
    if recorded and op.forgets:
        inputs = _without(inputs, op.forgets)
    if type(y) is tuple:
        shapes = [(a.shape, a.dtype) for a in y]
        node = Node(op_class, op, inputs, static, shapes) if recorded else None
        return tuple([_output(a if type(a) is kind else xp.asarray(a), node, i) for i, a in enumerate(y)])
    node = Node(op_class, op, inputs, static, None) if recorded else None
    return _output(y if type(y) is kind else xp.asarray(y), node, 0)


class Forgotten(NamedTuple):
    """In the place of an array that no backward needs: `remember` makes it again for whoever looks."""
    shape: tuple[int, ...]
    dtype: Any


def _without(inputs: tuple[Any, ...], forgets: tuple[int, ...]) -> tuple[Any, ...]:
    """The inputs of a node that lets go of the arrays of some: of those that another node made."""
    kept = list(inputs)
    for i in forgets:
        x = inputs[i]
        if isinstance(x, _tensor) and x.requires_grad and x.node is not None:
            kept[i] = _output(Forgotten(x._data.shape, x._data.dtype), x.node, x.out)
    return tuple(kept)


def remember(nodes: dict[int, Node]) -> None:
    """Give the inputs of nodes the arrays that were forgotten: what made them runs again, which gives the same bits."""
    made: dict[int, Any] = {}
    for seq in sorted(nodes):
        for x in nodes[seq].inputs:
            if isinstance(x, _tensor) and type(x._data) is Forgotten:
                if x.node.seq not in made:
                    made[x.node.seq] = _again(x.node)
                x._data = made[x.node.seq][x.out]


def _again(node: Node) -> tuple[Any, ...]:
    """The outputs of a node, made again."""
    _unchanged(node)
    op = type(node.op)()
    op.xp, op.needs = node.op.xp, node.op.needs
    y = op.forward(*_reconcile(node.op_class, node.inputs), **node.static)
    pool.wait()
    return tuple(op.xp.asarray(a) for a in (y if type(y) is tuple else (y,)))


def is_plain() -> bool:
    """Whether kernels are switched off here."""
    return _MODE.get().plain


def implementation(op_class: type[Op], array: Any) -> type[Op]:
    """What runs for an array: a kernel, or the op itself."""
    kernel = None if is_plain() else op_class.kernels.get(type(array))
    return op_class if kernel is None or array.dtype.char not in kernel.dtypes else kernel


def _output(array: Any, node: Node | None, out: int) -> "Tensor":
    t = _tensor.__new__(_tensor)
    t._data = array
    t.node = node
    t.out = out
    t.requires_grad = node is not None
    t.grad = t.hooks = t._buffer = None
    t.version = 0
    return t


def _operands(op_class: type[Op], inputs: tuple[Any, ...]) -> list[Any]:
    """The inputs as Tensors, floats and ints."""
    found = []
    for x in inputs:
        if isinstance(x, np.generic):
            x = x.item()
        if isinstance(x, (int, float)):         # bool is an int, float64 a float
            found.append(float(x) if isinstance(x, float) else int(x))
        elif isinstance(x, _tensor):
            found.append(x)
        else:
            try:
                found.append(_tensor(x))
            except (TypeError, ValueError) as error:
                error.add_note(f"as an input of {op_class.name}")
                raise
    return found


def _reconcile(op_class: type[Op], inputs: tuple[Any, ...]) -> list[Any]:
    """The arrays in one floating dtype and on one device, or an error that says what to do."""
    arrays = [x._data if isinstance(x, _tensor) else x for x in inputs]
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


def _shapes(arrays: Any) -> str:
    return ", ".join(str(getattr(a, "shape", a)) for a in arrays)


def _explained(error: Exception, op_class: type[Op], arrays: list[Any], static: dict[str, Any]) -> Exception:
    """The error itself, or one that says what is on another device, no array, or of shapes that do not broadcast."""
    if isinstance(error, AttributeError) and not all(hasattr(a, "shape") for a in arrays):
        return TypeError(f"{op_class.name}: got a number where it needs an array: ({_shapes(arrays)})")
    here = next(device.name(a) for a in arrays if device.is_array(a))
    for name, value in static.items():
        for a in value if isinstance(value, tuple) else (value,):
            if device.is_array(a) and device.name(a) not in ("cpu", here):
                return ValueError(
                    f"{op_class.name}: {name} lives on {device.name(a)}, the input on {here}: move one of them"
                )
    if not op_class.broadcasts:
        return error
    shapes = [a.shape for a in arrays if hasattr(a, "shape")]
    try:
        np.broadcast_shapes(*shapes)
        return error
    except ValueError:
        return ValueError(
            f"{op_class.name}: shapes {' and '.join(map(str, shapes))} do not broadcast: counted from the "
            "last, axes must be equal or 1; reshape, transpose or expand_dims one of them"
        )


def _stop_at_bad(where: str, results: Any, given: Any) -> None:
    """Raise FloatingPointError if the results hold a NaN, or an infinity that nothing given had."""
    pool.wait()
    results, given = ([getattr(x, "_data", x) for x in xs] for xs in (results, given))

    def infinite(x: Any) -> bool:
        return math.isinf(x) if isinstance(x, (int, float)) else bool(device.xp(x).isinf(x).any())

    for r in results:
        if r is None:
            continue
        xp = np if isinstance(r, np.generic) else device.xp(r)
        nans = int(xp.isnan(r).sum())
        if nans or (xp.isinf(r).any() and not any(infinite(x) for x in given)):
            bad = f"{nans} NaN" if nans else f"{int(xp.isinf(r).sum())} infinite"
            raise FloatingPointError(f"{where} made the first bad value: {bad} of {r.size} in an array of shape "
                                     f"{r.shape}; given: {', '.join(map(_range, given))}")


def _range(x: Any) -> str:
    if isinstance(x, (int, float)):
        return str(x)
    return f"{x.shape} in [{float(x.min()):.4g}, {float(x.max()):.4g}]" if x.size else str(x.shape)


# ---- backward -------------------------------------------------------------------------------------------------------

class Step:
    """One node's backward, just after it ran and before its results are added to the gradients of its inputs.

    dy is the gradient of the output (a tuple for an op of several outputs), dxs that of each input, None where none is
    wanted. An entry of dxs may be replaced: what is there when the walk goes on is what flows on.

    What explains the step is worked out when it is asked for, from the node's inputs: the lines, the check and the
    whys run the op again, as the textbook has it. Ask before the optimizer moves the weights.
    """
    __slots__ = ("index", "node", "op_class", "inputs", "static", "ran", "saved", "dy", "dxs", "_flying", "_leaves",
                 "__weakref__")

    def __init__(self, index: int, node: Node, saved: dict[str, Any], dy: Any, dxs: list[Any],
                 flying: dict[int, list[Any]], leaves: dict[int, list[Any]]) -> None:
        self.index = index
        self.node = node
        self.op_class, self.inputs, self.static = node.op_class, node.inputs, node.static
        self.ran = node.op                      # the op, or the kernel, that ran
        self.saved = saved                      # by name: what the forward kept
        self.dy = dy
        self.dxs = dxs
        self._flying, self._leaves = flying, leaves

    @property
    def op(self) -> str:
        """Name of the op: "layer_norm"."""
        return self.op_class.name

    @property
    def name(self) -> str:
        """Where in the model: the path of the module that made the node, or the op's name."""
        return self.node.module or self.op

    @property
    def created_at(self) -> str:
        """The user's forward line: "gpt/model.py:41"."""
        return self.node.created_at

    @property
    def earlier(self) -> list[Any]:
        """For each input the gradient that steps before this one have sent it, to which dxs will be added: an array, or
        None. While the walk stands here; later it has gone on."""
        return [self._sent_to(x) if need else None for x, need in zip(self.inputs, self.ran.needs)]

    def _sent_to(self, x: "Tensor") -> Any:
        if x.node is None:
            return self._leaves[id(x)][0]
        entry = self._flying.get(x.node.seq)
        return entry and entry[2 * x.out]

    @property
    def formula(self) -> str:
        """The op's docstring as mathematics in Unicode: shapes, forward, backward."""
        return _formula(self).text

    @property
    def latex(self) -> str:
        """The equations of the backward in LaTeX."""
        return _formula(self).latex

    @property
    def source(self) -> str:
        """The textbook's backward."""
        return textwrap.dedent(inspect.getsource(self.op_class.backward))

    @property
    def lines(self) -> "list[Line]":
        """The statements of the textbook's backward in the order in which they ran, each with the values it made: it
        is run again. Empty while a debugger holds Python's tracer."""
        from minigrad.step.rerun import Rerun
        rerun = Rerun(self)
        return rerun.trace_backward(rerun.forward()[0])[1].lines

    def check(self, full: bool = False) -> "Report":
        """Hold the gradients of this op alone against finite differences: see minigrad.step.explain.check."""
        from minigrad.step.explain import check
        return check(self, full)

    def why(self, input: str | int, index: Any) -> "Why":
        """One element of an input's gradient as a sum of products: see minigrad.step.explain.why."""
        from minigrad.step.explain import why
        return why(self, input, index)

    def _repr_html_(self) -> str:
        from minigrad.step.page import iframe
        return iframe(self)

    def __repr__(self) -> str:
        dxs = ", ".join(
            f"d{n} {dx.shape}" for n, dx in zip(input_names(self.op_class, len(self.dxs)), self.dxs) if dx is not None
        )
        dy = self.dy if isinstance(self.dy, tuple) else (self.dy,)
        return f"step {self.index}: {self.node}, dy {_shapes(dy)} -> {dxs}"


def _formula(step: Step) -> "Formula":
    from minigrad.step.formula import parse
    return parse(step.op_class)


def backward_steps(y: "Tensor", dy: Any = None, *, until: Any = None, retain_graph: bool = False,
                   deliver: Deliver | None = None) -> Iterator[Step]:
    """The backward, a Step for each node between y and the leaves, newest first.

    dy is the gradient of y: an array of its shape; 1 if y has one element. Pausing the loop pauses the backward. Each
    leaf's whole gradient goes to `deliver(leaf, gradient, False)`, by default added to its `.grad`, once its last
    consumer has run. The graph is freed on the way unless `retain_graph`. `until` is a breakpoint, as
    minigrad.step.breakpoints.stops takes it: only steps at which it stops are yielded.
    """
    walk = _walk(y, _first_gradient(y, dy), retain_graph, False, True, deliver or accumulate)
    if until is None:
        return walk
    from minigrad.step.breakpoints import stops
    return filter(stops(until, y), walk)


def backward(y: "Tensor", dy: Any = None, *, retain_graph: bool = False) -> None:
    """Run all of the walk. Nobody looks at its steps, so kernels may save copies; what comes out has the same bits.
    Where it fails or is interrupted, the first gradients that leaves were given are forgotten: they may be half made.
    """
    given: list[Tensor] = []

    def deliver(leaf: "Tensor", g: Any, ours: bool) -> None:
        accumulate(leaf, g, ours)
        if leaf.grad is g:
            given.append(leaf)

    try:
        with pool.ahead():
            deque(_walk(y, _first_gradient(y, dy), retain_graph, False, False, deliver), maxlen=0)
    except BaseException:
        for leaf in given:
            leaf.zero_grad()
        raise


def _first_gradient(y: "Tensor", dy: Any) -> Any:
    """dy as an array like y's, 1 by default."""
    if not y.requires_grad:
        raise ValueError(f"backward of a Tensor {y.shape} that needs no gradient: no input had requires_grad=True, "
                         "or it was made under no_grad() or by detach()")
    if dy is None:
        if y.size != 1:
            raise ValueError(
                f"backward of a Tensor of shape {y.shape} needs dy, a gradient of the same shape; or reduce "
                "it to one number first, with .sum() or .mean()"
            )
        dy = y.xp.ones_like(y._data)
    if isinstance(dy, _tensor) and dy.device != y.device:
        raise ValueError(f"dy lives on {dy.device}, the Tensor on {y.device}: move it with dy.to({y.device!r})")
    dy = dy._data if isinstance(dy, _tensor) else y.xp.asarray(dy, dtype=y.dtype)
    if dy.shape != y.shape or dy.dtype != y.dtype:
        raise ValueError(
            f"dy has shape {dy.shape} and dtype {dy.dtype}, the Tensor {y.shape} and {y.dtype}: they must agree"
        )
    return dy


def _walk(
    y: "Tensor", dy: Any, retain: bool, create_graph: bool, watched: bool, deliver: Deliver
) -> Iterator[Step]:
    """The only backward loop. Gradients of leaves go to `deliver`; with create_graph all are Tensors on the tape."""
    pool.wait()
    step: Any
    saved: Any
    dys: Any
    dxs: Any
    if create_graph:
        dy = _tensor(dy)
    if y.node is None:
        deliver(y, dy, False)
        return
    nodes, leaves = collect(y.node)
    # gradients in flight: for output k of a node, [2k] the gradient so far and [2k + 1] whether the loop owns it
    flying: dict[int, list[Any]] = {}
    _send(flying, y, dy, create_graph)
    detect_nan = _MODE.get().detect_nan
    if watched or create_graph or detect_nan:
        remember(nodes)
    alone = not watched and not retain          # every array of this walk is ours, and used once
    for index, seq in enumerate(sorted(nodes, reverse=True)):
        node = nodes.pop(seq)
        fresh: tuple[int, ...] = ()
        entry = flying.pop(seq, None)
        if entry is None:                       # nothing flows here: every consumer gave None
            dxs = [None] * len(node.inputs)
        else:
            dys = _gradients_of(node, entry, create_graph)
            if alone and node.op.fresh:
                fresh = _hand_over(node, flying, leaves)
            saved, dxs = _run(node, dys, create_graph)
            if detect_nan:
                _stop_at_bad(f"backward of {node}", dxs, dys + node.inputs)
            if watched:
                pool.wait()
                step = Step(index, node, saved, dys if len(dys) > 1 else dys[0], dxs, flying, leaves)
                yield step
                dxs = step.dxs
        for i, (x, need, dx) in enumerate(zip(node.inputs, node.op.needs, dxs)):
            if not need:
                continue
            if x.node is None:
                leaf = leaves[id(x)]
                if dx is not None:
                    _add(leaf, 0, dx, create_graph, i in fresh)
                leaf[3] -= 1
                if leaf[3] == 0 and leaf[0] is not None:
                    deliver(x, leaf[0], alone and leaf[1])
                    leaf[0] = None
            elif dx is not None:
                _send(flying, x, dx, create_graph, i in fresh)
        if not retain:
            node.free()
        x = dx = dys = dxs = saved = step = entry = None        # hold nothing while the next op runs
    pool.wait()


def collect(root: Node) -> tuple[dict[int, Node], dict[int, list[Any]]]:
    """All nodes that root depends on, by number; and the leaves: [gradient, owned, Tensor, consumers left]."""
    nodes: dict[int, Node] = {root.seq: root}
    leaves: dict[int, list[Any]] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node.op is None:
            raise ValueError(
                f"this graph was freed by an earlier backward ({node.op_class.name}, {node.created_at}): run "
                "the forward again, or give the first backward retain_graph=True"
            )
        for x, need in zip(node.inputs, node.op.needs):
            if not need:
                continue
            if x.node is None:
                leaves.setdefault(id(x), [None, False, x, 0])[3] += 1
            elif x.node.seq not in nodes:
                nodes[x.node.seq] = x.node
                stack.append(x.node)
    return nodes, leaves


def _hand_over(node: Node, flying: dict[int, list[Any]], leaves: dict[int, list[Any]]) -> tuple[int, ...]:
    """Let a kernel do as it likes with what it saved; and give it the gradient so far of the input to which it can add
    its own. Returns the inputs whose gradients are then arrays that nobody else holds."""
    op = node.op
    op.alone = True
    if op.adds is not None and op.needs[op.adds]:
        x = node.inputs[op.adds]
        entry, k = (leaves[id(x)], 0) if x.node is None else (flying.get(x.node.seq), 2 * x.out)
        if entry is not None and entry[k] is not None:
            op.so_far, op.so_far_is_ours = entry[k:k + 2]
            entry[k] = None
    return op.fresh


def _send(flying: dict[int, list[Any]], x: Any, dx: Any, create_graph: bool, fresh: bool = False) -> None:
    """Add to the gradient in flight of x, an output of a node."""
    node = x.node
    entry = flying.get(node.seq)
    if entry is None:
        entry = flying[node.seq] = [None, False] if node.outs is None else [None, False] * len(node.outs)
    _add(entry, 2 * x.out, dx, create_graph, fresh)


def _add(entry: list[Any], k: int, dx: Any, create_graph: bool, fresh: bool) -> None:
    """The first contribution is borrowed, unless it is fresh, the second allocates, later ones are added in place; on
    Tensors none is."""
    if entry[k] is None:
        entry[k], entry[k + 1] = dx, fresh
        return
    pool.wait()
    if entry[k + 1]:
        entry[k] += dx
    else:
        entry[k] = entry[k] + dx
        entry[k + 1] = not create_graph


def _gradients_of(node: Node, entry: list[Any], create_graph: bool) -> tuple[Any, ...]:
    """The whole gradient of each output, through its hooks; zeros for an output that nothing used."""
    if node.outs is None and node.hooks is None and (entry[0].shape or create_graph):
        return entry[0],
    dys = entry[::2]
    for k, dy in enumerate(dys):
        if dy is None:
            zeros = node.op.xp.zeros(*node.outs[k])
            dys[k] = _tensor(zeros) if create_graph else zeros
        elif not dy.shape and not create_graph:
            dys[k] = node.op.xp.asarray(dy)     # a sum of 0-d arrays is a scalar in NumPy
        if node.hooks is not None:
            dys[k] = _through(node.hooks.get(k, ()), dys[k])
    return tuple(dys)


def _run(node: Node, dys: tuple[Any, ...], create_graph: bool) -> tuple[dict[str, Any], list[Any]]:
    """One op's backward: what it had saved, and the gradient of each input in the input's shape, None if not wanted."""
    _unchanged(node)
    op = _differentiable(node) if create_graph else node.op
    try:
        if type(op) is node.op_class:
            pool.wait()
        result = op.backward(*dys, **op.saved)
        dxs = list(result) if type(result) is tuple else [result]
        if len(dxs) != len(node.inputs):
            raise ValueError(f"{node.op_class.name} gave {len(dxs)} gradients for {len(node.inputs)} inputs")
        for i, (x, need) in enumerate(zip(node.inputs, node.op.needs)):
            dx = dxs[i]
            if not need:
                dxs[i] = None
            elif dx is not None and (dx.shape != x._data.shape or dx.dtype is not x._data.dtype):
                dxs[i] = _fitted(node, i, x._data, dx)
    except Exception as error:
        error.add_note(f"in backward of {node}, dy {_shapes(dys)}")
        raise
    return op.saved, dxs


def _unchanged(node: Node) -> None:
    """ValueError for a node whose inputs have other numbers now."""
    for x in node.inputs:
        if isinstance(x, _tensor) and x.version > node.seq:
            raise ValueError(f"{getattr(x, 'name', '') or 'a Tensor'} {x.shape} was changed after {node} had used it: "
                             "backward would mix old and new values; run the forward again first")


def _differentiable(node: Node) -> Op:
    """The op run forward again on Tensors, in minigrad's own namespace: what it saves is connected to its inputs, and
    its backward, line for line the same, records what it does."""
    from minigrad import functional
    if node.op_class.fused:
        raise ValueError(
            f"{node.op_class.name} is a fused op: its backward cannot be differentiated again. Put its "
            f"composed twin on the tape with `with mg.unfused():` around the forward (made at {node.created_at})"
        )
    op = node.op_class()
    op.xp, op.needs = functional, node.op.needs
    op.forward(*node.inputs, **node.static)
    return op


def _fitted(node: Node, i: int, x: Any, dx: Any) -> Any:
    """dx in the shape of x: summed over the axes that x was broadcast along. Anything else is a bug of the op."""
    if dx.dtype != x.dtype:
        raise TypeError(f"{node.op_class.name} gave input {i} a gradient of dtype {dx.dtype}, the input is {x.dtype}")
    if dx.shape == x.shape:
        return dx
    if not node.op_class.broadcasts:
        raise ValueError(f"{node.op_class.name} gave input {i} a gradient of shape {dx.shape}, the input is {x.shape}")
    pool.wait()
    return unbroadcast(dx, x.shape)


def unbroadcast(dx: Any, shape: tuple[int, ...]) -> Any:
    """Sum dx over the axes that broadcasting added to `shape` or stretched: a copy's gradients add up. dx: array or
    Tensor."""
    extra = dx.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, dx.shape[extra:])):
        raise ValueError(f"a gradient of shape {dx.shape} does not come from broadcasting an input of shape {shape}")
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n != dx.shape[i + extra])
    return dx.sum(axis=axes).reshape(shape)


def _through(hooks: Any, g: Any) -> Any:
    for hook in hooks:
        pool.wait()
        changed = hook(g)
        g = g if changed is None else changed
    return g


def accumulate(leaf: "Tensor", g: Any, ours: bool = False) -> None:
    """Add to the leaf's `.grad`, after its hooks; an array of ours becomes it, another is copied to the leaf's own
    buffer, which lives as long as the leaf."""
    if leaf.hooks:
        g, ours = _through(leaf.hooks, g), False
    if leaf.grad is None and ours:
        leaf.grad, leaf._buffer = g, None
        return
    pool.wait()
    if leaf.grad is not None:
        leaf.grad += g
    else:
        if leaf._buffer is None:
            leaf._buffer = leaf.xp.empty_like(leaf._data)
        leaf._buffer[...] = g
        leaf.grad = leaf._buffer


def grad(y: "Tensor", xs: Any, *, create_graph: bool = False, retain_graph: bool = False) -> Any:
    """Gradients of y (one element) with respect to xs, a Tensor or a sequence of them, as new Tensors; `.grad` is left
    alone. An x that y does not depend on gets zeros. With `create_graph` the gradients can be differentiated again.
    """
    single = isinstance(xs, _tensor)
    wanted = [xs] if single else list(xs)
    for i, x in enumerate(wanted):
        if not isinstance(x, _tensor) or not x.requires_grad:
            raise ValueError(f"xs[{i}] needs no gradient: make it with Tensor(array, requires_grad=True)")
    found: dict[int, Any] = {}
    hooked = []
    try:
        for x in wanted:
            if x.node is not None:
                hook = lambda g, key=id(x): found.__setitem__(key, g)
                x.register_hook(hook)
                hooked.append((x, hook))
        with pool.ahead():
            deque(_walk(y, _first_gradient(y, None), retain_graph or create_graph, create_graph, False,
                        lambda leaf, g, _: found.__setitem__(id(leaf), _through(leaf.hooks or (), g))), maxlen=0)
    finally:
        for x, hook in hooked:
            x.node.hooks[x.out].remove(hook)
    grads = []
    for x in wanted:
        g = found.get(id(x))
        g = x.xp.zeros_like(x._data) if g is None else g
        grads.append(g if isinstance(g, _tensor) else _tensor(g.copy()))
    return grads[0] if single else grads


def hvp(f: Callable[..., Any], xs: Any, vs: Any) -> Any:
    """Hessian-vector product: the gradient of (gradient of f at xs) . vs, with xs and vs Tensors or sequences of them,
    f(*xs) a Tensor of one element. Fused ops in f need `with mg.unfused():` around the call."""
    single = isinstance(xs, _tensor)
    points, directions = ([xs], [vs]) if single else (list(xs), list(vs))
    if len(points) != len(directions) or any(x.shape != v.shape for x, v in zip(points, directions)):
        raise ValueError(
            f"hvp needs one v of the same shape for each x, got xs {_shapes(points)} and vs {_shapes(directions)}"
        )
    slope: Any = 0.0
    for g, v in zip(grad(f(*points), points, create_graph=True), directions):
        slope = slope + (g * v).sum()
    if not slope.requires_grad:                 # f is linear
        products = [_tensor(x.xp.zeros_like(x._data)) for x in points]
    else:
        products = grad(slope, points)
    return products[0] if single else products
