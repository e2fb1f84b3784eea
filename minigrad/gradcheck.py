"""Is this gradient right, and if not, what is wrong with it?

`check(op)` holds one op against numeric derivatives on all its samples, `check_model` a whole loss, `diagnose` says in
words how a wrong gradient differs from the right one. `python -m minigrad.gradcheck` checks every op there is.

Derivatives are taken in float64 by central differences with a step of 1e-5, for a *random* gradient of the output: ones
would hide a softmax that returns zeros. The relative error of arrays a, b is max|a - b| / max(|a|, |b|, 1e-3).
"""
import argparse
import difflib
import inspect
import sys
import time
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import numpy as np

from minigrad import functional
from minigrad.diagnose import diagnose
from minigrad.ops.op import OPS, Op, Sample
from minigrad.tape import apply, backward, grad, input_names, plain, unbroadcast
from minigrad.tensor import Tensor

EPS = 1e-5
TOLERANCE = 1e-6


class Row(NamedTuple):
    """One thing that was checked."""
    what: str                   # which op and sample, or which parameter
    check: str                  # what it was held against
    error: float                # worst relative error, or 0 where there is none to measure
    ok: bool
    detail: str = ""            # of a failure: where, the numbers, and a diagnosis


class Report:
    """All rows of a check; `ok` if every one is."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def worst(self) -> float:
        """The largest relative error against numeric derivatives."""
        return max([row.error for row in self.rows if row.check in ("finite differences", "second order")], default=0.0)

    def __str__(self) -> str:
        return "\n".join(f"{'ok  ' if r.ok else 'FAIL'} {r.what}  {r.check}  {r.error:.1e}{'  ' + r.detail if r.detail else ''}"
                         for r in self.rows)


def relative_error(a: Any, b: Any) -> float:
    """max|a - b| / max(|a|, |b|, 1e-3) over arrays of one shape; infinite for NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if a.size == 0:
        return 0.0
    error = float(np.abs(a - b).max() / max(np.abs(a).max(), np.abs(b).max(), 1e-3))
    return error if np.isfinite(error) else np.inf


def numeric_gradient(f: Callable[[], float], x: np.ndarray, eps: float = EPS) -> np.ndarray:
    """df/dx by central differences, each element of x moved in place and put back. TypeError unless x is float64."""
    if x.dtype != np.float64:
        raise TypeError(f"numeric derivatives need float64, got {x.dtype}: in lower precision the rounding of f drowns them")
    slopes = np.empty_like(x)
    for i in np.ndindex(x.shape):
        here = x[i]
        x[i] = here + eps
        above = f()
        x[i] = here - eps
        below = f()
        x[i] = here
        slopes[i] = (above - below) / (2.0 * eps)
    return slopes


# ---- one op ---------------------------------------------------------------------------------------------------------

