"""Answers about one Step: is its gradient right, which terms is a number the sum of, where does a NaN come from.

Each of them runs the textbook op again, on copies of the inputs on the host; `check` and `why` do so in float64. A step
is anything with the attributes of a Step: index, op, node, inputs, static, ran, dy, dxs.
"""
import math
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple

import numpy as np

from minigrad.diagnose import diagnose
from minigrad.gradcheck import EPS, TOLERANCE, Report, Row, numeric_gradient, relative_error
from minigrad.step.line_trace import Listing, is_finite
from minigrad.step.rerun import Rerun, on_host, trace_forward
from minigrad.tensor import Tensor

DIFFERENCES, REFERENCE = "finite differences", "reference code"     # what a gradient is compared with
Uses = tuple[tuple[int, int], ...]      # (step, input) of each op that used an output


# ---- is it right? ---------------------------------------------------------------------------------------------------

def check(step: Any, full: bool = False) -> Report:
    """Compare the gradients of this op alone with central differences of its forward, in float64: along one random
    direction for each input, or element by element if `full`. Compare also the gradients in `step.dxs`, which a kernel
    may have computed in its own precision and the caller may have edited, with those of the textbook's backward.

    dy is scaled to a largest magnitude of 1 first, and a direction to the size of its input, so that small gradients
    are checked as strictly as large ones.
    """
    rerun, what = Rerun(step, np.float64), f"step {step.index}: {step.op}"
    largest = max((float(np.abs(dy).max()) for dy in rerun.dys if dy.size), default=0.0)
    if not math.isfinite(largest) or not all(map(is_finite, rerun.inputs)):
        return Report([Row(what, DIFFERENCES, "", math.inf, "an input or dy holds NaN or infinity: it has no numeric "
                           "gradient")])
    scale = largest or 1.0
    rerun.dys = [dy / scale for dy in rerun.dys]
    op, ys = rerun.forward()
    rows = []
    try:
        dxs = rerun.gradients(op)
    except (ValueError, TypeError, IndexError) as error:
        return Report([Row(what, DIFFERENCES, "", math.inf, f"the textbook's backward raised {error}")])
    for i in rerun.wanted:
        name, x, dx = f"d{rerun.names[i]}", rerun.inputs[i], dxs[i]
        dx = np.zeros_like(x) if dx is None else dx
        if dx.shape != x.shape:
            rows.append(Row(what, DIFFERENCES, name, math.inf, f"{name} has shape {dx.shape}, its input {x.shape}"))
            continue
        rows.append(_elementwise(rerun, what, i, dx) if full else _along_a_direction(rerun, what, i, dx, ys))
        ran = step.dxs[i]
        ran = np.zeros_like(x) if ran is None else on_host(ran).astype(np.float64)
        difference, bound = relative_error(ran / scale, dx), math.sqrt(np.finfo(_precision(step)).eps)
        rows.append(Row(what, REFERENCE, name, difference, "" if difference <= bound else
                        f"the step's {name} differs from that of the reference code by {difference:.1e}"))
    return Report(rows)


def _precision(step: Any) -> Any:
    """The coarsest floating dtype of the step's gradients, as a dtype of NumPy. bfloat16, which is none, counts as
    float16: the bound sqrt(eps) is then 4 times bfloat16's eps."""
    dtypes = [dx.dtype for dx in step.dxs if dx is not None]
    return max((np.dtype(d if np.dtype(d).kind == "f" else np.float16) for d in dtypes),
               key=lambda d: np.finfo(d).eps, default=np.dtype(np.float64))


def _size(x: Any) -> float:
    """Root mean square of the numbers in x that are neither 0 nor a mask, which is far larger than the others; 1 if
    there are none."""
    a = np.abs(x[np.isfinite(x) & (x != 0.0)])
    return math.sqrt(float(np.mean(np.square(a[a <= 1e4 * np.quantile(a, 0.25)])))) if a.size else 1.0


