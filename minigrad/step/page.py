"""A Record as one self-contained HTML file: it opens from disk and loads nothing else.

Each array is stored once, however often it is shown, as half floats of a / max|a|. Arrays that do not fit into the
budget are sampled evenly; their shape, largest magnitude, norm and mean are those of the whole array.
"""
import base64
import dataclasses
import hashlib
import html as markup
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, NamedTuple

import numpy as np

from minigrad.step.explain import Why, largest_entries, why
from minigrad.step.formula import Formula
from minigrad.step.heatmap import MASK
from minigrad.step.line_trace import Listing
from minigrad.step.replay import Nudge, OptimizerStep, ParameterUpdate
from minigrad.step.variables import names_in
from minigrad.step.view import View, view

if TYPE_CHECKING:
    from minigrad.step.backward_record import Record

WEB = Path(__file__).parent / "web"
STYLES = "layout", "figures", "panels", "media"
SCRIPTS = ("helpers", "arrays", "heatmap", "positions", "graph", "op", "lines", "why", "nudge", "update", "quiz",
           "page")                              # one script: a name that a file uses at its top level comes before it
PANELS = 12                                     # matrices shown of an array of more than two axes
FRAME_BUDGET = 2e6                              # bytes of a page in a notebook, which stores it in its file
CELLS = 4096, 2048, 1024, 512, 256, 128, 64     # numbers stored of one array, as many as the budget allows


def write(record: "Record", path: str | Path, budget: float = 8e6) -> list[str]:
    """Write the page of a record into one file of at most `budget` bytes.

    Returns sentences that say what was sampled or left out to stay within the budget; the page shows them too.
    ValueError if even the smallest page is larger.
    """
    page, omitted = _fit(contents_of(record), budget)
    Path(path).write_text(page, encoding="utf-8")
    return omitted


def html(record: "Record", budget: float = 8e6) -> str:
    """The page of a record, as text."""
    return _fit(contents_of(record), budget)[0]


def iframe(contents: "Contents") -> str:
    """A page as an <iframe> for a notebook, of at most 2 MB."""
    page = markup.escape(_fit(contents, FRAME_BUDGET)[0], quote=False).replace("'", "&#39;")   # " is too frequent
    title = markup.escape(contents.title or "one backward, step by step")
    return (f"<iframe srcdoc='{page}' title=\"{title}\" style=\"width:100%;height:min(780px,85vh);min-height:420px;"
            'resize:vertical;border:1px solid #8886;border-radius:8px"></iframe>')


# ---- what is on it --------------------------------------------------------------------------------------------------

class Contents(NamedTuple):
    """What a page shows, of a Record or of one Step."""
    title: str
    views: list[View]
    whys: Iterable[Why]
    tokens: list[str] | None = None
    notes: Iterable[str] = ()
    loss: float | None = None
    nudges: Iterable[Nudge] = ()
    optimizer_step: OptimizerStep | None = None
    embedded: bool = False          # in an <iframe>


def contents_of(record: "Record") -> Contents:
    return Contents(record.title, record.views, list(record.whys().values()), record.tokens, record.notes,
                    record.loss, record.nudges(), record.optimizer_step)


def contents_of_step(step: Any) -> Contents:
    variables = names_in(vars(sys.modules["__main__"]))             # those of the notebook
    labels: dict[int, str] = {}

    def label(leaf: Any) -> str:
        return labels.setdefault(id(leaf), getattr(leaf, "name", "") or variables.get(leaf.key) or f"leaf{len(labels)}")

    shown = view(step, label, {})
    shown.inputs = [x if getattr(t, "node", None) is None else
                    x._replace(label=t.node.module or t.node.op_class.name) for x, t in zip(shown.inputs, step.inputs)]
    whys = [why(step, i, at) for i, x in enumerate(shown.inputs) if x.gradient is not None
            for at in largest_entries(x.gradient, 3)]
    whys = [dataclasses.replace(w, step=0) for w in whys]           # the only step of the page
    return Contents(f"step {step.index}: {step.node}", [shown], whys, embedded=True)