class Case:
    """One sample of an op, drawn: its inputs, a random gradient for each output, and both directions on plain arrays."""

    def __init__(self, op_class: type[Op], sample: Sample, seed: int) -> None:
        self.op_class, self.sample = op_class, sample
        self.inputs = sample.draw(seed)
        self.names = input_names(op_class, len(self.inputs))
        self.wanted = [i for i, x in enumerate(self.inputs) if isinstance(x, np.ndarray)]
        rng = np.random.default_rng([seed, 1])
        self.dys = [rng.normal(size=y.shape) for y in self.forward()[1]]

    def forward(self, inputs: list[Any] | None = None, op_class: type[Op] | None = None) -> tuple[Op, list[Any]]:
        """The op that ran, and its outputs as arrays."""
        inputs = self.inputs if inputs is None else inputs
        op = (op_class or self.op_class)()
        op.xp, op.needs = np, [isinstance(x, np.ndarray) for x in inputs]
        y = op.forward(*inputs, **self.sample.static)
        return op, [np.asarray(a) for a in (y if type(y) is tuple else (y,))]

    def backward(self, op: Op, dys: list[Any] | None = None) -> list[Any]:
        """The raw gradient of each input, before any un-broadcasting."""
        dxs = op.backward(*(self.dys if dys is None else dys), **op.saved)
        return list(dxs) if type(dxs) is tuple else [dxs]

    def gradients(self, inputs: list[Any] | None = None, dys: list[Any] | None = None, op_class: type[Op] | None = None) -> list[Any]:
        """The gradient of each array among the inputs, in its shape."""
        inputs = self.inputs if inputs is None else inputs
        dxs = self.backward(self.forward(inputs, op_class)[0], dys)
        return [unbroadcast(np.asarray(dxs[i]), inputs[i].shape) for i in self.wanted]

    def value(self) -> float:
        """The number whose gradient is checked: sum of dy * y over all outputs."""
        return float(sum((dy * y).sum() for dy, y in zip(self.dys, self.forward()[1])))

    def tensors(self) -> list[Any]:
        """The inputs as leaves of a tape."""
        return [Tensor(x.copy(), requires_grad=True) if isinstance(x, np.ndarray) else x for x in self.inputs]

    def total(self, y: Any, dys: list[Any]) -> Any:
        """`value` of outputs on the tape."""
        ys = y if type(y) is tuple else (y,)
        return functional.sum(functional.stack([(a * dy).sum() for a, dy in zip(ys, dys)]))


def _compare(check: str, got: list[Any], want: list[Any], names: list[str], case: Case, tolerance: float) -> Iterator[tuple[str, float, str]]:
    for name, g, w in zip(names, got, want):
        if g is None or np.shape(g) != np.shape(w):
            yield check, np.inf, f"d{name} has shape {None if g is None else np.shape(g)}, {name} has {np.shape(w)}"
            continue
        error, detail = relative_error(g, w), ""
        if error > tolerance:
            at = np.unravel_index(np.argmax(np.abs(g - w)), np.shape(w))
            place = f"[{', '.join(str(int(i)) for i in at)}]" if at else ""
            known = {n: x for n, x in zip(case.names, case.inputs) if isinstance(x, np.ndarray)}
            known |= {n: x for n, x in case.forward()[0].saved.items() if isinstance(x, np.ndarray)}
            detail = f"d{name}{place} is {g[at]:.6g}, should be {w[at]:.6g}: {diagnose(g, w, known)}"
        yield check, error, detail


def _against_differences(case: Case) -> Iterator[tuple[str, float, str]]:
    """Central differences in float64; before that, raw shapes, which the engine's un-broadcasting must not have to mend."""
    op, ys = case.forward()
    raw = case.backward(op)
    if len(raw) != len(case.inputs):
        yield "finite differences", np.inf, f"backward returns {len(raw)} gradients for {len(case.inputs)} inputs"
        return
    got = []
    for i in case.wanted:
        shape, dx = case.inputs[i].shape, raw[i]
        fits = np.shape(dx) == shape
        copies = np.size(dx) > case.inputs[i].size or np.shape(dx) in [y.shape for y in ys]
        if not fits and case.op_class.broadcasts and copies:
            try:
                dx, fits = unbroadcast(dx, shape), True
            except ValueError:
                pass
        got.append(dx if fits else np.asarray(dx))
    want = [numeric_gradient(case.value, case.inputs[i]) for i in case.wanted]
    yield from _compare("finite differences", got, want, [case.names[i] for i in case.wanted], case, TOLERANCE)


def _against_complex_step(case: Case) -> Iterator[tuple[str, float, str]]:
    """Im f(x + ih) / h: no subtraction, so exact to rounding; for forwards that hold for complex numbers."""
    if case.op_class.fused or not case.op_class.analytic:
        return
    rng, h = np.random.default_rng(0), 1e-30
    for i, g in zip(case.wanted, case.gradients()):
        u = rng.normal(size=case.inputs[i].shape)
        moved = [x + 1j * h * u if j == i else x for j, x in enumerate(case.inputs)]
        slope = sum((dy * y).sum() for dy, y in zip(case.dys, case.forward(moved)[1])).imag / h
        error = relative_error((g * u).sum(), slope)
        wrong = f"along a direction of {case.names[i]}: {(g * u).sum():.6g}, should be {slope:.6g}"
        yield "complex step", error, "" if error < 1e-10 else wrong


