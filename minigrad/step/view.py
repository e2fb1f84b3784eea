"""Everything there is to see of one step: its arrays on the host, the values of its lines, its checks."""
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, NamedTuple

import numpy as np

from minigrad.gradcheck import Report
from minigrad.ops.op import Op
from minigrad.step.axes import CallAxes, call_axes, name_axes
from minigrad.step.caller_names import names_of_caller
from minigrad.step.explain import REFERENCE, bad_origin, check
from minigrad.step.expression import Tree
from minigrad.step.formula import Formula, call_of, parse
from minigrad.step.identity import Identity, check_identity
from minigrad.step.line_trace import Listing, is_finite
from minigrad.step.rerun import Rerun, on_host, output_names
from minigrad.tensor import Tensor


class Input(NamedTuple):
    """One input of an op, and the gradient that the step made for it."""
    name: str                       # in the op: "q"
    label: str                      # in the graph: "h.0.attn.c_attn.weight", "h.0.ln_1 (step 12)", "a constant"
    shape: tuple[int, ...]
    value: Any                      # array on the host, or a number
    source: int | None              # the step of the node that made it; None for a leaf
    out: int                        # the number of that node's output
    leaf: str                       # the leaf's label; "" for an output of a node, and for numbers
    gradient: Any                   # array on the host; None for an input that needs none
    earlier: Any                    # the sum of its gradients from earlier steps, to which gradient is added; or None


@dataclass
class View:
    """Everything there is to see of one step."""
    step: Any                       # the Step
    index: int
    op: str
    name: str                       # the module's path, or the op's name
    created_at: str                 # the user's line of the forward
    formula: Formula
    inputs: list[Input]
    outputs: dict[str, Any]         # "y" -> array
    dys: dict[str, Any]             # upstream gradients: "dy" -> array
    saved: dict[str, Any]           # name -> array or number
    forward: Listing
    backward: Listing
    report: Report
    identity: Identity | None       # the op's identity, evaluated
    kernel: str                     # the fast kernel that ran; "" if the textbook's code did
    difference: float               # of the step's gradients from those of the textbook, relative to dy
    bad_origin: str                 # where a NaN or an infinity comes from; "" if all arrays are finite
    letters: CallAxes               # of the axes of all arrays, as in the shapes of the docstring
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The name of each axis of an array, "" where it has none: {"q": ("batch", "head", "query", "feature")}. An array
    of a line that has another number of axes than the op's array of the same name is found with it: "dy:2". Set by
    minigrad.step.axes.name_axes, as names pass from step to step."""
    _trees: dict[tuple[bool, int], dict[str, Tree]] = field(default_factory=dict)

    def trees(self, forward: bool, line: int) -> dict[str, Tree]:
        """For each variable that a line computed, its expression; {} if it cannot be read. line: counted from 1."""
        key = forward, line
        if key not in self._trees:
            self._trees[key] = (self.forward if forward else self.backward).trees(line - 1)
        return self._trees[key]

    @property
    def kernel_note(self) -> str:
        """How the fast kernel that ran compares with the reference code that is shown; "" if none ran."""
        if not self.kernel:
            return ""
        agrees = all(row.ok for row in self.report.rows if row.check == REFERENCE)
        return (f"the fast kernel {self.kernel} ran; this reference code gives "
                f"{'the same to' if agrees else 'gradients that differ by'} {self.difference:.1e}")


def view(step: Any, label: Callable[[Tensor], str], index: Mapping[int, int]) -> View:
    """The view of a Step, made before the iterator of the backward advances. label: a name for a leaf. index: for the
    number of a node, its step."""
    rerun = Rerun(step)
    with np.errstate(all="ignore"):
        op, ys, forward = rerun.trace_forward()
        dxs, backward = rerun.trace_backward(op)
        report = check(step)
        ran = [on_host(dx) for dx in step.dxs if dx is not None]
        finite = all(map(is_finite, [*rerun.inputs, *ys, *rerun.dys, *ran]))
        origin = "" if finite else bad_origin(step)
        identity = _identity(step, rerun, op, ys, dxs, backward) if not origin and backward.lines else None
    inputs = []
    for i, (x, dx, earlier) in enumerate(zip(step.inputs, step.dxs, step.earlier)):
        source = index.get(x.node.seq) if isinstance(x, Tensor) and x.node is not None else None
        leaf = label(x) if isinstance(x, Tensor) and x.node is None and x.requires_grad else ""
        name = leaf or (f"{x.node.module or x.node.op_class.name} (step {source})" if source is not None else
                        "a constant")
        inputs.append(Input(rerun.names[i], name, np.shape(rerun.inputs[i]), rerun.inputs[i], source,
                            getattr(x, "out", 0), leaf, _copy(dx), _copy(earlier)))
    kernel = "" if type(step.ran) is step.op_class else type(step.ran).__module__ + "." + type(step.ran).__name__
    saved = {name: np.array(a) if isinstance(a, np.ndarray) else a for name, a in op.saved.items()
             if isinstance(a, (np.ndarray, int, float, np.generic))}
    difference = max((row.error for row in report.rows if row.check == REFERENCE), default=0.0)
    formula = parse(step.op_class, call_of(step))
    return View(step, step.index, step.op, step.name, step.created_at, formula, inputs,
                dict(zip(output_names(step.op_class, len(ys)), ys)),
                dict(zip(rerun.upstream_names(), map(np.array, rerun.dys))), saved, forward, backward, report, identity,
                kernel, difference, origin, call_axes(rerun, ys, formula))


def view_alone(step: Any) -> View:
    """The view of a Step that is not part of a record."""
    labels: dict[int, str] = {}
    variables = names_of_caller()
    label = lambda leaf: labels.setdefault(id(leaf), getattr(leaf, "name", "") or variables.get(leaf.key) or
                                           f"leaf{len(labels)}")
    alone = view(step, label, {})
    name_axes([alone])
    return alone


def _copy(a: Any) -> Any:
    return None if a is None else np.array(on_host(a))


def _identity(step: Any, rerun: Rerun, op: Op, ys: list[Any], dxs: list[Any], listing: Listing) -> Identity | None:
    """The op's identity, evaluated on this rerun if it is in float64, else on one that is. ys, dxs, listing: its
    outputs, its gradients, the lines of its backward."""
    if rerun.dtype != np.float64:
        rerun = Rerun(step, np.float64)
        op, ys = rerun.forward()
        dxs, listing = rerun.trace_backward(op)
    values: dict[str, Any] = {}
    for line in listing.lines:
        values |= line.values
    values |= op.saved | rerun.static | dict(zip(rerun.names, rerun.inputs)) | {"xs": rerun.inputs}
    values |= dict(zip(output_names(rerun.op_class, len(ys)), ys)) | {"ys": ys}
    values |= dict(zip(rerun.upstream_names(), rerun.dys)) | {"dys": rerun.dys}
    values |= {f"d{name}": dx for name, dx in zip(rerun.names, dxs)} | {"dxs": dxs}
    return check_identity(rerun.op_class, values)
