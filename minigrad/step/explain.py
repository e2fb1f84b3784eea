"""What there is to say about one Step: is its gradient right, where does a number in it come from, what went bad.

Everything here runs the op again: by the textbook, on the host, on copies. Checks and whys use float64.
"""
import dataclasses
import inspect
import math
from typing import TYPE_CHECKING, Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from minigrad import device
from minigrad.diagnose import diagnose
from minigrad.gradcheck import EPS, TOLERANCE, Report, Row, numeric_gradient, relative_error
from minigrad.ops.op import Op, input_names
from minigrad.step.invariant import Held, holds
from minigrad.step.listing import Listing, is_finite, listed
from minigrad.executor import executor_of
from minigrad.step.step import Step
from minigrad.tape import Node, collect, unbroadcast
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.step.record import Record

CHECK, RAN = "finite differences", "what ran"


def on_host(x: Any) -> Any:
    """Tensors and arrays as arrays on the host, also inside tuples and lists; anything else as it is."""
    if isinstance(x, Tensor):
        x = x.data
    if type(x) in (tuple, list):
        return type(x)(map(on_host, x))
    return device.host(x) if device.is_array(x) else x


def cast(x: Any, dtype: Any) -> Any:
    """A copy of an array in another floating dtype; numbers stay."""
    return x.astype(dtype) if isinstance(x, np.ndarray) else x


def output_names(op_class: type[Op], n: int) -> list[str]:
    """Names of what a forward returns, from the gradients that its backward is given: ["y"], ["p_new", "m_new"]."""
    kinds = inspect.signature(op_class.backward).parameters.values()
    if n == 1:
        return ["y"]
    if any(p.kind is p.VAR_POSITIONAL for p in kinds):
        return [f"y{i}" for i in range(n)]
    return [p.name.removeprefix("d") for p in list(kinds)[1:n + 1]]


def forward_listed(op_class: type[Op], needs: Sequence[bool], inputs: Sequence[Any], static: Mapping[str, Any],
                   outs: int) -> tuple[Op, list[Any], Listing]:
    """The textbook's forward on the host: the op after it, its outputs, of which there are `outs`, and what its lines
    made. Inputs may be Tensors and arrays of any device."""
    op = op_class()
    op.xp, op.needs = np, needs
    y, listing = listed(op.forward, output_names(op_class, outs), *map(on_host, inputs),
                        **{name: on_host(value) for name, value in static.items()})
    return op, [np.asarray(a) for a in (y if type(y) is tuple else (y,))], listing


class Again:
    """A Step's op run again, by the textbook and on the host."""

    def __init__(self, step: Step, dtype: Any = None) -> None:
        for x in step.inputs:
            if isinstance(x, Tensor) and x.version > step.node.seq:
                raise ValueError(f"{getattr(x, 'name', '') or 'a Tensor'} {x.shape} was changed after {step.node} had "
                                 "used it: look at a step before the optimizer moves the weights")
        self.op_class, self.needs = step.op_class, step.ran.needs
        inputs, dys = map(on_host, step.inputs), on_host(step.dy if type(step.dy) is tuple else (step.dy,))
        floats = [a.dtype for a in dys]
        self.dtype = np.dtype(dtype or floats[0])
        self.inputs: list[Any] = [cast(x, self.dtype) for x in inputs]
        self.static: dict[str, Any] = {name: on_host(value) for name, value in step.static.items()}
        self.dys = [cast(dy, self.dtype) for dy in dys]
        self.names = input_names(step.op_class, len(self.inputs))
        self.wanted = [i for i, need in enumerate(self.needs) if need]

    def forward(self, inputs: list[Any] | None = None) -> tuple[Op, list[Any]]:
        """The op after its forward, and its outputs."""
        op = self.new()
        y = op.forward(*(self.inputs if inputs is None else inputs), **self.static)
        return op, [np.asarray(a) for a in (y if type(y) is tuple else (y,))]

    def moved(self, i: int, x: Any) -> list[Any]:
        """The outputs with another input i."""
        return self.forward([x if j == i else old for j, old in enumerate(self.inputs)])[1]

    def new(self) -> Op:
        op = self.op_class()
        op.xp, op.needs = np, self.needs
        return op

    def gradients(self, op: Op) -> list[Any]:
        """The gradient of each input in its shape, None where none is wanted."""
        return self.fitted(op.backward(*self.dys, **op.saved))

    def fitted(self, dxs: Any) -> list[Any]:
        found = dxs if type(dxs) is tuple else (dxs,)
        return [unbroadcast(np.asarray(dx), np.shape(x)) if need and dx is not None else None
                for x, need, dx in zip(self.inputs, self.needs, found)]

    def forward_listed(self) -> tuple[Op, list[Any], Listing]:
        """The forward, with what its lines made."""
        return forward_listed(self.op_class, self.needs, self.inputs, self.static, len(self.dys))

    def backward_listed(self, op: Op) -> tuple[list[Any], Listing]:
        """The gradients, with what the lines of the backward made."""
        raw, listing = listed(op.backward, [f"d{name}" for name in self.names], *self.dys, **op.saved)
        return self.fitted(raw), listing

    def gradient_names(self) -> list[str]:
        """What the backward calls the gradients that it is given: ["dy"], ["dp_new", "dm_new"]."""
        if len(self.dys) == 1:
            return ["dy"]
        return [f"d{name}" for name in output_names(self.op_class, len(self.dys))]