def _against_composed(case: Case) -> Iterator[tuple[str, float, str]]:
    """The composed twin, both directions."""
    if not case.op_class.fused:
        return
    xs = case.tensors()
    y = case.op_class.composed(functional, *xs, **case.sample.static)
    backward(case.total(y, case.dys))
    ys = [a.numpy() for a in (y if type(y) is tuple else (y,))]
    yield from _compare("composed twin, forward", case.forward()[1], ys, [f"y{i}" for i in range(len(ys))], case, 1e-10)
    want = [np.zeros_like(x.data) if x.grad is None else x.grad for x in xs if isinstance(x, Tensor)]
    yield from _compare("composed twin", case.gradients(), want, [case.names[i] for i in case.wanted], case, 1e-9)


def _second_order(case: Case) -> Iterator[tuple[str, float, str]]:
    """The gradient of (gradients . random directions), for the inputs and for dy, against differences of the gradient."""
    if case.op_class.fused:
        return
    rng = np.random.default_rng(2)
    directions = [rng.normal(size=case.inputs[i].shape) for i in case.wanted]
    xs, dys = case.tensors(), [Tensor(dy.copy(), requires_grad=True) for dy in case.dys]
    leaves = [xs[i] for i in case.wanted]
    dxs = grad(case.total(apply(case.op_class, *xs, **case.sample.static), dys), leaves, create_graph=True)  # type: ignore[arg-type]
    slope = functional.sum(functional.stack([(dx * u).sum() for dx, u in zip(dxs, directions)]))
    got = [g.data for g in grad(slope, leaves + dys)] if slope.requires_grad else [np.zeros(x.shape) for x in leaves + dys]
    f = lambda: float(sum((g * u).sum() for g, u in zip(case.gradients(), directions)))
    want = [numeric_gradient(f, x) for x in [case.inputs[i] for i in case.wanted] + case.dys]
    names = [case.names[i] for i in case.wanted] + [f"dy{i}" for i in range(len(dys))]
    yield from _compare("second order", got, want, names, case, TOLERANCE)


def _on_the_tape(case: Case) -> Iterator[tuple[str, float, str]]:
    """Through the engine, with the result used twice: gradients add up, and nothing is shared that should not be."""
    xs = case.tensors()
    y = apply(case.op_class, *xs, **case.sample.static)
    backward(case.total(y, case.dys) + case.total(y, case.dys))
    got = [xs[i].grad for i in case.wanted]
    want = [2.0 * g for g in case.gradients()]
    yield from _compare("fan-out adds", got, want, [case.names[i] for i in case.wanted], case, 1e-12)


def _leaves_alone(case: Case) -> Iterator[tuple[str, float, str]]:
    """Neither direction writes into what it is given; a second backward gives the same; no gradient shares memory with
    an input or a saved array."""
    inputs = [x.copy() if isinstance(x, np.ndarray) else x for x in case.inputs]
    dys = [dy.copy() for dy in case.dys]
    for a in inputs + dys:
        if isinstance(a, np.ndarray):
            a.flags.writeable = False
    problem = ""
    try:
        op, ys = case.forward(inputs)
        saved = {name: a for name, a in op.saved.items() if isinstance(a, np.ndarray)}
        before = {name: a.copy() for name, a in saved.items()}
        first = [np.array(dx) for dx in case.backward(op, dys) if dx is not None]
        second = [dx for dx in case.backward(op, dys) if dx is not None]
        if any(not np.array_equal(saved[name], a, equal_nan=True) for name, a in before.items()):
            problem = "backward changes what the forward saved"
        elif any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second)):
            problem = "a second backward gives another result"
        else:
            own = [a for a in [*saved.values(), *inputs] if isinstance(a, np.ndarray)]
            if any(np.shares_memory(dx, a) for dx in second if isinstance(dx, np.ndarray) for a in own):
                problem = "a gradient shares memory with an input or a saved array"
    except ValueError as error:
        problem = f"a direction writes into an array that is not its own: {error}"
    yield "leaves alone", 0.0 if not problem else np.inf, problem