def _fit(contents: Contents, budget: float) -> tuple[str, list[str]]:
    """The page with as much as fits into the budget, and what was omitted."""
    template = (WEB / "page.html").read_text(encoding="utf-8")
    for kind, names in (("css", STYLES), ("js", SCRIPTS)):
        parts = [(WEB / f"{name}.{kind}").read_text(encoding="utf-8") for name in names]
        template = template.replace(f"/*{kind}*/", "\n".join(parts))
    for forward, saved, bounds in (True, True, CELLS), (False, True, CELLS[-1:]), (False, False, CELLS[-1:]):
        store = ArrayStore()
        data = _data(contents, store, forward, saved)
        for cells in bounds:
            arrays = store.encoded(cells)
            omitted = _omitted(arrays, cells, forward, saved)
            text = json.dumps(data | {"arrays": arrays, "omitted": omitted}, separators=(",", ":"), ensure_ascii=False,
                              allow_nan=False)
            page = template.replace("/*data*/", text.replace("<", "\\u003c"))       # no </script> inside
            size = len(page.encode())
            if size <= budget:
                return page, omitted
    raise ValueError(f"the page needs {size / 1e6:.2f} MB even with {cells} numbers of each array and no saved values: "
                     f"over the budget of {budget / 1e6:.2f} MB; record a smaller model or raise budget=")


def _omitted(arrays: list[Any], cells: int, forward: bool, saved: bool) -> list[str]:
    found = []
    sampled = sum("stride" in a for a in arrays)
    if sampled:
        found.append(f"{sampled} of {len(arrays)} arrays are sampled evenly, to at most {cells} numbers each; their "
                     "shapes, norms, means and largest magnitudes are those of the whole arrays")
    if not forward:
        found.append("the values of the lines of the forwards are left out")
    if not saved:
        found.append("the values saved for the backwards are left out")
    return found


def _data(contents: Contents, store: "ArrayStore", forward: bool, saved: bool) -> dict[str, Any]:
    formulas: dict[str, Formula] = {v.op: v.formula for v in contents.views}
    optimizer = contents.optimizer_step
    if optimizer is not None and optimizer.updates:
        formulas[optimizer.op] = optimizer.updates[0].formula
    return {
        "title": contents.title, "notes": list(contents.notes), "tokens": contents.tokens,
        "embedded": contents.embedded,
        "loss": None if contents.loss is None else _number(contents.loss),
        "formulas": {op: {"backward": f.mathml, "forward": f.forward_mathml, "shapes": f.shapes, "why": f.why}
                     for op, f in formulas.items()},
        "steps": [_step(v, store, forward, saved) for v in contents.views],
        "whys": {f"{w.step}:{w.input}:{','.join(map(str, w.at))}": _why(w) for w in contents.whys},
        "nudges": [{"leaf": n.leaf, "at": n.at} | {k: _number(getattr(n, k)) for k in (
            "gradient", "delta", "predicted", "actual")} for n in contents.nudges],
        "optimizer": None if optimizer is None else {
            "op": optimizer.op, "clip": optimizer.clip, "predicted": _number(optimizer.predicted),
            "actual": _number(optimizer.actual), "updates": [_update(u, store) for u in optimizer.updates]},
    }


def _step(v: View, store: "ArrayStore", forward: bool, saved: bool) -> dict[str, Any]:
    def put(arrays: dict[str, Any]) -> dict[str, int]:
        return {name: store.put(a) for name, a in arrays.items()}

    inputs = []
    for x in v.inputs:
        shown = {"name": x.name, "label": x.label, "shape": x.shape, "source": x.source, "leaf": x.leaf,
                 "value": store.put(x.value)}
        if x.gradient is not None:
            shown |= {"gradient": store.put(x.gradient)}
            if x.earlier is not None:
                shown |= {"earlier": store.put(x.earlier), "sum": store.put(x.earlier + x.gradient)}
        inputs.append(shown)
    return {
        "op": v.op, "name": v.name, "at": v.created_at, "kernel": v.kernel_note, "bad_origin": v.bad_origin,
        "inputs": inputs, "outputs": put(v.outputs), "dys": put(v.dys),
        "saved": put(v.saved) if saved else {},
        "forward": _listing(v.forward, store, forward), "backward": _listing(v.backward, store),
        "identity": v.identity and {"words": v.identity.words, "expression": v.identity.expression,
                                    "ok": v.identity.ok, "residual": _number(v.identity.residual)},
        "checks": [{"check": r.check, "of": r.of, "error": _number(r.error), "detail": r.detail, "ok": r.ok}
                   for r in v.report.rows],
    }


def _listing(listing: Listing, store: "ArrayStore", values: bool = True) -> dict[str, Any]:
    return {"source": listing.source, "place": listing.place, "note": listing.note, "lines": [
        [line.first, line.last, {name: store.put(a) for name, a in line.values.items()} if values else {}]
        for line in listing.lines]}


