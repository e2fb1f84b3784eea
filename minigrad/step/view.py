"""Everything there is to see of one step: its arrays on the host, the values of its lines, its checks."""
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Callable, Mapping, NamedTuple

import numpy as np

from minigrad.gradcheck import Report
from minigrad.step.axes import CallAxes, axes_of, call_axes, name_axes
from minigrad.step.caller_names import names_of_caller
from minigrad.step.explain import REFERENCE, bad_origin, check
from minigrad.step.expression import Tree
from minigrad.step.formula import Formula, call_of, parse
from minigrad.step.identity import Identity, check_identity
from minigrad.step.line_trace import Listing, is_finite
from minigrad.step.rerun import Rerun, on_host, output_names
from minigrad.tensor import Tensor

MOST_TRACED = 2.0 ** 28                         # bytes of the values of lines that are kept


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


class Traced(NamedTuple):
    """The forward and the backward of one op, run again line by line."""
    forward: Listing
    backward: Listing
    outputs: dict[str, Any]         # "y" -> array
    saved: dict[str, Any]           # by the forward
    trees: dict[tuple[bool, int], dict[str, Tree]]      # (forward, number of the line) -> name -> its expression


class Traces:
    """The values of the lines of those views that were asked for last. They take several times the memory of an op's
    inputs and gradients, so the oldest are dropped when all together exceed `most` bytes, and computed again when they
    are asked for."""

    def __init__(self, most: float = MOST_TRACED) -> None:
        self.most = most
        self._found: dict[int, tuple[Traced, int]] = {}         # index of the view -> its values, their bytes

    def of(self, view: "View") -> Traced:
        found = self._found.pop(view.index, None)               # it becomes the newest
        if found is None:
            traced = _trace(view)
            arrays = {id(a): a.nbytes for listing in (traced.forward, traced.backward) for line in listing.lines
                      for a in (*line.values.values(), *line.before.values()) if isinstance(a, np.ndarray)}
            found = traced, sum(arrays.values())
            while self._found and sum(size for _, size in self._found.values()) + found[1] > self.most:
                del self._found[next(iter(self._found))]
        self._found[view.index] = found
        return found[0]