def _in_other_layouts(case: Case) -> Iterator[tuple[str, float, str]]:
    """Strided inputs give the same; float32 and float16 stay what they are, float32 close to float64."""
    names, want = [case.names[i] for i in case.wanted], case.gradients()
    strided = [np.repeat(x[..., None], 2, -1)[..., 0] if isinstance(x, np.ndarray) else x for x in case.inputs]
    yield from _compare("strided", case.gradients(strided), want, names, case, 1e-12)
    for dtype in (np.float32, np.float16):
        inputs = [x.astype(dtype) if isinstance(x, np.ndarray) else x for x in case.inputs]
        dys = [dy.astype(dtype) for dy in case.dys]
        static = case.sample.static
        if "dtype" in static:                   # astype goes where it is told
            continue
        op, ys = case.forward(inputs)
        dxs = [np.asarray(dx) for dx in case.backward(op, dys) if dx is not None]
        wrong = {str(a.dtype) for a in ys + dxs} - {np.dtype(dtype).name}
        yield f"{np.dtype(dtype).name} stays", np.inf if wrong else 0.0, f"gives {', '.join(wrong)}" if wrong else ""
        if dtype == np.float32 and not wrong:
            yield from _compare("float32", case.gradients(inputs, dys), want, names, case, 1e-4)


def _kernels(case: Case) -> Iterator[tuple[str, float, str]]:
    """The kernel for NumPy's arrays, if there is one, equals the textbook."""
    kernel = case.op_class.kernels.get(np.ndarray)
    if kernel is not None:
        names = [case.names[i] for i in case.wanted]
        yield from _compare("kernel", case.gradients(op_class=kernel), case.gradients(), names, case, 1e-9)


CHECKS = (_against_differences, _against_complex_step, _against_composed, _second_order, _on_the_tape, _leaves_alone,
          _in_other_layouts, _kernels)


def check(op_class: type[Op], seed: int = 0) -> Report:
    """Hold an op against everything that can be known about it, on all its samples: see the functions in CHECKS. An op
    without samples fails, as does an input that none differentiates, or a line of `backward` that none runs."""
    rows, cases = [], []
    for sample in op_class.samples:
        what = f"{op_class.name}{sample}"
        for run in CHECKS:
            try:
                case = Case(op_class, sample, seed)
                with plain():
                    rows += [Row(what, name, error, not detail, detail) for name, error, detail in run(case)]
            except Exception as error:
                rows.append(Row(what, run.__name__.strip("_").replace("_", " "), np.inf, False, f"raised {type(error).__name__}: {error}"))
                break
        else:
            cases.append(case)
    rows += [Row(op_class.name, "coverage", np.inf, False, gap) for gap in _gaps(op_class, cases)]
    return Report(rows)


def check_sample(op_class: type[Op], sample: Sample, seed: int) -> Report:
    """Only finite differences, on one sample."""
    return Report(Row(f"{op_class.name}{sample}", name, error, not detail, detail)
                  for name, error, detail in _against_differences(Case(op_class, sample, seed)))


def _gaps(op_class: type[Op], cases: list[Case]) -> Iterator[str]:
    """What no sample reaches."""
    if not op_class.samples:
        yield "it has no samples"
        return
    reached = {case.names[i] for case in cases for i in case.wanted}
    for name in input_names(op_class, 1):
        if name not in reached:
            yield f"no sample differentiates {name}"
    code = op_class.backward.__code__
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
        yield f"no sample runs line {', '.join(map(str, missed))} of its backward ({code.co_filename})"


# ---- a whole model --------------------------------------------------------------------------------------------------