def _why(w: Why) -> dict[str, Any]:
    return {"name": w.name, "value": _number(w.value), "total": _number(w.total), "magnitude": _number(w.magnitude),
            "count": w.count, "terms": [{"out": t.out, "at": t.at, "derivative": _number(t.derivative),
                                         "dy": _number(t.dy), "product": _number(t.product), "uses": t.uses}
                                        for t in w.terms]}


def _update(u: ParameterUpdate, store: "ArrayStore") -> dict[str, Any]:
    """An optimizer's arithmetic for single weights: its inputs, and the value that each line computed."""
    def picked(values: dict[str, Any]) -> dict[str, Any]:
        return {name: [_number(np.asarray(a)[at] if np.ndim(a) else a) for at in u.picks] for name, a in values.items()}

    return {"leaf": u.leaf, "picks": u.picks, "source": u.listing.source, "place": u.listing.place,
            "given": picked(u.given), "lines": [[x.first, x.last, picked(x.values)] for x in u.listing.lines],
            "change": store.put(u.change), "predicted": _number(u.predicted), "actual": _number(u.actual)}


# ---- numbers and arrays ---------------------------------------------------------------------------------------------

def _number(x: Any) -> Any:
    """A number for JSON, to 9 digits; NaN and infinity, which JSON lacks, as strings for JavaScript's Number()."""
    x = float(x)
    if math.isfinite(x):
        return float(f"{x:.9g}")
    return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


class ArrayStore:
    """The arrays of a page, each stored once."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self._described: list[dict[str, Any]] = []
        self._positions: dict[Any, int] = {}

    def put(self, value: Any) -> int:
        """Store an array or a number, unless it is there already; its position in `arrays`."""
        a = np.asarray(value)
        key = a.shape, a.dtype.str, hashlib.sha1(a.tobytes()).digest()
        if key not in self._positions:
            self._positions[key] = len(self.arrays)
            self.arrays.append(a)
            with np.errstate(all="ignore"):     # an array from empty() may hold any bits
                self._described.append(described(a))
        return self._positions[key]

    def encoded(self, cells: int) -> list[dict[str, Any]]:
        """All arrays for JSON: a description and at most `cells` numbers of each."""
        with np.errstate(all="ignore"):
            return [known | sampled(a, cells, known) for a, known in zip(self.arrays, self._described)]


def described(a: Any) -> dict[str, Any]:
    """The shape of an array, and the largest magnitude, norm and mean of its numbers that are finite and no masks; the
    value of a 0-d array."""
    if a.ndim == 0:
        return {"shape": [], "value": _number(a)}
    x = a.astype(np.float64)
    usual = x[np.isfinite(x) & (np.abs(x) < MASK)]
    return {"shape": a.shape, "max": _number(np.abs(usual).max(initial=0.0)), "norm": _number(np.linalg.norm(usual)),
            "mean": _number(usual.mean() if usual.size else 0.0)}


def sampled(a: Any, cells: int, known: dict[str, Any]) -> dict[str, Any]:
    """At most `cells` numbers of an array. known: its description.

    "half" of floats: a / max|a| in base64 of float16. "ints" of integers and booleans. "stride" [n, r, c] of a sampled
    array: its numbers are a[::n, ::r, ::c], where all axes but the last two are merged into the first.
    """
    if a.ndim == 0:
        return {}
    panels = a.reshape(math.prod(a.shape[:-2]), *((1,) + a.shape)[-2:])                     # (N, R, C)
    stride = strides(panels.shape, cells)
    found: dict[str, Any] = {"stride": stride} if max(stride) > 1 else {}
    shown = panels[::stride[0], ::stride[1], ::stride[2]]
    if a.dtype.kind in "biu":
        return found | {"ints": shown.astype(int).reshape(-1).tolist()}
    shown = shown.astype(np.float64)
    masked = np.isfinite(shown) & (np.abs(shown) >= MASK)
    if masked.any():                            # stored as infinities that stand for this number
        found["mask"] = _number(shown[masked][0])
    half = (np.where(masked, np.copysign(np.inf, shown), shown) / (known["max"] or 1.0)).astype("<f2")
    return found | {"half": base64.b64encode(half.tobytes()).decode()}


def strides(shape: tuple[int, ...], cells: int) -> list[int]:
    """Strides over panels, rows and columns that keep at most `cells` numbers; the longest axis is thinned first."""
    stride = [max(-(-shape[0] // PANELS), 1), 1, 1]
    while True:
        kept = [-(-n // s) for n, s in zip(shape, stride)]
        if math.prod(kept) <= cells:
            return stride
        stride[kept.index(max(kept))] += 1
