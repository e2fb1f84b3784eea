"""The identity that an op's gradients satisfy, stated in its docstring under `identity`, evaluated on numbers."""
import ast
import inspect
from dataclasses import dataclass
from typing import Any, Mapping

import numpy as np

from minigrad.ops.op import Op
from minigrad.step.formula import parse
from minigrad.step.typeset import to_text

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Identity:
    """An identity of a backward, evaluated."""
    words: str                                  # "each row of dS sums to 0, as softmax ignores a constant shift"
    expression: str                             # "sum(dS, axis=-1) = 0"
    residual: float                             # relative difference of the two sides

    @property
    def ok(self) -> bool:
        return self.residual <= TOLERANCE


def check_identity(op_class: type[Op], values: Mapping[str, Any]) -> Identity | None:
    """Evaluate the `identity` section of an op's docstring: `words: left = right`, several separated by `;`.

    values: NumPy arrays and numbers by name. These are the inputs (a variable number of them also as the list xs), the
    keyword arguments, the saved values, the outputs (y, or p_new, ...; all of them as ys), the upstream gradients (all
    of them as dys), the local variables of backward, and the gradient d<input> of each input in that input's shape (all
    of them as dxs). Where one name stands for several of these: saved values replace local variables, and the others
    replace both. A gradient that was not wanted is None or missing.

    The two sides are equal if they differ by at most TOLERANCE of the largest of: the sides, the sum of magnitudes
    inside any `sum`, a thousandth of the largest number in dys. None for an op without this section, if a gradient in
    it was not wanted, or if an input or an upstream gradient holds NaN or infinity. ValueError for an expression that
    cannot be evaluated.
    """
    formula = parse(op_class)
    statements = [s.strip().rpartition(": ") for s in formula.identity.split(";") if s.strip()]
    parameters = inspect.signature(op_class.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    known = {**defaults, **{name: _float64(value) for name, value in values.items()}}
    given = [known.get(p.name) for p in parameters if p.kind is not p.KEYWORD_ONLY] + [known.get("dys")]
    if not all(_finite(value) for value in given):
        return None
    words, expressions, residuals = [], [], []
    for phrase, _, expression in statements:
        try:
            residual = _residual(expression, known, _may_be_missing(op_class))
        except Exception as error:
            raise ValueError(f"{op_class.__name__}: cannot evaluate {expression!r} in the `identity` section of its "
                             f"docstring: {type(error).__name__}: {error}") from error
        if residual is not None:
            words += [to_text(phrase, formula.names)] if phrase else []
            expressions.append(expression)
            residuals.append(residual)
    return Identity("; ".join(words), "; ".join(expressions), max(residuals)) if residuals else None


def _float64(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_float64(v) for v in value] if any(isinstance(v, np.ndarray) for v in value) else value
    return np.asarray(value, dtype=np.float64) if getattr(getattr(value, "dtype", None), "kind", "") == "f" else value


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(_finite(v) for v in value)
    return value is None or not isinstance(value, (float, np.ndarray)) or bool(np.isfinite(value).all())


def _may_be_missing(op_class: type[Op]) -> set[str]:
    """Names that an expression may use though they have no value: an input not given, a gradient not wanted, a local
    variable of a backward that ran without the tracer."""
    forward, backward = op_class.forward.__code__.co_varnames, op_class.backward.__code__.co_varnames
    return {*forward, *backward, *(f"d{name}" for name in forward)}


def _residual(expression: str, known: dict[str, Any], may_be_missing: set[str]) -> float | None:
    """The largest relative difference between neighbouring sides of `left = right`; None if a value is missing."""
    if " = " not in expression:
        raise ValueError("expected left = right, with spaces around the sign")
    sides = [ast.parse(side.strip(), mode="eval") for side in expression.split(" = ")]
    names = {node.id for side in sides for node in ast.walk(side) if isinstance(node, ast.Name)}
    if any(_incomplete(known[name]) if name in known else name in may_be_missing for name in names):
        return None
    dys = [np.abs(dy).max() for dy in known.get("dys", []) if dy is not None and np.size(dy)]
    scales = [1e-3 * max(dys, default=1.0) or 1.0]

    def total(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        """np.sum, also of a list of arrays. Rounding errors grow with the terms, not with their sum, so the sum of
        magnitudes is one of the scales."""
        if isinstance(x, list):
            return sum(total(a) for a in x)
        scales.append(np.max(np.sum(np.abs(x), axis=axis), initial=0.0))
        return np.sum(x, axis=axis, keepdims=keepdims)

    functions = dict(sum=total, mean=np.mean, prod=np.prod, size=np.size, max=np.max, min=np.min, abs=np.abs,
                     sqrt=np.sqrt, exp=np.exp, log=np.log, tanh=np.tanh)
    with np.errstate(all="ignore"):
        found = [eval(compile(side, "identity", "eval"), {"__builtins__": {}}, known | functions) for side in sides]
        scale = max([*scales, *(np.max(np.abs(side), initial=0.0) for side in found)])
        differences = [np.max(np.abs(np.subtract(a, b)), initial=0.0) for a, b in zip(found, found[1:])]
        residual = max(differences) / scale
    return float(residual) if np.isfinite(residual) else np.inf


def _incomplete(value: Any) -> bool:
    return value is None or isinstance(value, list) and any(v is None for v in value)
