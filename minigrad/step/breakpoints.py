"""Breakpoints: at which steps `loss.backward_steps(until=...)` stops."""
import difflib
import re
from typing import Any, Callable, Iterable, Mapping

import numpy as np

from minigrad.step.caller_names import names_of_caller
from minigrad.step.explain import bad_origin, check
from minigrad.step.rerun import nodes_of, on_host
from minigrad.tensor import Tensor

SYNTAX = 'an op ("attention"), a module ("h.0.attn"), a parameter ("wte.weight"), "bad", "nan", "norm > 3"'


def stops(until: str | Callable[[Any], bool], y: Tensor) -> Callable[[Any], bool]:
    """A function of a Step of the backward of y: whether to stop at it.

    until: an op's name; a module's path, for it and everything inside it; a leaf's name, of a Parameter or of the
    caller's variable; "bad", where check() fails; "nan", where any array of the step holds NaN or infinity;
    "norm > 3", where the L2 norm of a gradient of an input is larger; or a function of the Step. ValueError, with the
    nearest names, for a name that this graph does not have; TypeError for anything else.
    """
    if callable(until):
        return until
    if not isinstance(until, str):
        raise TypeError(f"until must be {SYNTAX}, or a function of the Step; got {until!r}")
    variables = names_of_caller()
    kind, value = parse_breakpoint(until, (names_of(n.op_class.name, n.module, n.inputs, variables)
                                           for n in nodes_of(y)))
    if kind == "bad":
        return lambda step: not check(step).ok
    if kind == "nan":
        return lambda step: bool(bad_origin(step))
    if kind == "norm":
        return lambda step: largest_norm(step.dxs) > value
    return lambda step: value in names_of(step.op, step.node.module, step.inputs, variables)


def parse_breakpoint(until: str, names: Iterable[set[str]]) -> tuple[str, Any]:
    """The kind of a breakpoint, "bad", "nan", "norm" or "name", and its number or name. ValueError, with the nearest of
    all names, for a name that is in none of the sets."""
    until = until.strip()
    if until in ("bad", "nan"):
        return until, None
    norm = re.fullmatch(r"norm\s*>\s*(.*)", until)
    if norm:
        try:
            return "norm", float(norm[1])
        except ValueError:
            raise ValueError(f'{until!r}: {norm[1]!r} is not a number; write "norm > 3"') from None
    known = set().union(*names)
    if until not in known:
        raise ValueError(f"nothing here is called {until!r}{nearest(until, known)}; or bad, nan, norm > 3")
    return "name", until


def nearest(name: str, names: Iterable[str]) -> str:
    """The names most similar to `name`, as the end of an error message."""
    near = difflib.get_close_matches(name, sorted(names), 3, 0.3) or sorted(names)[:6]
    return f"; nearest: {', '.join(near)}" if near else ""


def largest_norm(gradients: Iterable[Any]) -> float:
    """The largest of the L2 norms of some gradients; None among them is left out."""
    return max((float(np.linalg.norm(on_host(g))) for g in gradients if g is not None), default=0.0)


def names_of(op: str, module: str, inputs: Any, variables: Mapping[Any, str] = {}) -> set[str]:
    """The names that stop at an op: the op's, its module's and those of the modules around it, its leaves'. variables:
    names of leaves that have none of their own, by Tensor.key."""
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.node is None]
    parts = module.split(".") if module else []
    modules = {".".join(parts[:k]) for k in range(1, len(parts) + 1)}
    return {op} | modules | {getattr(x, "name", "") or variables.get(x.key, "") for x in leaves} - {""}