def check_model(loss_fn: Callable[[], Tensor], parameters: Iterable[Any], seed: int = 0, coordinates: int = 5) -> Report:
    """The gradient of loss_fn() with respect to each parameter, against central differences: in some coordinates picked
    at random, and along a random direction of the whole array.

    Args:
        loss_fn: returns the loss, a Tensor of one element, the same at every call.
        parameters: Tensors, or (name, Tensor) pairs as named_parameters() gives; float64.
    Raises:
        TypeError: for a parameter that is not float64. ValueError: if two calls of loss_fn differ.
    """
    named = [p if isinstance(p, tuple) else (getattr(p, "name", "") or f"parameter {i}", p) for i, p in enumerate(parameters)]
    for name, p in named:
        if p.dtype != np.float64:
            raise TypeError(f"{name} is {p.dtype}: numeric derivatives need float64; make the model with dtype=\"float64\"")
    value = lambda: float(loss_fn().item())
    if value() != value():
        raise ValueError("loss_fn gives another loss when it is called again: give dropout the same key each time")
    gradients = [g.numpy() for g in grad(loss_fn(), [p for _, p in named])]
    rng, rows = np.random.default_rng(seed), []
    for (name, p), g in zip(named, gradients):
        start = p.numpy()

        def slope(direction: np.ndarray) -> float:
            p.data = start + EPS * direction
            above = value()
            p.data = start - EPS * direction
            below = value()
            p.data = start
            return (above - below) / (2.0 * EPS)

        picked = rng.choice(g.size, size=min(coordinates, g.size), replace=False)
        units = [np.eye(1, g.size, int(i)).reshape(g.shape) for i in picked]
        want = np.array([slope(unit) for unit in units])
        got = g.reshape(-1)[picked]
        scale = max(float(np.abs(g).max()), 1e-3)
        u = rng.normal(size=g.shape)
        along, should = float((g * u).sum()), slope(u)
        for check_name, error, numbers in (
                ("coordinates", float(np.abs(got - want).max()) / scale, f"gives {got}, should be {want}"),
                ("direction", abs(along - should) / max(abs(should), scale), f"gives {along:.6g}, should be {should:.6g}")):
            rows.append(Row(name, check_name, error, error < TOLERANCE, "" if error < TOLERANCE else numbers))
    return Report(rows)


# ---- command line ---------------------------------------------------------------------------------------------------

def main(argv: list[str] | None = None) -> int:
    """Print a row per op, or every row of one. Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m minigrad.gradcheck", description="Check every op against numeric derivatives.")
    parser.add_argument("--op", help="show the checks of one op in detail")
    parser.add_argument("--seed", type=int, default=0, help="draw other samples")
    args = parser.parse_args(argv)
    if args.op is not None and args.op not in OPS:
        near = difflib.get_close_matches(args.op, OPS, 3, 0.0)
        parser.error(f"there is no op {args.op!r}; did you mean {' or '.join(near)}?")
    if args.op is not None:
        report = check(OPS[args.op], args.seed)
        print(f"{args.op}: {inspect.cleandoc(OPS[args.op].__doc__ or '')}\n\n{report}")
        return 0 if report.ok else 1
    start, failed = time.perf_counter(), []
    print(f"{'op':14} {'samples':>7} {'worst error':>12}  {'held against':32} verdict")
    for name in sorted(OPS):
        report = check(OPS[name], args.seed)
        oracle = "differences, composed twin" if OPS[name].fused else "differences, complex step, twice" if OPS[name].analytic else "differences, twice"
        print(f"{name:14} {len(OPS[name].samples):7} {report.worst:12.1e}  {oracle:32} {'ok' if report.ok else 'FAIL'}", flush=True)
        failed += [row for row in report.rows if not row.ok]
    for row in failed:
        print(f"FAIL {row.what}  {row.check}: {row.detail}")
    print(f"{len(OPS)} ops in {time.perf_counter() - start:.1f} s, {len(failed)} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