def _along_a_direction(rerun: Rerun, what: str, i: int, dx: Any, ys: list[Any]) -> Row:
    name, x = f"d{rerun.names[i]}", rerun.inputs[i]
    direction = np.random.default_rng(i).normal(size=x.shape) * _size(x)
    above, below = rerun.outputs_with(i, x + EPS * direction), rerun.outputs_with(i, x - EPS * direction)
    numeric = sum(float((dy * (a - b)).sum()) for dy, a, b in zip(rerun.dys, above, below)) / (2.0 * EPS)
    analytic = float((dx * direction).sum())
    output = math.sqrt(sum(float(np.square(dy * y).sum()) for dy, y in zip(rerun.dys, ys)))
    unit = max(abs(numeric), abs(analytic), float(np.linalg.norm(dx * _size(x))), 1e-3 * output, 1e-300)
    error = abs(numeric - analytic) / unit
    detail = "" if error <= TOLERANCE else (
        f"along a random direction {name} gives {analytic:.6g}, a finite difference {numeric:.6g}")
    return Row(what, DIFFERENCES, name, error if math.isfinite(error) else math.inf, detail)


def _elementwise(rerun: Rerun, what: str, i: int, dx: Any) -> Row:
    name, x, size = f"d{rerun.names[i]}", rerun.inputs[i], _size(rerun.inputs[i])
    value = lambda: sum(float((dy * y).sum()) for dy, y in zip(rerun.dys, rerun.forward()[1]))
    numeric = numeric_gradient(value, x, EPS * size)
    error = relative_error(dx * size, numeric * size)
    if error <= TOLERANCE:
        return Row(what, DIFFERENCES, name, error)
    at = np.unravel_index(np.argmax(np.abs(dx - numeric)), x.shape)
    known = dict(zip(rerun.names, rerun.inputs)) | rerun.forward()[0].saved | {"dy": rerun.dys[0]}
    return Row(what, DIFFERENCES, name, error, f"{name}{[int(k) for k in at]} is {dx[at]:.6g}, should be "
               f"{numeric[at]:.6g}: {diagnose(dx, numeric, known)}")


# ---- why this number? -----------------------------------------------------------------------------------------------

class Term(NamedTuple):
    """One term of the chain rule: the derivative of one element of an output, times that element's gradient."""
    out: int                        # number of the output
    at: tuple[int, ...]             # index of the element in it
    derivative: float               # d y[at] / d x, the local derivative
    dy: float                       # gradient of y[at]
    uses: Uses                      # the ops whose backwards made that gradient; () for the loss itself

    @property
    def product(self) -> float:
        return self.derivative * self.dy


@dataclass(frozen=True)
class Why:
    """One element of a gradient as a sum over the elements of the outputs: dL/dx = sum over j of dy_j/dx * dL/dy_j."""
    step: int
    input: int
    name: str                       # "dq"
    at: tuple[int, ...]
    value: float                    # as recorded
    total: float                    # sum of all terms
    magnitude: float                # sum of |term| over all terms
    count: int                      # number of terms that are not 0
    terms: list[Term]               # the largest ones, largest first
    record: Any = field(default=None, repr=False, compare=False)    # the Record whose `follow` explains its terms

    def _repr_html_(self) -> str:
        from minigrad.html_tables import why_table
        return why_table(self)