# ---- is it right? ---------------------------------------------------------------------------------------------------

def check(step: Step, full: bool = False) -> Report:
    """The gradients of this op alone, held against central differences of its forward, in float64: along one random
    direction for each input, or element by element if `full`. And what ran and flows on (a kernel's result, in its own
    precision; your own edit of `dxs`) against those of the textbook.

    dy is scaled to 1 first, and a direction to the size of its input, so that small gradients count like large ones.
    """
    again, what = Again(step, np.float64), f"step {step.index}: {step.op}"
    largest = max((float(np.abs(dy).max()) for dy in again.dys if dy.size), default=0.0)
    if not math.isfinite(largest) or not all(map(is_finite, again.inputs)):
        return Report([Row(what, CHECK, "", math.inf, "an input or dy holds NaN or infinity: nothing can be compared")])
    scale = largest or 1.0
    again.dys = [dy / scale for dy in again.dys]
    op, ys = again.forward()
    rows = []
    try:
        dxs = again.gradients(op)
    except (ValueError, TypeError, IndexError) as error:
        return Report([Row(what, CHECK, "", math.inf, f"the textbook's backward raised {error}")])
    for i in again.wanted:
        name, x, dx = f"d{again.names[i]}", again.inputs[i], dxs[i]
        dx = np.zeros_like(x) if dx is None else dx
        if dx.shape != x.shape:
            rows.append(Row(what, CHECK, name, math.inf, f"{name} has shape {dx.shape}, its input {x.shape}"))
            continue
        rows.append(_everywhere(again, what, i, dx) if full else _along_a_direction(again, what, i, dx, ys))
        ran = step.dxs[i]
        ran = np.zeros_like(x) if ran is None else on_host(ran).astype(np.float64)
        off, bound = relative_error(ran / scale, dx), math.sqrt(np.finfo(_precision(step)).eps)
        rows.append(Row(what, RAN, name, off, "" if off <= bound else
                        f"the {name} that flows on differs from the textbook's by {off:.1e}"))
    return Report(rows)


def _precision(step: Step) -> Any:
    """The coarsest floating dtype of the step, as NumPy's; a half of bfloat16's digits count as float16."""
    dtypes = [dx.dtype for dx in step.dxs if dx is not None]
    return max((np.dtype(d if np.dtype(d).kind == "f" else np.float16) for d in dtypes),
               key=lambda d: np.finfo(d).eps, default=np.dtype(np.float64))


def _size(x: Any) -> float:
    """Root mean square of the numbers in x that are not 0, but for masks, which are far larger than the rest; 1 if
    there are none."""
    a = np.abs(x[np.isfinite(x) & (x != 0.0)])
    return math.sqrt(float(np.mean(np.square(a[a <= 1e4 * np.quantile(a, 0.25)])))) if a.size else 1.0


