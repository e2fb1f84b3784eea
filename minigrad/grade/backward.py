"""Grades a backward: it is compared with finite differences of the op's forward, and a difference is explained."""
import inspect
import itertools
from typing import Any, Callable, Iterable

import numpy as np

from minigrad.diagnose import NO_RULE, diagnose
from minigrad.gradcheck import TOLERANCE, Case, numeric_gradient, relative_error
from minigrad.grade.answer import call, kind_of, refuse
from minigrad.grade.verdict import Wrong
from minigrad.ops.op import Op
from minigrad.ops.sums import copied_axes, unbroadcast
from minigrad.words import index, plural

SEEDS = range(3)
MOST_ROWS, MOST_COLUMNS = 6, 24                 # of the map of wrong entries
MOST_EXTRA_AXES, MOST_ENTRIES = 4, 1_000_000    # of a gradient of another shape that is explained


def grade_backward(op_class: type[Op], mine: Callable[..., Any], seeds: Iterable[int] = SEEDS) -> None:
    """mine(dy, ...): the gradient of each input, a tuple or a list if there are several. After one gradient for each
    output it takes what the forward saved, by name. Wrong at the first sample where it differs from finite
    differences."""
    for right, (seed, sample) in enumerate(itertools.product(seeds, op_class.samples)):
        case = Case(op_class, sample, seed)
        saved = taken(mine, case)
        try:
            dxs = gradients(call(mine, *case.dys, **saved), case)
            for name, dx, x in zip(case.names, dxs, case.arrays):
                compare(case, f"d{name}", dx, x)
        except Wrong as wrong:
            before = f"    (right on {plural(right, 'input')} before it)" if right else ""
            raise Wrong(f"  input   {case.what}{before}\n{wrong}") from None


