"""Checks hand-written gradients against numeric derivatives.

`check(op)` checks one op on all its samples, `check(op, (3, 5))` on inputs of these shapes, `check_model` the gradient
of a whole loss; a row that fails says how the wrong gradient differs from the right one. `python -m minigrad.gradcheck`
checks every op.

Derivatives are central differences in float64 with a step of 1e-5, for a *random* gradient of the output: with ones, a
softmax whose backward returns zeros would pass. The relative error of arrays a, b is max|a - b| / max(|a|, |b|, 1e-3).
"""
import argparse
import copy
import difflib
import inspect
import itertools
import sys
import time
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np

from minigrad import errors, functional
from minigrad.diagnose import diagnose
from minigrad.autograd import grad
from minigrad.call_site import place
from minigrad.command import run_command
from minigrad.executor import executor_of
from minigrad.modes import plain
from minigrad.ops.op import OPS, Fused, Op, Primitive, docstring, input_names
from minigrad.ops.sample import Sample
from minigrad.ops.sums import unbroadcast
from minigrad.tape import apply, backward
from minigrad.tensor import Tensor
from minigrad.words import index

EPS = 1e-5
TOLERANCE = 1e-6
DIFFERENCES, TWICE = "finite differences", "second order"
RANDOM = ("a second forward gives another result: draw random numbers outside the op, and give it the array, or a "
          "seed, by keyword")
NOT_COMPOSED = "not checked: it has no `composed`, which second derivatives need"


class Row(NamedTuple):
    """The result of comparing one array."""
    what: str                   # op and sample, or parameter: "mul((2, 3), (2, 3))"
    check: str                  # which check: "finite differences"
    of: str                     # which array: "dx", "y"
    error: float                # relative; infinite if there was nothing to compare
    detail: str = ""            # of a failure: index, values, diagnosis
    analytic: Any = None        # the entries of a gradient that were compared with finite differences, an array
    numeric: Any = None         # what finite differences give for them, an array of the same shape
    note: str = ""              # why there was nothing to check: "not checked: it has no decomposition"

    @property
    def ok(self) -> bool:
        return not self.detail

    @property
    def worst(self) -> tuple[int, ...] | None:
        """The index, in analytic and numeric, of the largest difference; None if no entries were compared."""
        if self.numeric is None or np.size(self.numeric) == 0:
            return None
        off = np.nan_to_num(np.abs(self.analytic - self.numeric), nan=np.inf)
        return tuple(int(k) for k in np.unravel_index(np.argmax(off), np.shape(off)))


class Report:
    """The rows of a check. `ok`: there are rows, and all of them are ok."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if not row.ok]

    @property
    def worst(self) -> float:
        """The largest relative error against central differences."""
        return max([row.error for row in self.rows if row.check in (DIFFERENCES, TWICE)], default=0.0)

    def scatter(self) -> list[tuple[float, float, str]]:
        """(analytic, numeric, name) of every entry that was compared with finite differences. name: of the parameter,
        or of the gradient and the sample."""
        return [(float(a), float(n), f"{row.of} of {row.what}" if row.of else row.what)
                for row in self.rows if row.numeric is not None
                for a, n in zip(np.ravel(row.analytic), np.ravel(row.numeric))]

    def plot(self, path: Any = None) -> Any:
        """Draw `scatter` with the diagonal, on which right gradients lie; write a PNG to path, if one is given. Returns
        Matplotlib's axes, which a notebook shows. ValueError if no single entries were compared."""
        from minigrad.scatter import plot
        if not self.agreement:
            raise ValueError("no single entries of a gradient were compared: there is nothing to plot")
        return plot(self.scatter(), self.agreement, path)

    @property
    def agreement(self) -> str:
        """A sentence: how many entries agree with finite differences; "" if no single entries were compared, or not
        those of all gradients."""
        compared = [row for row in self.rows if row.numeric is not None]
        total = sum(np.size(row.numeric) for row in compared)
        if not total or any(row.check == DIFFERENCES and row.numeric is None for row in self.failures):
            return ""
        right = sum(np.size(row.numeric) if row.ok else
                    int((relative_errors(row.analytic, row.numeric) < TOLERANCE).sum()) for row in compared)
        worst = max(row.error for row in compared)
        return (f"{'all ' if right == total else ''}{right:,}{'' if right == total else f' of {total:,}'} pairs of "
                f"analytic and numeric gradient agree; largest relative error {worst:.1e}")

    def _repr_html_(self) -> str:
        from minigrad.html_tables import report_table
        return report_table(self)

    def __str__(self) -> str:
        lines = []
        for what, rows in itertools.groupby(self.rows, lambda row: row.what):
            lines.append(what)
            for check, same in itertools.groupby(rows, lambda row: row.check):
                group = list(same)
                numbers = "  ".join(f"{row.of} {row.error:.1e}".strip() for row in group)
                if group[0].note:
                    lines += [f"  --   {check:22} {row.note}" for row in group]
                    continue
                lines.append(f"  {'ok  ' if all(row.ok for row in group) else 'FAIL'} {check:22} {numbers}")
                lines += [f"       {row.detail}" for row in group if not row.ok]
        lines += [self.agreement] if self.agreement else []
        return "\n".join(lines)

    __repr__ = __str__