@dataclass(eq=False)
class View:
    """Everything there is to see of one step. What its lines compute, and the checks, are computed when they are asked
    for, from copies of what the op was given."""
    step: Any                       # the Step
    index: int
    op: str
    name: str                       # the module's path, or the op's name
    created_at: str                 # the user's line of the forward
    formula: Formula
    inputs: list[Input]
    dys: dict[str, Any]             # upstream gradients: "dy" -> array
    kernel: str                     # the fast kernel that ran; "" if the textbook's code did
    bad_origin: str                 # where a NaN or an infinity comes from; "" if all arrays are finite
    letters: CallAxes               # of the axes of all arrays, as in the shapes of the docstring
    traces: Traces = field(repr=False)
    axis_name: Callable[[str], str] = str
    """The name of the axis with a letter, "" if it has none. Set by minigrad.step.axes.name_axes, as names pass from
    step to step."""

    @property
    def forward(self) -> Listing:
        return self.traces.of(self).forward

    @property
    def backward(self) -> Listing:
        return self.traces.of(self).backward

    @property
    def outputs(self) -> dict[str, Any]:
        """Name -> array: "y"."""
        return self.traces.of(self).outputs

    @property
    def saved(self) -> dict[str, Any]:
        """What the forward saved: name -> array or number."""
        return {name: a for name, a in self.traces.of(self).saved.items()
                if isinstance(a, (np.ndarray, int, float, np.generic))}

    @cached_property
    def report(self) -> Report:
        """Whether the gradients are right."""
        with np.errstate(all="ignore"):
            return check(self.step, rerun=self.rerun(np.float64))

    @cached_property
    def identity(self) -> Identity | None:
        """The op's identity, evaluated in float64."""
        if self.bad_origin or not self.backward.lines:
            return None
        with np.errstate(all="ignore"):
            return _identity(self.rerun(np.float64))

    @cached_property
    def difference(self) -> float:
        """Of the step's gradients from those of the textbook, relative to dy."""
        return max((row.error for row in self.report.rows if row.check == REFERENCE), default=0.0)

    @cached_property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The name of each axis of an array, "" where it has none: {"q": ("batch", "head", "query", "feature")}. An
        array of a line that has another number of axes than the op's array of the same name is found with it:
        "dy:2"."""
        return axes_of(self)

    def rerun(self, dtype: Any = None) -> Rerun:
        """The op, to be run again on copies of what it was given."""
        return Rerun(self.step, dtype, ([x.value for x in self.inputs], list(self.dys.values())))

    def trees(self, forward: bool, line: int) -> dict[str, Tree]:
        """For each variable that a line computed, its expression; {} if it cannot be read. line: counted from 1."""
        traced, key = self.traces.of(self), (forward, line)
        if key not in traced.trees:
            traced.trees[key] = (traced.forward if forward else traced.backward).trees(line - 1)
        return traced.trees[key]

    @property
    def kernel_note(self) -> str:
        """How the fast kernel that ran compares with the reference code that is shown; "" if none ran."""
        if not self.kernel:
            return ""
        agrees = all(row.ok for row in self.report.rows if row.check == REFERENCE)
        return (f"the fast kernel {self.kernel} ran; this reference code gives "
                f"{'the same to' if agrees else 'gradients that differ by'} {self.difference:.1e}")


def view(step: Any, label: Callable[[Tensor], str], index: Mapping[int, int], traces: Traces,
         leaves: dict[Any, Any]) -> View:
    """The view of a Step, made before the iterator of the backward advances. label: a name for a leaf. index: for the
    number of a node, its step. leaves: key of a leaf -> a copy of its array, which all its uses share."""
    rerun = Rerun(step)
    with np.errstate(all="ignore"):
        ys = rerun.forward()[1]
        ran = [on_host(dx) for dx in step.dxs if dx is not None]
        finite = all(map(is_finite, [*rerun.inputs, *ys, *rerun.dys, *ran]))
        origin = "" if finite else bad_origin(step)
    inputs = []
    for i, (x, dx, earlier) in enumerate(zip(step.inputs, step.dxs, step.earlier)):
        source = index.get(x.node.seq) if isinstance(x, Tensor) and x.node is not None else None
        leaf = label(x) if isinstance(x, Tensor) and x.node is None and x.requires_grad else ""
        name = leaf or (f"{x.node.module or x.node.op_class.name} (step {source})" if source is not None else
                        "a constant")
        value = rerun.inputs[i]
        if isinstance(x, Tensor) and x.node is None:
            value = leaves.setdefault(x.key, value)
        earlier = None if earlier is None else np.array(on_host(earlier))       # later gradients may be added in place
        inputs.append(Input(rerun.names[i], name, np.shape(value), value, source, getattr(x, "out", 0), leaf,
                            None if dx is None else on_host(dx), earlier))
    dys = step.dy if type(step.dy) is tuple else (step.dy,)
    kernel = "" if type(step.ran) is step.op_class else type(step.ran).__module__ + "." + type(step.ran).__name__
    formula = parse(step.op_class, call_of(step))
    return View(step, step.index, step.op, step.name, step.created_at, formula, inputs,
                dict(zip(rerun.upstream_names(), on_host(dys))), kernel, origin, call_axes(rerun, ys, formula), traces)


def view_alone(step: Any) -> View:
    """The view of a Step that is not part of a record."""
    labels: dict[int, str] = {}
    variables = names_of_caller()
    label = lambda leaf: labels.setdefault(id(leaf), getattr(leaf, "name", "") or variables.get(leaf.key) or
                                           f"leaf{len(labels)}")
    alone = view(step, label, {}, Traces(), {})
    name_axes([alone])
    return alone


def _trace(view: View) -> Traced:
    """Run the op of a view again and record what its lines compute."""
    rerun = view.rerun()
    with np.errstate(all="ignore"):
        op, ys, forward = rerun.trace_forward()
        _, backward = rerun.trace_backward(op)
    return Traced(forward, backward, dict(zip(output_names(rerun.op_class, len(ys)), ys)), op.saved, {})


def _identity(rerun: Rerun) -> Identity | None:
    """The identity of an op that runs in float64, evaluated."""
    op, ys = rerun.forward()
    dxs, values = rerun.last_values(op)
    values |= op.saved | rerun.static | dict(zip(rerun.names, rerun.inputs)) | {"xs": rerun.inputs}
    values |= dict(zip(output_names(rerun.op_class, len(ys)), ys)) | {"ys": ys}
    values |= dict(zip(rerun.upstream_names(), rerun.dys)) | {"dys": rerun.dys}
    values |= {f"d{name}": dx for name, dx in zip(rerun.names, dxs)} | {"dxs": dxs}
    return check_identity(rerun.op_class, values)