def _along_a_direction(again: Again, what: str, i: int, dx: Any, ys: list[Any]) -> Row:
    name, x = f"d{again.names[i]}", again.inputs[i]
    direction = np.random.default_rng(i).normal(size=x.shape) * _size(x)
    above, below = again.moved(i, x + EPS * direction), again.moved(i, x - EPS * direction)
    numeric = sum(float((dy * (a - b)).sum()) for dy, a, b in zip(again.dys, above, below)) / (2.0 * EPS)
    analytic = float((dx * direction).sum())
    output = math.sqrt(sum(float(np.square(dy * y).sum()) for dy, y in zip(again.dys, ys)))
    unit = max(abs(numeric), abs(analytic), float(np.linalg.norm(dx * _size(x))), 1e-3 * output, 1e-300)
    error = abs(numeric - analytic) / unit
    detail = "" if error <= TOLERANCE else (
        f"along a random direction {name} gives {analytic:.6g}, a finite difference {numeric:.6g}")
    return Row(what, CHECK, name, error if math.isfinite(error) else math.inf, detail)


def _everywhere(again: Again, what: str, i: int, dx: Any) -> Row:
    name, x, size = f"d{again.names[i]}", again.inputs[i], _size(again.inputs[i])
    value = lambda: sum(float((dy * y).sum()) for dy, y in zip(again.dys, again.forward()[1]))
    numeric = numeric_gradient(value, x, EPS * size)
    error = relative_error(dx * size, numeric * size)
    if error <= TOLERANCE:
        return Row(what, CHECK, name, error)
    at = np.unravel_index(np.argmax(np.abs(dx - numeric)), x.shape)
    known = dict(zip(again.names, again.inputs)) | again.forward()[0].saved | {"dy": again.dys[0]}
    return Row(what, CHECK, name, error, f"{name}{[int(k) for k in at]} is {dx[at]:.6g}, should be {numeric[at]:.6g}: "
               f"{diagnose(dx, numeric, known)}")


def invariant(again: Again, op: Op, ys: list[Any], dxs: list[Any], listing: Listing) -> Held | None:
    """What the op's `identity` says, put to the test on these values."""
    values: dict[str, Any] = {}
    for line in listing.lines:
        values |= line.values
    values |= op.saved | again.static | dict(zip(again.names, again.inputs)) | {"xs": again.inputs}
    values |= dict(zip(output_names(again.op_class, len(ys)), ys)) | {"ys": ys}
    values |= dict(zip(again.gradient_names(), again.dys)) | {"dys": again.dys}
    values |= {f"d{name}": dx for name, dx in zip(again.names, dxs)} | {"dxs": dxs}
    return holds(again.op_class, values)


# ---- why this number? -----------------------------------------------------------------------------------------------

class Term(NamedTuple):
    """One of the products that a gradient is the sum of."""
    out: int                        # which output of the op, and which of its elements, the input's element reaches
    at: tuple[int, ...]
    slope: float                    # d y[at] / d x
    dy: float                       # gradient of y[at]
    parts: tuple[tuple[int, int], ...]      # who made that gradient: (step, input) of each that used y; () for the loss

    @property
    def product(self) -> float:
        return self.slope * self.dy


@dataclasses.dataclass(frozen=True)
class Why:
    """One element of a gradient as a sum over the outputs that its input reaches: dx = sum_j dy_j/dx * (gradient of j).

    Sizes first: `terms` are the largest, `count` of them are not 0, all together sum to `total`.
    """
    step: int
    input: int
    name: str                       # "dq"
    at: tuple[int, ...]
    value: float                    # as recorded
    total: float
    magnitude: float                # sum of |term| over all terms
    count: int
    terms: list[Term]