def taken(mine: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What an answer takes of what the forward saved. Wrong if it takes anything else."""
    saved, outputs = case.forward()[0].saved, len(case.dys)
    saved = {name: np.float64(x) if type(x) is float else x for name, x in saved.items()}       # has a shape, ()
    try:
        parameters = list(inspect.signature(mine).parameters.values())
    except (TypeError, ValueError):
        raise Wrong("  its arguments cannot be found out: write it as a function, with def") from None
    first = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:outputs]
    starred = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if first[:1] == ["self"]:
        raise Wrong("  it takes self: write a function, not a method")
    if len(first) < outputs and not starred:
        what = f"the gradients of the {outputs} outputs, def mine(*dys, ...)" if outputs > 1 else "dy"
        raise Wrong(f"  it takes {', '.join(first) or 'no arguments'}; first must come {what}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {name: value for name, value in saved.items() if name not in first}
    names = [p.name for p in parameters if p.name not in first and p.kind is not p.VAR_POSITIONAL
             and (p.name in saved or p.default is p.empty)]
    for name in names:
        if name not in saved:
            wants = f"  it takes {name}, but {case.op_class.name} saves {', '.join(saved) or 'nothing'}"
            raise Wrong(wants + (": dy comes first" if name.startswith("dy") else ""))
    return {name: saved[name] for name in names}


def gradients(result: Any, case: Case) -> list[Any]:
    """The gradient of each input that has one, in what an answer returned. It may also return one, such as None, for an
    input that has none, or that is optional and was not given. Wrong if their number is another."""
    n, most = len(case.arrays), max(len(case.inputs), most_inputs(case.op_class))
    if result is None:
        refuse(result, "the result", "")
    several = type(result) is tuple or type(result) is list and (
        most > 1 or len(result) == 1 and isinstance(result[0], (np.ndarray, np.generic)))
    dxs = list(result) if several else [result]
    if len(dxs) in (len(case.inputs), most):
        return [dxs[i] for i in case.wanted]
    if len(dxs) != n:
        names = [f"d{name}" for name in case.names]
        if not several and not isinstance(result, np.ndarray):
            refuse(result, "the result", f"should be {plural(n, 'gradient')}: return {', '.join(names)}")
        raise Wrong(f"  it returns {plural(len(dxs), 'gradient')}, should be {n}: return {', '.join(names)}")
    return dxs


def most_inputs(op_class: type[Op]) -> int:
    """The number of inputs of an op, with the optional ones; 0 for an op that takes any number."""
    parameters = list(inspect.signature(op_class.forward).parameters.values())[1:]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 0
    return sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def compare(case: Case, name: str, dx: Any, x: np.ndarray) -> None:
    """Wrong unless dx is the gradient of the input x, up to summing over broadcast axes, in float64."""
    if not isinstance(dx, (np.ndarray, np.generic, float)):
        raise Wrong(f"  {name} is {kind_of(dx)}, should be an array of shape {x.shape}")
    got, want = np.asarray(dx), numeric_gradient(case.value, x)
    if got.dtype.kind != "f":
        hint = ": integers lose the fractions" if got.dtype.kind in "iu" else ""
        raise Wrong(f"  {name} is an array of {got.dtype}, should be of float64{hint}")
    if got.ndim > x.ndim + MOST_EXTRA_AXES or got.size > MOST_ENTRIES:
        raise Wrong(f"  {name} has shape {got.shape}, should be {x.shape}")
    dtype, got = got.dtype, got.astype(np.float64)
    if case.op_class.broadcasts and copied_axes(got.shape, x.shape) is not None:
        got = unbroadcast(got, x.shape)
    accuracy = max(TOLERANCE, 100.0 * float(np.finfo(dtype).eps))
    if got.shape != want.shape or relative_error(got, want) > accuracy:
        raise Wrong(explain(name, got, want, case))
    if accuracy > TOLERANCE:
        raise Wrong(f"  {name} is right up to the rounding errors of {dtype}, but dy is float64: keep the dtype of dy, "
                    "as np.zeros(shape, dy.dtype) does")


def explain(name: str, got: np.ndarray, want: np.ndarray, case: Case) -> str:
    """Where two gradients differ, by how much, and what that looks like."""
    saved = case.forward()[0].saved
    exponentials = {f"exp({key})": np.exp(x) for key, x in saved.items()         # as of the y that log_softmax saves
                    if isinstance(x, np.ndarray) and x.dtype.kind == "f" and np.abs(x).max(initial=0.0) < 50.0}
    words = diagnose(got, want, saved | case.known() | exponentials)     # first by the names that an answer takes
    if words.startswith(NO_RULE):
        order = ", ".join(f"d{name}" for name in case.names)
        words = next((f"this is d{other}: a factor is missing, or the order is another than {order}"
                      for other, x in zip(case.names, case.arrays) if got.shape == x.shape
                      and relative_error(got, numeric_gradient(case.value, x)) < TOLERANCE), words)
        if is_forward_of_dy(name, got, case):
            words = f"this is the forward, of dy: ask in which outputs an entry of {name[1:]} is used, and how"
    if got.shape != want.shape:
        if words == NO_RULE:
            fits = copied_axes(want.shape, got.shape) is not None
            words = "it broadcasts to this shape, but one number for each entry is needed" if fits else ""
        return f"  {name} has shape {got.shape}, should be {want.shape}" + (f"\n  why     {words}" if words else "")
    off = np.nan_to_num(np.abs(got - want), nan=np.inf)
    at = np.unravel_index(np.argmax(off), off.shape)
    noise = TOLERANCE * max(float(np.abs(want).max(initial=0.0)), 1e-3)
    wrong = off > noise
    ratio = f"    ratio {got[at] / want[at]:.4g}" if abs(want[at]) > noise and np.isfinite(got[at]) else ""
    lines = [f"  {name} differs at {int(wrong.sum())} of {wrong.size} entries, most at {name}{index(at, ', ')}",
             f"  yours   {shown(got[at])}    finite difference {shown(want[at])}{ratio}"]
    if not wrong.all():
        rows = wrong.reshape(-1, wrong.shape[-1])
        lines += [f"  {'' if i else 'where':7} {' '.join('×' if w else '·' for w in row[:MOST_COLUMNS])}"
                  f"{' ...' if len(row) > MOST_COLUMNS else ''}" for i, row in enumerate(rows[:MOST_ROWS])]
        lines += [f"  {'':7} ..."] if len(rows) > MOST_ROWS else []
    return "\n".join([*lines, f"  why     {words}"])


def is_forward_of_dy(name: str, got: np.ndarray, case: Case) -> bool:
    """Whether a gradient is what the forward makes of dy in place of the input, as if the op were its own transpose."""
    dy = case.dys[0]
    x = case.arrays[case.names.index(name[1:])]
    if len(case.dys) > 1 or not got.shape == x.shape == dy.shape:
        return False
    with np.errstate(all="ignore"):
        _, (y,) = case.forward(case.replaced(dy if a is x else a for a in case.arrays))
    return relative_error(got, y) < TOLERANCE


def shown(x: float) -> str:
    """A number with its sign and six decimals, or with an exponent where these would not show it."""
    if not np.isfinite(x):
        return str(float(x))
    return f"{x:+.6f}" if x == 0.0 or 1e-3 <= abs(x) < 1e5 else f"{x:+.6e}"
