"""Answers about one Step: is its gradient right, where does a NaN come from.

Both run the textbook op again, on copies of the inputs on the host; `check` does so in float64. A step is anything with
the attributes of a Step: index, op, node, inputs, static, ran, dy, dxs.
"""
import math
from typing import Any, Callable

import numpy as np

from minigrad import errors
from minigrad.diagnose import Block, diagnose
from minigrad.gradcheck import (DIFFERENCES, EPS, RANDOM, TOLERANCE, Report, Row, numeric_gradient,
                                relative_error)
from minigrad.step.line_trace import Listing, is_finite
from minigrad.step.rerun import Rerun, on_host, trace_forward
from minigrad.tensor import Tensor

REFERENCE = "reference code"                    # what a gradient is compared with, as with finite differences
MOST_SIZED = 2 ** 20                            # numbers of an array from which its size is estimated


# ---- is it right? ---------------------------------------------------------------------------------------------------

def check(step: Any, full: bool = False, rerun: Rerun | None = None) -> Report:
    """Compare the gradients of this op alone with central differences of its forward, in float64: along one random
    direction for each input, or element by element if `full`. Where the direction shows a wrong gradient, a block of at
    most 1024 elements is compared one by one too, so that the row says how they differ. Compare also the gradients in
    `step.dxs`, which a kernel may have computed in its own precision and the caller may have edited, with those of the
    reference code, the textbook's backward.

    dy is scaled to a largest magnitude of 1 first, and a direction to the size of its input, so that small gradients
    are checked as strictly as large ones. rerun: the op in float64, where the step's inputs may have changed since.
    """
    rerun, what = rerun or Rerun(step, np.float64), f"step {step.index}: {step.op}"
    failed: Callable[[str], Report] = lambda detail: Report([Row(what, DIFFERENCES, "", math.inf, detail)])
    largest = max((float(np.abs(dy).max()) for dy in rerun.dys if dy.size), default=0.0)
    if not math.isfinite(largest) or not all(map(is_finite, rerun.inputs)):
        return failed("an input or dy holds NaN or infinity: it has no numeric gradient")
    scale = largest or 1.0
    rerun.dys = [dy / scale for dy in rerun.dys]
    arrays = [a for a in [*rerun.inputs, *rerun.dys] if isinstance(a, np.ndarray)]
    running = "forward"
    try:
        for a in arrays:
            a.flags.writeable = False
        op, ys = rerun.forward()
        running = "backward"
        dxs = rerun.gradients(op)
    except Exception as error:
        if isinstance(error, ValueError) and "read-only" in str(error):
            return failed(f"{running} {errors.WRITES}")
        return failed(f"{running} raised {type(error).__name__}: {error}")
    finally:
        for a in arrays:
            a.flags.writeable = True
    rows = []
    for i in rerun.wanted:
        name, x, dx = f"d{rerun.names[i]}", rerun.inputs[i], dxs[i]
        dx = np.zeros_like(x) if dx is None else dx
        if dx.shape != x.shape:
            rows.append(Row(what, DIFFERENCES, name, math.inf, f"{name} has shape {dx.shape}, its input {x.shape}"))
            continue
        row = None if full else _along_a_direction(rerun, what, i, dx, ys)
        if row is None or not row.ok:
            if not all(np.array_equal(y, again, equal_nan=True) for y, again in zip(ys, rerun.forward()[1])):
                return failed(RANDOM)
            elements = _elementwise(rerun, what, i, dx, scale, None if full else _most(arrays))
            if row is None or not elements.ok:
                row = elements
            else:
                row = row._replace(detail=f"{row.detail}; {np.size(elements.numeric)} of its {x.size} elements were "
                                   "compared one by one, and these are right")
        rows.append(row)
        ran = step.dxs[i]
        ran = (np.zeros_like(x) if ran is None else on_host(ran)) / np.float64(scale)
        difference, bound = relative_error(ran, dx), math.sqrt(np.finfo(_precision(step)).eps)
        rows.append(Row(what, REFERENCE, name, difference, "" if difference <= bound else
                        f"the step's {name} differs from that of the reference code by {difference:.1e}: "
                        f"{diagnose(ran, dx, _known(rerun))}"))
    return Report(rows)


