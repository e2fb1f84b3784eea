"""Where to stop: `loss.backward_steps(until=...)`."""
import difflib
import re
from typing import Any, Callable, Iterable

import numpy as np

from minigrad.step.explain import bad_origin, check, nodes_of, on_host
from minigrad.step.step import Step
from minigrad.tensor import Tensor

SYNTAX = 'an op ("attention"), a module ("h.0.attn"), a parameter ("wte.weight"), "bad", "nan", "norm > 3"'


def stops(until: Any, y: Tensor) -> Callable[[Step], bool]:
    """Whether to stop at a step of the backward of y.

    until: an op's name; a module's path, for it and everything inside it; a parameter's name; "bad", where check()
    fails; "nan", where any of its arrays holds NaN or infinity; "norm > 3", where the L2 norm of a gradient is longer;
    or a function of the Step. ValueError, with the nearest names, for one that this graph does not have.
    """
    if callable(until):
        return until
    if not isinstance(until, str):
        raise TypeError(f"until must be {SYNTAX}, or a function of the Step; got {until!r}")
    kind, value = read(until, (names_of(node.op_class.name, node.module, node.inputs) for node in nodes_of(y)))
    if kind == "bad":
        return lambda step: not check(step).ok
    if kind == "nan":
        return lambda step: bool(bad_origin(step))
    if kind == "norm":
        return lambda step: longest(step.dxs) > value
    return lambda step: value in names_of(step.op, step.node.module, step.inputs)


def read(until: str, names: Iterable[set[str]]) -> tuple[str, Any]:
    """The kind of a breakpoint, "bad", "nan", "norm" or "name", and the number or name in it. ValueError, with the
    nearest of all names, for a name that is in none of the sets."""
    until = until.strip()
    if until in ("bad", "nan"):
        return until, None
    longer = re.fullmatch(r"norm\s*>\s*(.*)", until)
    if longer:
        try:
            return "norm", float(longer[1])
        except ValueError:
            raise ValueError(f'{until!r}: {longer[1]!r} is not a number; write "norm > 3"') from None
    known = set().union(*names)
    if until not in known:
        raise ValueError(f"nothing here is called {until!r}{nearest(until, known)}; or bad, nan, norm > 3")
    return "name", until


def nearest(name: str, names: Iterable[str]) -> str:
    """The names that come closest, as an end of a sentence."""
    near = difflib.get_close_matches(name, sorted(names), 3, 0.3) or sorted(names)[:6]
    return f"; nearest: {', '.join(near)}" if near else ""


def longest(gradients: Iterable[Any]) -> float:
    """The largest of the L2 norms of some gradients; None are left out."""
    return max((float(np.linalg.norm(on_host(g))) for g in gradients if g is not None), default=0.0)


def names_of(op: str, module: str, inputs: Any) -> set[str]:
    """The names that stop at an op: its own, its module's and those around it, its parameters'."""
    parts = module.split(".") if module else []
    modules = {".".join(parts[:k]) for k in range(1, len(parts) + 1)}
    return {op} | modules | {getattr(x, "name", "") for x in inputs} - {""}
