"""Grades a backward: it is compared with finite differences of the op's forward, and a difference is explained."""
import inspect
from typing import Any, Callable

import numpy as np

from minigrad.diagnose import diagnose
from minigrad.gradcheck import TOLERANCE, Case, numeric_gradient, relative_error
from minigrad.grade.answer import call
from minigrad.grade.verdict import Wrong
from minigrad.ops.op import Op
from minigrad.ops.sums import unbroadcast

SEEDS = range(3)
MOST_ROWS, MOST_COLUMNS = 6, 24                 # of the map of wrong entries


def grade_backward(op_class: type[Op], mine: Callable[..., Any]) -> None:
    """mine(dy, ...): the gradient of each input, a tuple if there are several. After one dy for each output it takes
    what the forward saved, by name. Wrong at the first sample where it differs from finite differences."""
    for seed in SEEDS:
        for sample in op_class.samples:
            case = Case(op_class, sample, seed)
            op, _ = case.forward()
            taken = list(inspect.signature(mine).parameters)[len(case.dys):]
            for name in taken:
                if name not in op.saved:
                    raise Wrong(f"  it takes {name}, but {op_class.name} saves {', '.join(op.saved)}")
            result = call(mine, *case.dys, **{name: op.saved[name] for name in taken})
            dxs = result if type(result) is tuple else (result,)
            if len(dxs) == len(case.inputs):                # with one for an input that has no gradient
                dxs = tuple(dxs[i] for i in case.wanted)
            if len(dxs) != len(case.arrays):
                names = ", ".join(case.names)
                raise Wrong(f"  it returns {len(dxs)} gradients; {op_class.name} needs those of {names}")
            for name, dx, x in zip(case.names, dxs, case.arrays):
                compare(case, f"d{name}", dx, x)


def compare(case: Case, name: str, dx: Any, x: np.ndarray) -> None:
    """Wrong unless dx is the gradient of the input x, up to summing over broadcast axes."""
    if not isinstance(dx, (np.ndarray, np.floating, float)):
        raise Wrong(f"  {name} is {'None: is a return missing?' if dx is None else type(dx).__name__}")
    got = np.asarray(dx, dtype=np.float64)
    if case.op_class.broadcasts and got.size > x.size:
        got = unbroadcast(got, x.shape)
    want = numeric_gradient(case.value, x)
    if got.shape != want.shape or relative_error(got, want) > TOLERANCE:
        raise Wrong(explain(name, got, want, case))


def explain(name: str, got: np.ndarray, want: np.ndarray, case: Case) -> str:
    """Where two gradients differ, by how much, and what that looks like."""
    why = f"  why     {diagnose(got, want, case.known())}"
    if got.shape != want.shape:
        return f"  input   {case.what}\n  {name} has shape {got.shape}, should be {want.shape}\n{why}"
    off = np.abs(got - want)
    at = np.unravel_index(np.argmax(off), off.shape)
    index = f"[{', '.join(str(int(i)) for i in at)}]" if at else ""
    wrong = off > TOLERANCE * max(float(np.abs(want).max(initial=0.0)), 1e-3)
    ratio = f"    ratio {got[at] / want[at]:.4g}" if want[at] else ""
    lines = [f"  input   {case.what}",
             f"  {name} differs at {int(wrong.sum())} of {wrong.size} entries, most at {name}{index}",
             f"  yours   {got[at]:+.6f}    finite difference {want[at]:+.6f}{ratio}"]
    if not wrong.all():
        rows = wrong.reshape(-1, wrong.shape[-1])[:MOST_ROWS]
        lines += [f"  {'' if i else 'where':7} {' '.join('×' if w else '·' for w in row[:MOST_COLUMNS])}"
                  for i, row in enumerate(rows)]
    return "\n".join([*lines, why])
