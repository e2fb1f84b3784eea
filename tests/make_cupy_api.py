"""Writes cupy_api.json: which of NumPy's names CuPy has too, and with which parameters.

Run it by hand where CuPy is installed, with or without a GPU: `python tests/make_cupy_api.py`. The fake device offers
only what the table lists, so that code that only NumPy can run fails in the tests on every machine.

The parameters of a function are one string, "a, axis=, *, dtype=": a trailing = marks an optional parameter.
"""
import inspect
import json
import pathlib
import re
from typing import Any, Callable

import numpy as np

PATH = pathlib.Path(__file__).with_name("cupy_api.json")
METHODS = ("reduce", "accumulate", "reduceat", "outer", "at")      # of a ufunc


def parameters(f: Callable[..., Any]) -> str:
    """The parameters of a function, in the table's notation."""
    try:
        given = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):             # compiled: the first line of the docstring is the signature
        return from_docstring(f.__doc__ or "")
    marks: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    words: list[str] = []
    for p in given:
        if p.kind is p.KEYWORD_ONLY and not any(w.startswith("*") for w in words):
            words.append("*")
        words.append(marks.get(p.kind, "") + p.name + ("" if p.default is p.empty else "="))
    return ", ".join(w for w in words if w != "self")


def from_docstring(doc: str) -> str:
    """The parameters from a docstring such as "_ndarray_base.sum(self, axis=None, Py_ssize_t n=0) -> _ndarray_base"."""
    inside = doc.splitlines()[0].replace("\\", "").partition("(")[2].rpartition(")")[0]
    words = []
    for part in inside.split(","):
        name, equals, _ = part.strip().partition("=")
        words.append(name.split()[-1] + equals)             # without a C type
    return ", ".join(w for w in words if w not in ("self", "/"))


def waits(f: Any) -> bool:
    """Whether f waits for the device, judged by its source and docstring."""
    try:
        source = inspect.getsource(f)
    except (OSError, TypeError):
        return False
    return re.search(r"synchronize|\b(argwhere|asnumpy|nonzero|unique)\(|\.item\(", source) is not None


def ufunc_methods(f: Any) -> str:
    """The methods that CuPy has for this ufunc, in one string: the others raise NotImplementedError for any input."""
    found = []
    for method in METHODS if hasattr(f, "reduce") else ():      # matmul is a function
        try:
            getattr(f, method)(object(), object())
        except NotImplementedError:
            continue
        except (AttributeError, TypeError, ValueError):         # it exists, and object() is no array
            found.append(method)
    return " ".join(found)


def table() -> dict[str, Any]:
    """The whole table, made from the installed CuPy."""
    import cupy
    shared = [n for n in dir(np) if not n.startswith("_") and hasattr(cupy, n) and not inspect.ismodule(getattr(np, n))]
    both = {n: (getattr(np, n), getattr(cupy, n)) for n in shared}
    same = [n for n, (a, b) in both.items() if a is b or isinstance(a, float) and isinstance(b, float)]
    ufuncs = [n for n, (a, b) in both.items() if isinstance(a, np.ufunc) and n not in same]
    functions = [n for n, (a, b) in both.items() if callable(b) and not isinstance(b, type) and n not in ufuncs + same]
    members = {n: getattr(cupy.ndarray, n) for n in dir(np.ndarray) if hasattr(cupy.ndarray, n)}
    public = [n for n in members if not n.startswith("_")]
    return {
        "versions": {"cupy": cupy.__version__, "numpy": np.__version__},
        "functions": {n: parameters(both[n][1]) for n in functions},
        "ufuncs": {n: ufunc_methods(both[n][1]) for n in ufuncs},
        "same": same,                                           # NumPy's own objects: dtypes, constants
        "waits": [n for n in functions if waits(both[n][1])],
        "methods": {n: parameters(members[n]) for n in public if callable(members[n])},
        "attributes": [n for n in public if not callable(members[n])],
        "operators": [n for n in members if n not in public and members[n] is not getattr(object, n, None)],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(table(), indent=1) + "\n")
    print(f"wrote {PATH}")