def _most(arrays: list[Any]) -> int:
    """How many elements of a wrong gradient are compared one by one, each by two forwards on these arrays."""
    size: int = sum(a.size for a in arrays)
    return min(1024, max(32, 2 ** 25 // max(1, size)))


def _known(rerun: Rerun) -> dict[str, Any]:
    """What may explain a wrong gradient: inputs, keyword arguments, saved values, upstream gradients."""
    return (dict(zip(rerun.names, rerun.inputs)) | rerun.static | rerun.forward()[0].saved
            | dict(zip(rerun.upstream_names(), rerun.dys)))


def _precision(step: Any) -> Any:
    """The coarsest floating dtype of the step's gradients."""
    dtypes = [dx.dtype for dx in step.dxs if dx is not None]
    return max(dtypes, key=lambda d: np.finfo(d).eps, default=np.dtype(np.float64))


def size_of(x: Any) -> float:
    """Root mean square of the numbers in x that are neither 0 nor a mask, which is far larger than the others; 1 if
    there are none. Of a large array, those of an even sample."""
    x = x.reshape(-1)[::-(-x.size // MOST_SIZED) or 1]
    a = np.abs(x[np.isfinite(x) & (x != 0.0)])
    return math.sqrt(float(np.mean(np.square(a[a <= 1e4 * np.quantile(a, 0.25)])))) if a.size else 1.0


def _along_a_direction(rerun: Rerun, what: str, i: int, dx: Any, ys: list[Any]) -> Row:
    name, x = f"d{rerun.names[i]}", rerun.inputs[i]
    direction = np.random.default_rng(i).normal(size=x.shape) * size_of(x)
    analytic = float((dx * direction).sum())
    direction *= EPS                            # in place, as x may be large
    above, below = rerun.outputs_with(i, x + direction), rerun.outputs_with(i, x - direction)
    numeric = sum(float((dy * (a - b)).sum()) for dy, a, b in zip(rerun.dys, above, below)) / (2.0 * EPS)
    output = math.sqrt(sum(float(np.square(dy * y).sum()) for dy, y in zip(rerun.dys, ys)))
    unit = max(abs(numeric), abs(analytic), float(np.linalg.norm(dx * size_of(x))), 1e-3 * output, 1e-300)
    error = abs(numeric - analytic) / unit
    detail = "" if error <= TOLERANCE else (
        f"along a random direction {name} gives {analytic:.6g}, a finite difference {numeric:.6g}")
    return Row(what, DIFFERENCES, name, error if math.isfinite(error) else math.inf, detail)


def _elementwise(rerun: Rerun, what: str, i: int, dx: Any, scale: float, most: int | None) -> Row:
    """Every element of a gradient against central differences, or a block of at most `most`. scale: what the upstream
    gradients were divided by."""
    name, x, size = f"d{rerun.names[i]}", rerun.inputs[i], size_of(rerun.inputs[i])
    value = lambda: sum(float((dy * y).sum()) for dy, y in zip(rerun.dys, rerun.forward()[1]))
    block = _block(dx, most or x.size)
    numeric, analytic = numeric_gradient(value, x, EPS * size, block.axes), block.of(dx)
    error = relative_error(analytic * size, numeric * size)
    row = Row(what, DIFFERENCES, name, error, "", analytic * scale, numeric * scale)
    if error <= TOLERANCE:
        return row
    k = row.worst or ()
    at = [axis[n] for axis, n in zip(block.axes, k)]
    part = "" if block.whole else (
        f" ({' x '.join(str(len(axis)) for axis in block.axes)} of {' x '.join(map(str, x.shape))} elements compared)")
    return row._replace(detail=f"{name}{at or ''} is {row.analytic[k]:.6g}, should be {row.numeric[k]:.6g}: "
                        f"{diagnose(analytic, numeric, _known(rerun), block)}{part}")


def _block(dx: Any, most: int) -> Block:
    """A block of at most `most` elements of an array: with the largest of them, else at random indices."""
    sizes = list(dx.shape)
    while math.prod(sizes) > max(most, 1):
        longest = sizes.index(max(sizes))
        sizes[longest] = -(-sizes[longest] // 2)
    rng, axes = np.random.default_rng(0), []
    largest = np.unravel_index(np.argmax(np.abs(dx)), dx.shape) if dx.size else ()
    for size, n, at in zip(sizes, dx.shape, largest):
        others = rng.permutation(np.delete(np.arange(n), at))[:size - 1]
        axes.append(sorted([int(at), *map(int, others)]))
    return Block(dx.shape, axes)


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