def why(step: Step, name: str | int, at: Any, most: int = 6, record: "Record | None" = None) -> Why:
    """One element of the gradient of an input, explained.

    Moving that element of the input up and down, in float64, gives the slope of every element of the output; each is
    multiplied by its gradient. ValueError for an input that has no gradient here, IndexError for an index outside it.
    """
    again = Again(step, np.float64) if record is None else record.again[step.index]
    i = again.names.index(name) if name in again.names else name
    if i not in again.wanted:
        known = ", ".join(again.names[k] for k in again.wanted)
        raise ValueError(f"step {step.index} ({step.op}) makes no gradient of {name!r}; inputs that have one: {known}")
    x, dx = again.inputs[i], step.dxs[i]
    at = inside(f"d{again.names[i]}", x.shape, at)
    delta = EPS * max(abs(float(x[at])), _size(x))
    there, back = x.copy(), x.copy()
    there[at] += delta
    back[at] -= delta
    slopes = [(a - b) / (there[at] - back[at]) for a, b in zip(again.moved(i, there), again.moved(i, back))]
    products = [slope * dy for slope, dy in zip(slopes, again.dys)]
    found = []
    for out, (slope, dy) in enumerate(zip(slopes, again.dys)):
        parts = record.users(step, out) if record is not None else ()
        found += [Term(out, where, float(slope[where]), float(dy[where]), parts) for where in top(products[out], most)]
    found.sort(key=lambda term: -abs(term.product))
    every = np.concatenate([product.reshape(-1) for product in products])
    magnitude = float(np.abs(every).sum())
    count = int((np.abs(every) > 1e-9 * np.abs(every).max()).sum()) if magnitude else 0
    value = 0.0 if dx is None else float(on_host(dx)[at])
    return Why(step.index, i, f"d{again.names[i]}", at, value, float(every.sum()), magnitude, count, found[:most])


def top(a: Any, n: int) -> list[tuple[int, ...]]:
    """Where the n entries of largest magnitude are, largest first; those that are 0 do not count."""
    largest = np.argsort(-np.abs(a), axis=None, kind="stable")[:n]
    found = [tuple(int(k) for k in np.unravel_index(i, np.shape(a))) for i in largest]
    return [at for at in found if a[at]]


def inside(name: str, shape: tuple[int, ...], at: Any) -> tuple[int, ...]:
    """An index of one element, counted from the front. IndexError if an array of this shape has no such element."""
    at = at if isinstance(at, tuple) else (at,)
    if len(at) != len(shape) or any(not -n <= k < n for k, n in zip(at, shape)):
        raise IndexError(f"{name} has shape {shape}: {list(at)} is not in it")
    return tuple(int(k) % n for k, n in zip(at, shape))


# ---- what went bad? -------------------------------------------------------------------------------------------------

def bad_origin(step: Step) -> str:
    """Where the first NaN or infinity behind this step was made, in words; "" if all of its arrays are finite."""
    node, inputs, static, needs = step.node, step.inputs, step.static, step.ran.needs
    while True:                     # against the forward, to the first op that made a bad value of good ones
        source = next((x for x in inputs if isinstance(x, Tensor) and not is_finite(on_host(x))), None)
        if source is None:
            break
        if source.node is None or source.node.op is None:
            return f"{getattr(source, 'name', '') or 'a leaf'} {source.shape}, an input of {node}, is bad itself"
        node = source.node
        inputs, static, needs = node.inputs, node.static, node.op.needs
    with np.errstate(all="ignore"):
        _, ys, listing = forward_listed(node.op_class, needs, inputs, static, len(node.outs or (None,)))
    if not all(map(is_finite, ys)):
        return _bad_line(f"forward of {node}", listing)
    if not all(map(is_finite, on_host(step.dy if type(step.dy) is tuple else (step.dy,)))):
        return "dy is bad already: an earlier step of the backward made it so"
    if all(dx is None or is_finite(on_host(dx)) for dx in step.dxs):
        return ""
    again = Again(step)
    with np.errstate(all="ignore"):
        _, listing = again.backward_listed(again.forward()[0])
    return _bad_line(f"backward of {node}", listing)


def _bad_line(where: str, listing: Listing) -> str:
    if listing.first_bad is None:
        return f"made in the {where}"
    line = listing.lines[listing.first_bad]
    text = listing.source.splitlines()[line.first].strip()
    return f"made in the {where}, by the line `{text}`"


def nodes_of(y: Tensor) -> Iterator[Node]:
    """All nodes that y depends on, oldest first, with the arrays of all their inputs."""
    if y.node is not None:
        found = collect(y.node)[0]
        executor_of(type(y._data), plain=False).rematerialize(found)
        yield from (found[seq] for seq in sorted(found))