def relative_error(a: Any, b: Any) -> float:
    """max|a - b| / max(|a|, |b|, 1e-3) for two arrays of one shape; infinite if it is NaN, 0 for empty arrays."""
    error = float(_largest(np.subtract(a, b)) / _unit(a, b))
    return error if np.isfinite(error) else np.inf


def relative_errors(a: Any, b: Any) -> Any:
    """|a - b| / max(|a|, |b|, 1e-3), where both maxima are over all entries."""
    return np.abs(np.subtract(a, b)) / _unit(a, b)


def _unit(a: Any, b: Any) -> Any:
    return max(_largest(a), _largest(b), 1e-3)


def _largest(a: Any) -> Any:
    """max|a|, without an array of the size of a; 0 if a is empty."""
    return np.maximum(abs(np.max(a, initial=0.0)), abs(np.min(a, initial=0.0)))


def numeric_gradient(f: Callable[[], float], x: np.ndarray, eps: float = EPS,
                     block: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """df/dx, of the shape of x, by central differences with step eps: f() is called with each element of x changed in
    place in turn, and x is restored. block: indices along each axis; only the elements at them are computed, and the
    result has the shape of the block. TypeError unless x is float64."""
    if x.dtype != np.float64:
        raise TypeError(
            f"numeric derivatives need float64, got {x.dtype}: in lower precision rounding errors hide them"
        )
    axes = [range(n) for n in x.shape] if block is None else block
    gradient = np.empty([len(axis) for axis in axes])
    for k, i in zip(np.ndindex(gradient.shape), itertools.product(*axes)):
        here = x[i]
        x[i] = here + eps
        above = f()
        x[i] = here - eps
        below = f()
        x[i] = here
        gradient[k] = (above - below) / (2.0 * eps)
    return gradient


# ---- one op ---------------------------------------------------------------------------------------------------------

class Case:
    """One sample of an op with its inputs drawn and a random gradient `dys` for each output. Runs the op on plain
    arrays, without the tape."""

    def __init__(self, op_class: type[Op], sample: Sample, seed: int) -> None:
        self.op_class, self.sample, self.static = op_class, sample, sample.static
        self.what = f"{getattr(op_class, 'name', op_class.__name__)}{sample}"
        self.drawn = sample.draw(seed)
        self.wanted = [i for i, x in enumerate(self.drawn) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
        if not self.wanted:
            raise ValueError("no input is an array of floating dtype, so there is no gradient to check: give shapes "
                             "such as (3, 5), or arrays of floats")
        self.inputs: list[Any] = [errors.to_one_dtype(op_class, [x, np.zeros(())])[0] for x in self.drawn]
        names = input_names(op_class, len(self.inputs))
        self.names = [names[i] for i in self.wanted]
        rng = np.random.default_rng([seed, 1])
        self.dys = [rng.normal(size=y.shape) for y in self.forward()[1]]

    @property
    def arrays(self) -> list[np.ndarray]:
        """The inputs that are arrays of floating dtype, and so have a gradient."""
        return [self.inputs[i] for i in self.wanted]

    def replaced(self, arrays: Iterable[Any]) -> list[Any]:
        """The inputs with `arrays` in place of those that have a gradient."""
        new = dict(zip(self.wanted, arrays))
        return [new.get(i, x) for i, x in enumerate(self.inputs)]

    def forward(self, inputs: list[Any] | None = None, op_class: type[Op] | None = None) -> tuple[Op, list[Any]]:
        """The op after its forward, with what it saved, and its outputs."""
        inputs = self.inputs if inputs is None else inputs
        op = (op_class or self.op_class)()
        op.xp, op.needs = np, [i in self.wanted for i in range(len(inputs))]
        try:
            y = errors.outputs(op, op.forward(*inputs, **self.static))
        except Exception as error:
            raise errors.clearer_error(error, self.op_class, inputs, self.static, self.drawn) from error
        return op, list(y) if type(y) is tuple else [y]

    def backward(self, op: Op, dys: list[Any] | None = None) -> list[Any]:
        """What op.backward returns for each input, not yet summed over broadcast axes."""
        dys = self.dys if dys is None else dys
        try:
            result = op.backward(*dys, **op.saved)
        except Exception as error:
            raise errors.clearer_backward_error(error, op, dys) from error
        dxs = list(result) if type(result) is tuple else [result]
        if len(dxs) != len(self.inputs) or type(result) is list:
            raise ValueError(errors.wrong_count(self.op_class, result, len(self.inputs)))
        for i, name in zip(self.wanted, self.names):
            if dxs[i] is not None:
                errors.check_kind(self.op_class, f"d{name}", dxs[i], np.ndarray, self.inputs[i].shape)
        return dxs

    def gradients(self, inputs: list[Any] | None = None, dys: Any = None, op_class: Any = None) -> list[Any]:
        """The gradient of each input that is an array, of its shape."""
        inputs = self.inputs if inputs is None else inputs
        dxs = self.backward(self.forward(inputs, op_class)[0], dys)
        return [unbroadcast(np.asarray(dxs[i]), inputs[i].shape) for i in self.wanted]

    def known(self) -> dict[str, Any]:
        """By name: the inputs that are arrays, what the forward saved, and the gradient of each output."""
        saved = self.forward()[0].saved
        names = [p.name for p in list(inspect.signature(self.op_class.backward).parameters.values())[1:]
                 if p.name not in saved and p.kind is p.POSITIONAL_OR_KEYWORD]
        if not names:                               # backward(self, *dys, ...)
            names = ["dy"] if len(self.dys) == 1 else [f"dy{i}" for i in range(len(self.dys))]
        return dict(zip(self.names, self.arrays)) | saved | dict(zip(names, self.dys))

    def value(self) -> float:
        """The scalar whose gradient is checked: the sum of dy * y over all outputs."""
        return float(sum((dy * y).sum() for dy, y in zip(self.dys, self.forward()[1])))

    def leaves(self) -> list[Tensor]:
        """Copies of the arrays as Tensors with requires_grad."""
        return [Tensor(x.copy(), requires_grad=True) for x in self.arrays]

    def total(self, y: Any, dys: list[Any]) -> Any:
        """As `value`, for outputs that are Tensors."""
        return _sum((a * dy).sum() for a, dy in zip(y if type(y) is tuple else (y,), dys))

    def compare(
        self, check: str, got: list[Any], want: list[Any], tolerance: float, names: list[str] | None = None
    ) -> Iterator[Row]:
        """A row for each pair of arrays; names: what they are called, by default the gradients of the inputs."""
        for name, g, w in zip(names or [f"d{name}" for name in self.names], got, want):
            if np.shape(g) != np.shape(w):
                detail = f"{name} has shape {np.shape(g)}, should be {np.shape(w)}: {diagnose(g, w, self.known())}"
                yield Row(self.what, check, name, np.inf, detail)
                continue
            error, detail = relative_error(g, w), ""
            if error > tolerance:
                at = np.unravel_index(np.argmax(np.abs(g - w)), np.shape(w))
                detail = (f"{name}{index(at, ', ')} is {g[at]:.6g}, should be {w[at]:.6g}: "
                          f"{diagnose(g, w, self.known())}")
            pairs = (np.asarray(g), np.asarray(w)) if check == DIFFERENCES else (None, None)
            yield Row(self.what, check, name, error, detail, *pairs)


def _arrays(saved: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: a for name, a in saved.items() if isinstance(a, np.ndarray)}


def _equal(a: Any, b: Any) -> bool:
    """Whether two arrays are equal, also in their NaN."""
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


def _sum(tensors: Iterable[Any]) -> Any:
    return functional.sum(functional.stack(list(tensors)))


def against_differences(case: Case) -> Iterator[Row]:
    """Central differences in float64. Also fails if backward returns None, or a shape that only un-broadcasting would
    make right in an op that does not broadcast."""
    op, ys = case.forward()
    raw = case.backward(op)
    missing = [f"d{name}" for i, name in zip(case.wanted, case.names) if raw[i] is None]
    if missing:
        detail = f"backward returns None for {' and '.join(missing)}: " + (
            "is its `return` missing?" if len(raw) == 1 else "return a gradient, or give by keyword what has none")
        yield Row(case.what, DIFFERENCES, missing[0], np.inf, detail)
        return
    got = []
    for i, x in zip(case.wanted, case.arrays):
        dx = np.asarray(raw[i])
        copies = dx.size > x.size or dx.shape in [y.shape for y in ys]
        if dx.shape != x.shape and case.op_class.broadcasts and copies:
            dx = unbroadcast(dx, x.shape)
        got.append(dx)
    yield from case.compare(DIFFERENCES, got, [numeric_gradient(case.value, x) for x in case.arrays], TOLERANCE)


def against_complex_step(case: Case) -> Iterator[Row]:
    """Im f(x + ih) / h, exact up to rounding, as nothing is subtracted; for primitives that work on complex numbers.
    Source: Squire & Trapp 1998, "Using complex variables to estimate derivatives of real functions"."""
    if case.op_class.fused or not case.op_class.analytic:
        return
    rng, h = np.random.default_rng(0), 1e-30
    for k, (name, g) in enumerate(zip(case.names, case.gradients())):
        u = rng.normal(size=g.shape)
        moved = case.replaced(x + 1j * h * u if j == k else x for j, x in enumerate(case.arrays))
        derivative = sum((dy * y).sum() for dy, y in zip(case.dys, case.forward(moved)[1])).imag / h
        yield from case.compare("complex step", [(g * u).sum()], [derivative], 1e-10, [f"d{name}"])


def against_decomposition(case: Case) -> Iterator[Row]:
    """The outputs and gradients of a fused op against those of its decomposition into primitives."""
    if case.op_class.composed is None:
        return
    xs = case.leaves()
    y = case.op_class.composed(functional, *case.replaced(xs), **case.sample.static)
    backward(case.total(y, case.dys))
    ys = [a.numpy() for a in (y if type(y) is tuple else (y,))]
    yield from case.compare("decomposition", case.forward()[1], ys, 1e-10, ["y"] * len(ys))
    want = [np.zeros(x.shape) if x.grad is None else x.grad for x in xs]
    yield from case.compare("decomposition", case.gradients(), want, 1e-9)


def second_order(case: Case) -> Iterator[Row]:
    """The gradient, with respect to the inputs and dy, of the inner product of the gradients with random directions,
    against central differences of that inner product; for primitives."""
    if case.op_class.fused:
        return
    rng = np.random.default_rng(2)
    directions = [rng.normal(size=x.shape) for x in case.arrays]
    xs, dys = case.leaves(), [Tensor(dy.copy(), requires_grad=True) for dy in case.dys]
    y = apply(case.op_class, *case.replaced(xs), **case.sample.static)
    dxs = grad(case.total(y, dys), xs, create_graph=True)
    product = _sum((dx * u).sum() for dx, u in zip(dxs, directions))
    got = [g.data for g in grad(product, xs + dys)] if product.requires_grad else [np.zeros(x.shape) for x in xs + dys]
    f = lambda: float(sum((g * u).sum() for g, u in zip(case.gradients(), directions)))
    want = [numeric_gradient(f, x) for x in case.arrays + case.dys]
    names = [f"d{name}" for name in case.names] + ["ddy"] * len(dys)
    yield from case.compare(TWICE, got, want, TOLERANCE, names)


def accumulation(case: Case) -> Iterator[Row]:
    """On the tape, with the output used twice: the gradients add up."""
    xs = case.leaves()
    y = apply(case.op_class, *case.replaced(xs), **case.sample.static)
    backward(case.total(y, case.dys) + case.total(y, case.dys))
    yield from case.compare("accumulation", [x.grad for x in xs], [2.0 * g for g in case.gradients()], 1e-12)


def no_side_effects(case: Case) -> Iterator[Row]:
    """Forward and backward do not write into the arrays they are given; run again, they give the same; no gradient
    shares memory with an input or a saved array."""
    xs, dys = [x.copy() for x in case.arrays], [dy.copy() for dy in case.dys]
    for a in xs + dys:
        a.flags.writeable = False
    problem, running = "", "forward"
    try:
        op, ys = case.forward(case.replaced(xs))
        if not all(map(_equal, ys, case.forward(case.replaced(xs))[1])):
            yield Row(case.what, "no side effects", "", np.inf, RANDOM)
            return
        running = "backward"
        saved = _arrays(op.saved)
        before = {name: a.copy() for name, a in saved.items()}
        first = [np.array(dx) for dx in case.backward(op, dys) if dx is not None]
        second = [np.asarray(dx) for dx in case.backward(op, dys) if dx is not None]
        changed = [name for name, a in before.items() if not _equal(saved[name], a)]
        if changed:
            problem = f"backward changes what the forward saved, {', '.join(changed)}: a copy of it may be changed"
        elif not all(map(_equal, first, second)):
            problem = "a second backward gives another result"
        elif any(np.shares_memory(dx, a) for dx in second for a in [*saved.values(), *xs]):
            problem = "a gradient shares memory with an input or a saved array: return a copy"
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        problem = f"{running} {errors.WRITES}"
    yield Row(case.what, "no side effects", "", np.inf if problem else 0.0, problem)


def layouts_and_dtypes(case: Case) -> Iterator[Row]:
    """Strided inputs give the same gradients; float32 and float16 inputs give outputs and gradients of their dtype, in
    float32 close to those in float64."""
    want = case.gradients()
    strided = case.replaced(np.repeat(x[..., None], 2, -1)[..., 0] for x in case.arrays)
    yield from case.compare("strided", case.gradients(strided), want, 1e-12)
    if "dtype" in case.sample.static:           # astype changes the dtype
        return
    for dtype in ("float32", "float16"):
        cast: Callable[[Any], Any] = lambda x: (
            x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x)
        inputs, dys = list(map(cast, case.inputs)), list(map(cast, case.dys))
        narrow = copy.copy(case)
        narrow.static = {name: cast(value) for name, value in case.static.items()}
        try:
            op, ys = narrow.forward(inputs)
            dxs = narrow.backward(op, dys)
        except TypeError as error:              # np.linalg, for example, has no float16
            if dtype == "float32" or issubclass(case.op_class, (Primitive, Fused)):
                raise
            yield Row(case.what, f"{dtype} kept", "", 0.0, note=f"not checked: {error}")
            return
        found = {str(np.asarray(a).dtype): f" in {name}" for name, a in zip(
            ["the output"] * len(ys) + [f"d{name}" for name in case.names],
            ys + [dxs[i] for i in case.wanted]) if a is not None and np.asarray(a).dtype != dtype}
        wrong = ", ".join(f"{other}{where}" for other, where in found.items())
        yield Row(case.what, f"{dtype} kept", "", np.inf if wrong else 0.0,
                  wrong and f"{dtype} gives {wrong}{errors.PROMOTED}")
        if wrong:
            return
        if dtype == "float32":
            yield from case.compare("float32", narrow.gradients(inputs, dys), want, 1e-4)


def kernels(case: Case) -> Iterator[Row]:
    """The outputs and gradients of the kernel for NumPy arrays, if there is one, against the op's, in float64 and
    float32."""
    kernel = executor_of(np.ndarray, plain=False).implementation(case.op_class)
    if kernel is case.op_class:
        return
    for dtype, bound in (("float64", 1e-9), ("float32", 1e-5)):
        inputs, dys = case.replaced(x.astype(dtype) for x in case.arrays), [dy.astype(dtype) for dy in case.dys]
        ys = case.forward(inputs)[1]
        yield from case.compare("kernel", case.forward(inputs, kernel)[1], ys, bound, ["y"] * len(ys))
        got, want = case.gradients(inputs, dys, kernel), case.gradients(inputs, dys)
        yield from case.compare("kernel", got, want, bound)


CHECKS = (no_side_effects, against_differences, against_complex_step, against_decomposition, second_order, accumulation,
          layouts_and_dtypes, kernels)


def check(op_class: type[Op], *inputs: Any, seed: int = 0, **static: Any) -> Report:
    """Check the forward and the backward of an op by all functions of CHECKS: `check(MyOp, (3, 5), (5,), axis=1)`.

    Args:
        inputs, static: as for Sample: for each positional input a shape, for which standard normal numbers are drawn,
            an array, a Tensor, a list or a number; and the keyword arguments. By default, all `samples` of the op.
        seed: of the random inputs and of the gradients of the outputs.

    With `samples`, an input that none of them differentiates and a line of `backward` that none of them runs is a
    failure too. An error that the op raises is a row that fails. What the op does not have, such as a decomposition,
    is a row that says "not checked". ValueError if there are neither inputs nor samples, TypeError for what is no op.
    """
    if not (isinstance(op_class, type) and issubclass(op_class, Op)):
        raise TypeError(f"check takes an op, a subclass of minigrad.Op, not {op_class!r:.80}")
    if words := errors.wrong_inputs(op_class, len(inputs)):
        raise TypeError(words)
    given = [Sample(*inputs, **static)] if inputs or static else []
    samples = given or op_class.samples
    if not all(isinstance(sample, Sample) for sample in samples):
        raise TypeError(f"samples of {op_class.__name__} is a list of Samples: from minigrad.ops.sample import Sample; "
                        "samples = [Sample((3, 5))]")
    if not samples:
        needed = ", ".join(p.name for p in list(inspect.signature(op_class.forward).parameters.values())[1:])
        raise ValueError(f"{op_class.name} has no samples to check it on: give inputs for forward({needed}), a shape "
                         f"or an array for each, such as check({op_class.__name__}, (3, 5)); or put samples = "
                         "[Sample((3, 5))] in the class")
    rows = [row for sample in samples for row in _check_sample(op_class, sample, seed, CHECKS)]
    if all(row.ok for row in rows):
        for gap in _gaps(op_class, samples, seed):
            rows.append(Row(op_class.name, "coverage", "", 0.0, note=f"not checked: {gap}") if given else
                        Row(op_class.name, "coverage", "", np.inf, gap))
        if op_class.fused and op_class.composed is None:
            rows += [Row(op_class.name, check, "", 0.0, note=NOT_COMPOSED) for check in ("decomposition", TWICE)]
    return Report(rows)


def check_sample(op_class: type[Op], sample: Sample, seed: int = 0) -> Report:
    """Check one sample of an op against finite differences only."""
    return Report(_check_sample(op_class, sample, seed, (against_differences,)))


def _check_sample(op_class: type[Op], sample: Sample, seed: int, checks: Iterable[Any]) -> Iterator[Row]:
    raised = False
    for run in checks:
        try:
            with plain():
                rows = list(run(Case(op_class, sample, seed)))
        except Exception as error:
            hint = f"; {errors.ON_TENSORS}" if run is second_order else ""
            rows = [Row(f"{op_class.name}{sample}", run.__name__.replace("_", " "), "", np.inf,
                        f"raised {type(error).__name__}: {error}{hint}")]
            raised = True
        yield from rows
        if raised or run is no_side_effects and not rows[0].ok:     # the others would compare changed arrays
            return


def _gaps(op_class: type[Op], samples: Sequence[Sample], seed: int) -> Iterator[str]:
    """What no sample tests: inputs, and lines of the backward."""
    cases = [Case(op_class, sample, seed) for sample in samples]
    tested = {name for case in cases for name in [*case.names, *case.sample.static]}
    tested |= {name for case in cases for name, x in zip(input_names(op_class, len(case.drawn)), case.drawn)
               if isinstance(x, np.ndarray)}
    for p in list(inspect.signature(op_class.forward).parameters.values())[1:]:
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in tested:
            yield f"no sample differentiates {p.name}"
    code = inspect.unwrap(op_class.backward).__code__
    ran: set[int] = set()

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is code:
            ran.add(frame.f_lineno)
            return trace
        return None

    for case in cases:
        op = case.forward()[0]
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            case.backward(op)
        finally:
            sys.settrace(before)
    missed = sorted({line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno} - ran)
    if missed:
        yield (f"no sample runs line {', '.join(map(str, missed))} of its backward "
               f"({place(code.co_filename, missed[0])})")


# ---- a whole model --------------------------------------------------------------------------------------------------


def check_model(
    loss_fn: Callable[[], Tensor], parameters: Iterable[Any], seed: int = 0, coordinates: int = 5
) -> Report:
    """Check the gradient of loss_fn() with respect to each parameter against central differences: in `coordinates`
    elements picked at random, and along a random direction of the whole array. The parameters keep their values.

    Args:
        loss_fn: returns the loss, a Tensor of one element, the same at every call.
        parameters: float64 Tensors of any shape, or (name, Tensor) pairs as named_parameters() gives.
    Raises:
        TypeError: if a parameter is not float64.
        ValueError: if the loss is not finite, or two calls of loss_fn give different losses.
    """
    named = [
        p if isinstance(p, tuple) else (getattr(p, "name", "") or f"parameter {i}", p) for i, p in enumerate(parameters)
    ]
    for name, p in named:
        if p.dtype != np.float64:
            raise TypeError(
                f"{name} is {p.dtype}: numeric derivatives need float64; make the model with dtype=\"float64\""
            )
    value: Callable[[], float] = lambda: float(loss_fn().item())
    loss = value()
    if not np.isfinite(loss):
        raise ValueError(f"loss_fn gives {loss}: there is no gradient to check")
    if loss != value():
        raise ValueError("loss_fn gives another loss when it is called again: make the key of dropout "
                         "inside loss_fn, with mg.random.key(seed)")
    gradients = [g.numpy() for g in grad(loss_fn(), [p for _, p in named])]
    rng, rows = np.random.default_rng(seed), []
    for (name, p), g in zip(named, gradients):
        start = p.numpy()

        def derivative(direction: np.ndarray) -> float:
            p.data = start + EPS * direction
            above = value()
            p.data = start - EPS * direction
            below = value()
            p.data = start
            return (above - below) / (2.0 * EPS)

        picked = rng.choice(g.size, size=min(coordinates, g.size), replace=False)
        units = [np.eye(1, g.size, int(i)).reshape(g.shape) for i in picked]
        want = np.array([derivative(unit) for unit in units])
        got = g.reshape(-1)[picked]
        scale = max(float(np.abs(g).max()), 1e-3)
        u = rng.normal(size=g.shape)
        along, should = float((g * u).sum()), derivative(u)
        error = float(np.abs(got - want).max(initial=0.0)) / scale
        rows.append(Row(name, "coordinates", "", error, "" if error < TOLERANCE else f"gives {got}, should be {want}",
                        got, want))
        error = abs(along - should) / max(abs(should), scale)
        rows.append(Row(name, "direction", "", error,
                        "" if error < TOLERANCE else f"gives {along:.6g}, should be {should:.6g}"))
    return Report(rows)


# ---- command line ---------------------------------------------------------------------------------------------------

def main(argv: list[str] | None = None) -> int:
    """Print a line for each op, or with --op every check of one op. Returns 1 if a check failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.gradcheck",
        usage=argparse.SUPPRESS,                # so that an error message is one line
        description="Check every op against numeric derivatives.",
    )
    parser.add_argument("--op", help="show the checks of one op in detail")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs (default 0)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed must be 0 or more, got {args.seed}")
    if args.op is not None and args.op not in OPS:
        near = difflib.get_close_matches(args.op, OPS, 1, 0.0)
        parser.error(f"there is no op {args.op!r}; did you mean {near[0]}?")
    if args.op is not None:
        report = check(OPS[args.op], seed=args.seed)
        print(f"{args.op}: {docstring(OPS[args.op])}\n\n{report}")
        return 0 if report.ok else 1
    start, failures = time.perf_counter(), []
    print(f"{'op':20} {'samples':>7} {'worst error':>12}  {'checked against':40} verdict")
    for name, op in sorted(OPS.items()):
        if not op.samples:
            print(f"{name:20} not checked: it has no samples")
            continue
        report = check(op, seed=args.seed)
        oracles = "decomposition" if op.composed else "complex step, second order" if op.analytic else TWICE
        verdict = "ok" if report.ok else "FAIL"
        print(f"{name:20} {len(op.samples):7} {report.worst:12.1e}  {'differences, ' + oracles:40} {verdict}",
              flush=True)
        failures += report.failures
    for row in failures:
        print(f"FAIL {row.what}  {row.check}: {row.detail}")
    print(f"{len(OPS)} ops in {time.perf_counter() - start:.1f} s, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    run_command("python -m minigrad.gradcheck", main)
