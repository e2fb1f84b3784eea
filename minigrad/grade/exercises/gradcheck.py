"""numeric_gradient: central differences. checker: a check that passes 20 right backwards and fails 12 wrong ones."""
from typing import Any, Callable

import numpy as np

from minigrad.gradcheck import TOLERANCE, Case, numeric_gradient, relative_error, relative_errors
from minigrad.grade.answer import array, call, refuse
from minigrad.grade.verdict import Wrong, must
from minigrad.grade.wrong_backwards import WRONG
from minigrad.ops.op import OPS, Op
from minigrad.ops.sample import Sample

RIGHT = ("add", "sub", "mul", "div", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "gelu", "sum", "mean", "matmul",
         "linear", "transpose", "softmax", "layer_norm", "embedding", "attention")
ROUNDING = ("rounding is all that is left: h is so small that f(x + h) and f(x - h) agree in most digits, or x was "
            "made float32")


def grade_numeric_gradient(mine: Callable[..., Any]) -> None:
    """mine(f, x): the gradient of f at x."""
    rng = np.random.default_rng(0)
    for shape in ((4,), (2, 3), (), (2, 1, 3)):
        w, x = rng.uniform(1.0, 2.0, shape), rng.uniform(0.5, 1.5, shape)
        got = _gradient(mine, lambda z: float((w * z).sum()), x, "sum(w * x)")
        ratio = got / w
        must(not np.allclose(ratio, 2.0, rtol=1e-4),
             "it is twice the gradient: x + h and x - h are 2 h apart, so divide by 2 h")
        must(not np.allclose(ratio, -1.0, rtol=1e-4),
             "its sign is flipped: f(x + h) comes first, f(x - h) is subtracted")
        must(np.abs(ratio - 1.0).max() < 0.1, f"the gradient of sum(w * x) is {got.flat[0]:.3g}, not {w.flat[0]:.3g}")
        off = _gradient(mine, lambda z: float((w * z * z).sum()), x, "sum(w * x^2)") - 2.0 * w * x
        error = f"it is off by {np.abs(off).max():.1e}"
        must(np.abs(off).max() < 1e-8 or np.ptp(off / w) > 0.1 * np.abs(off / w).max() or not x.ndim,
             f"of sum(w * x^2) {error}, as f(x + h) - f(x) is: step to both sides, f(x + h) - f(x - h)")
        must(np.abs(off).max() < 1e-8, f"of sum(w * x^2) {error}: {ROUNDING}")
        off = _gradient(mine, lambda z: float((w * z ** 3).sum()), x, "sum(w * x^3)") - 3.0 * w * x * x
        must(np.abs(off).max() < 1e-7, f"of sum(w * x^3) it is off by {np.abs(off).max():.1e}: h is too large, as the "
                                       "error of central differences grows with h^2")
        off = _gradient(mine, lambda z: float((w * z).sum()) ** 2, x, "sum(w * x)^2") - 2.0 * (w * x).sum() * w
        must(np.abs(off).max() < 1e-6, "right while the elements of x do not meet, wrong for sum(w * x)^2: put each "
                                       "element back before you move the next")
        off = _gradient(mine, lambda z: 1000.0 + float((w * z).sum()), x, "1000 + sum(w * x)") - w
        must(np.abs(off).max() < 3e-6, f"of 1000 + sum(w * x) it is off by {np.abs(off).max():.1e}: {ROUNDING}")


def _gradient(mine: Callable[..., Any], f: Callable[[Any], float], x: Any, what: str) -> Any:
    """The answer for f at x."""
    return array(call(mine, f, x), x.shape, f"the gradient of {what}")


def grade_checker(mine: Callable[..., Any]) -> None:
    """mine(forward, backward, inputs): whether the backward is right."""
    for name in RIGHT:
        sample = max(OPS[name].samples, key=lambda sample: sum(map(np.size, sample.draw(0))))
        must(_passes(mine, OPS[name], sample),
             f"it rejects the right backward of {name}{sample}. A right gradient differs from central differences with "
             "h = 1e-5 by about 1e-9 of its largest entry: is the tolerance relative to that, and about 1e-6?")
    for op_class, sample in WRONG.items():
        if _passes(mine, op_class, sample):
            case = Case(op_class, sample, 0)
            seen = _wrong_entries(case)
            case.dys = [np.ones_like(dy) for dy in case.dys]
            blind = "" if _wrong_entries(case) else ". With dy = 1 nothing is wrong: draw dy at random"
            raise Wrong(f"  it passes a wrong backward of {op_class.name}{sample}: {op_class.__doc__}\n"
                        f"  wrong   {seen}{blind}")


def _passes(mine: Callable[..., Any], op_class: type[Op], sample: Sample) -> bool:
    """What the answer says of the backward of an op."""
    case = Case(op_class, sample, 0)

    def forward(*arrays: Any) -> Any:
        return np.asarray(case.forward(case.replaced(map(np.asarray, arrays)))[1][0])

    def backward(dy: Any, *arrays: Any) -> Any:
        return tuple(case.gradients(case.replaced(map(np.asarray, arrays)), [np.asarray(dy)]))

    try:
        verdict = call(mine, forward, backward, case.arrays)
    except Wrong as wrong:
        raise Wrong(f"  input   {case.what}\n{wrong}") from None
    if not isinstance(verdict, (bool, np.bool_)):
        refuse(verdict, "the result", "should be True or False")
    return bool(verdict)


def _wrong_entries(case: Case) -> str:
    """Which gradients of a case are wrong, and in how many entries; "" if none is."""
    parts = []
    for name, got, x in zip(case.names, case.gradients(), case.arrays):
        want = numeric_gradient(case.value, x)
        if relative_error(got, want) > TOLERANCE:
            wrong = int((relative_errors(got, want) > TOLERANCE).sum())
            parts.append(f"d{name} at {wrong} of {want.size} entries")
    return ", ".join(parts)


EXERCISES = {"numeric_gradient": grade_numeric_gradient, "checker": grade_checker}