def why(step: Any, name: str | int, at: Any, most: int = 6, rerun: Rerun | None = None,
        uses: Callable[[int], Uses] = lambda out: ()) -> Why:
    """Explain one element of the gradient of an input by the chain rule.

    That element of the input is moved up and down, in float64; the difference quotients are the local derivatives of
    all elements of the outputs, and each is multiplied by its upstream gradient.

    Args:
        name, at: the input, by name or number; the index of the element.
        most: how many terms to return.
        rerun: of this step in float64, if the caller has one.
        uses: for the number of an output, the ops that used it.

    Raises ValueError for an input that has no gradient here, IndexError for an index outside it.
    """
    rerun = rerun or Rerun(step, np.float64)
    i = rerun.names.index(name) if name in rerun.names else name
    if i not in rerun.wanted:
        known = ", ".join(rerun.names[k] for k in rerun.wanted)
        raise ValueError(f"step {step.index} ({step.op}) makes no gradient of {name!r}; inputs that have one: {known}")
    x, dx = rerun.inputs[i], step.dxs[i]
    at = checked_index(f"d{rerun.names[i]}", x.shape, at)
    delta = EPS * max(abs(float(x[at])), _size(x))
    above, below = x.copy(), x.copy()
    above[at] += delta
    below[at] -= delta
    derivatives = [(a - b) / (above[at] - below[at])
                   for a, b in zip(rerun.outputs_with(i, above), rerun.outputs_with(i, below))]
    products = [derivative * dy for derivative, dy in zip(derivatives, rerun.dys)]
    found = [Term(out, where, float(derivatives[out][where]), float(dy[where]), uses(out))
             for out, dy in enumerate(rerun.dys) for where in largest_entries(products[out], most)]
    found.sort(key=lambda term: -abs(term.product))
    every = np.concatenate([product.reshape(-1) for product in products])
    magnitude = float(np.abs(every).sum())
    count = int((np.abs(every) > 1e-9 * np.abs(every).max()).sum()) if magnitude else 0
    value = 0.0 if dx is None else float(on_host(dx)[at])
    return Why(step.index, i, f"d{rerun.names[i]}", at, value, float(every.sum()), magnitude, count, found[:most])


def largest_entries(a: Any, n: int) -> list[tuple[int, ...]]:
    """The indices of the n entries of largest magnitude, largest first, without those that are 0."""
    largest = np.argsort(-np.abs(a), axis=None, kind="stable")[:n]
    found = [tuple(int(k) for k in np.unravel_index(i, np.shape(a))) for i in largest]
    return [at for at in found if a[at]]


def checked_index(name: str, shape: tuple[int, ...], at: Any) -> tuple[int, ...]:
    """An index of one element, with negative numbers counted from the end. IndexError if an array of this shape has no
    such element."""
    at = at if isinstance(at, tuple) else (at,)
    if len(at) != len(shape) or any(not -n <= k < n for k, n in zip(at, shape)):
        raise IndexError(f"{name} has shape {shape}: {list(at)} is not in it")
    return tuple(int(k) % n for k, n in zip(at, shape))


# ---- where does a NaN come from? ------------------------------------------------------------------------------------

def bad_origin(step: Any) -> str:
    """Where the first NaN or infinity among the arrays of this step was computed, in words; "" if all are finite."""
    node, inputs, static, needs = step.node, step.inputs, step.static, step.ran.needs
    while True:                     # back along the forward, to the first op that made a bad value from finite inputs
        source = next((x for x in inputs if isinstance(x, Tensor) and not is_finite(on_host(x))), None)
        if source is None:
            break
        if source.node is None or source.node.op is None:
            return (f"{getattr(source, 'name', '') or 'a leaf'} {source.shape}, an input of {node}, holds NaN or "
                    "infinity itself")
        node = source.node
        inputs, static, needs = node.inputs, node.static, node.op.needs
    with np.errstate(all="ignore"):
        _, ys, listing = trace_forward(node.op_class, needs, inputs, static, len(node.outs or (None,)))
    if not all(map(is_finite, ys)):
        return _bad_line(f"forward of {node}", listing)
    if not all(map(is_finite, on_host(step.dy if type(step.dy) is tuple else (step.dy,)))):
        return "dy already holds NaN or infinity: an earlier step of the backward made it"
    if all(dx is None or is_finite(on_host(dx)) for dx in step.dxs):
        return ""
    rerun = Rerun(step)
    with np.errstate(all="ignore"):
        _, listing = rerun.trace_backward(rerun.forward()[0])
    return _bad_line(f"backward of {node}", listing)


def _bad_line(where: str, listing: Listing) -> str:
    if listing.first_bad is None:
        return f"made in the {where}"
    line = listing.lines[listing.first_bad]
    text = listing.source.splitlines()[line.first].strip()
    return f"made in the {where}, by the line `{text}`"
