"""Step: what `backward_steps` yields for each node, with everything that explains the node's backward."""
from typing import TYPE_CHECKING, Any, Iterator

from minigrad import errors, tape
from minigrad.ops.op import input_names
from minigrad.tape import Deliver, Visit
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.gradcheck import Report
    from minigrad.step.formula import Formula
    from minigrad.step.line_trace import Line
    from minigrad.step.why import Why


class Step(Visit):
    """One node's backward, just after it ran and before its results are added to the gradients of its inputs.

    dy is the gradient of the output (a tuple for an op with several outputs). dxs is a list with the gradient of each
    input, None for an input that needs none. Its entries may be replaced: they are added when the iterator advances.
    The arrays are read-only, as several gradients may share one array.

    lines, check and why run the textbook's op again when they are called, on the node's inputs: call them before an
    optimizer changes the weights.
    """
    __slots__ = ()

    @property
    def op(self) -> str:
        """Name of the op: "layer_norm"."""
        return self.op_class.name

    @property
    def name(self) -> str:
        """The path of the module whose forward called the op; outside of modules, the op's name."""
        return self.node.module or self.op

    @property
    def created_at(self) -> str:
        """The user's line that called the op: "gpt/model.py:41"."""
        return self.node.created_at

    @property
    def formula(self) -> str:
        """The op's docstring, with the equations of this call in Unicode."""
        return self._formula().text

    @property
    def latex(self) -> str:
        """The equations of the backward in LaTeX."""
        return self._formula().latex

    def _formula(self) -> "Formula":
        from minigrad.step.formula import call_of, parse
        return parse(self.op_class, call_of(self))

    @property
    def source(self) -> str:
        """The source code of the textbook's backward. OSError if it is in no file."""
        from minigrad.step.line_trace import source_of
        return source_of(self.op_class.backward)

    @property
    def lines(self) -> "list[Line]":
        """The statements of the textbook's backward in the order in which they ran, each with the values it computed.
        The backward is run again for this. Empty while a debugger or a coverage tool uses Python's tracer."""
        from minigrad.step.rerun import Rerun
        rerun = Rerun(self)
        return rerun.trace_backward(rerun.forward()[0])[1].lines

    def check(self, full: bool = False) -> "Report":
        """Check the gradients of this op alone by finite differences: see minigrad.step.explain.check."""
        from minigrad.step.explain import check
        return check(self, full)

    def why(self, name: str, index: Any) -> "Why":
        """One element of an array of this step, by the line that computed it: the sum of products that it is. name: of
        a gradient ("dx"), or of any other array of the backward or the forward. For an op whose lines cannot be read,
        a gradient is explained by the chain rule: local derivative times upstream gradient.

        ValueError for a name that the step does not have, IndexError for an index outside the array.
        """
        from minigrad.step.view import view_alone
        from minigrad.step.why import cell_of, explain
        view = view_alone(self)
        return explain(view, cell_of(view, name, index))

    def _repr_html_(self) -> str:
        from minigrad.step.page import iframe
        from minigrad.step.page_data import contents_of_step
        return iframe(contents_of_step(self))

    def __repr__(self) -> str:
        dxs = ", ".join(
            f"d{n} {dx.shape}" for n, dx in zip(input_names(self.op_class, len(self.dxs)), self.dxs) if dx is not None
        )
        dy = self.dy if isinstance(self.dy, tuple) else (self.dy,)
        return f"step {self.index}: {self.node}, dy {errors.shapes(dy)} -> {dxs}"


def backward_steps(y: Tensor, dy: Any = None, *, until: Any = None, retain_graph: bool = False,
                   deliver: Deliver | None = None) -> Iterator[Step]:
    """Run the backward of y and yield a Step for each node, newest first. Pausing the loop pauses the backward.

    dy is the gradient of y, an array of its shape; by default 1, if y has one element. `deliver(leaf, gradient)` is
    called with each leaf and its whole gradient, after the last node that uses the leaf has run; by default the
    gradient is added to the leaf's `.grad`. Each node is freed after its step unless retain_graph. until: a breakpoint,
    see minigrad.step.breakpoints.stops; only steps at which it stops are yielded.
    """
    steps = tape.walk(y, errors.first_gradient(y, dy), retain_graph=retain_graph, watched=Step, deliver=deliver)
    if until is None:
        return steps
    from minigrad.step.breakpoints import stops
    return filter(stops(until, y), steps)


tape.backward_steps = backward_steps
