"""A Record as one self-contained HTML file: it opens from disk and loads nothing else.

Each array is stored once, however often it is shown, in float32. Arrays that do not fit into the budget are sampled
evenly; their shape, largest magnitude, norm and mean are those of the whole array. The expression of each line is
stored too: from it and the arrays the page explains every element of every array that is stored whole.
"""
import base64
import hashlib
import html as markup
import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, NamedTuple

import numpy as np

from minigrad.step.expression import Tree
from minigrad.step.formula import Formula
from minigrad.step.heatmap import MASK, marked
from minigrad.step.line_trace import Listing
from minigrad.step.nudge import Nudge, NudgeCurve
from minigrad.step.optimizer_steps import OptimizerStep, OverTime, ParameterUpdate
from minigrad.step.quiz import Question, questions
from minigrad.step.scatter import Compared, compare, summary
from minigrad.step.view import View, view_alone
from minigrad.step.why import Cell, Why, explain, newest, saved_in, tree_of

if TYPE_CHECKING:
    from minigrad.step.backward_record import Record

WEB = Path(__file__).parent / "web"
STYLES = "layout", "figures", "panels", "whatif", "scatter", "tour", "media"
# one script: a name that a file uses at its top level comes before it
SCRIPTS = ("helpers", "arrays", "elements", "heatmap", "cells", "positions", "graph", "check", "op", "picture", "lines",
           "why", "chart", "nudge", "scatter", "update", "quiz", "tour", "glossary", "page")
STRUCTURE = {"+", "-", "*", "/", "**", "neg", "@", "sum", "mean", "view", "reshape", "index", "max", "join", "where",
             "scatter"}                         # operations that the page computes
PICTURE = 1024                                  # numbers stored of an array that is only looked at
STORED = 64                                     # elements of a gradient whose answers are stored
FRAME_BUDGET = 2e6                              # bytes of a page in a notebook, which stores it in its file
PANELS = 12                                     # matrices shown of an array of more than two axes
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
    labels: Mapping[str, list[str]] = MappingProxyType({})          # name of an axis -> label of each index
    notes: Iterable[str] = ()
    loss: float | None = None
    nudges: Iterable[tuple[Nudge, NudgeCurve | None]] = ()
    optimizer_step: OptimizerStep | None = None
    over_time: Iterable[OverTime] = ()              # of the largest gradient of each parameter
    questions: Iterable[list[Question]] = ()        # about each view
    compared: list[Compared] = []
    embedded: bool = False          # in an <iframe>


def contents_of(record: "Record") -> Contents:
    step = record.optimizer_step
    return Contents(record.title, record.views, record.labels, record.notes, record.loss,
                    [(n, record.nudge_curve(n.leaf, n.at) if record.replay.is_quick else None)
                     for n in record.nudges()], step,
                    record.over_time({u.leaf: u.picks[:1] for u in step.updates}) if step else (),
                    questions(record.views), compare(record))


def contents_of_step(step: Any) -> Contents:
    """The page of one Step."""
    shown = view_alone(step)
    shown.inputs = [x if getattr(t, "node", None) is None else
                    x._replace(label=t.node.module or t.node.op_class.name) for x, t in zip(shown.inputs, step.inputs)]
    return Contents(f"step {step.index}: {step.node}", [shown], questions=questions([shown], whole=False),
                    embedded=True)


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
            omitted = _omitted(arrays, store.most, cells, forward, saved)
            text = json.dumps(data | {"arrays": arrays, "omitted": omitted}, separators=(",", ":"), ensure_ascii=False,
                              allow_nan=False)
            page = template.replace("/*data*/", text.replace("<", "\\u003c"))       # no </script> inside
            size = len(page.encode())
            if size <= budget:
                return page, omitted
    raise ValueError(f"the page needs {size / 1e6:.2f} MB even with {cells} numbers of each array and no saved values: "
                     f"over the budget of {budget / 1e6:.2f} MB; record a smaller model or raise budget=")


def _omitted(arrays: list[Any], most: list[int], cells: int, forward: bool, saved: bool) -> list[str]:
    """Sentences on what was left out to stay within the budget. most: numbers wanted of each array."""
    found = []
    sampled = sum("stride" in a for a, n in zip(arrays, most) if n > PICTURE)
    if sampled:
        found.append(f"{sampled} of {len(arrays)} arrays are sampled evenly, to at most {cells} numbers each; their "
                     "shapes, norms, means and largest magnitudes are those of the whole arrays")
    if not forward:
        found.append("the values of the lines of the forwards are left out")
    if not saved:
        found.append("the values saved for the backwards and the optimizer's steps over time are left out")
    return found


def _data(contents: Contents, store: "ArrayStore", forward: bool, saved: bool) -> dict[str, Any]:
    optimizer = contents.optimizer_step
    formulas: list[Formula] = []                # each once
    for formula in [x.formula for x in (*contents.views, *(optimizer.updates if optimizer else ()))]:
        if formula not in formulas:
            formulas.append(formula)
    asked = {q: n for n, q in enumerate(dict.fromkeys(q for own in contents.questions for q in own))}
    return {
        "title": contents.title, "notes": list(contents.notes),
        "labels": dict(contents.labels), "embedded": contents.embedded,
        "loss": None if contents.loss is None else _number(contents.loss),
        "formulas": [{"backward": f.mathml, "forward": f.forward_mathml, "shapes": f.shapes, "why": f.why}
                     for f in formulas],
        "steps": [_step(v, store, forward, saved) | {"formula": formulas.index(v.formula)} for v in contents.views],
        "stored": {f"{k}:{name}:{','.join(map(str, at))}": _why(explain(v, Cell(k, False, n, name, at)))
                   for k, v in enumerate(contents.views) for n, name, shape in _unread(v) for at in np.ndindex(shape)},
        "nudges": [_nudge(n, curve) for n, curve in contents.nudges],
        "optimizer": None if optimizer is None else _optimizer(optimizer, contents.over_time if saved else (), store,
                                                               formulas),
        "questions": [q._asdict() for q in asked],
        "quiz": [[asked[q] for q in own] for own in contents.questions],
        "compared": _compared(contents.compared) if contents.compared else None,
    }


def _step(v: View, store: "ArrayStore", forward: bool, saved: bool) -> dict[str, Any]:
    def put(arrays: dict[str, Any]) -> dict[str, int]:
        return {name: store.put(a) for name, a in arrays.items()}

    failed = {r.of: r for r in v.report.failures if r.numeric is not None}
    inputs = []
    for x in v.inputs:
        shown: dict[str, Any] = {"name": x.name, "label": x.label, "shape": x.shape, "source": x.source, "out": x.out,
                                 "leaf": x.leaf, "value": store.put(x.value)}
        if x.gradient is not None:
            shown |= {"gradient": store.put(x.gradient)}
            if x.earlier is not None:
                shown |= {"earlier": store.put(x.earlier), "sum": store.put(x.earlier + x.gradient)}
        if row := failed.get(f"d{x.name}"):
            shown["failed"] = {"analytic": store.put(row.analytic), "numeric": store.put(row.numeric),
                               "error": store.put(row.analytic - row.numeric), "worst": row.worst,
                               "sentence": row.detail}
        inputs.append(shown)
    return {
        "op": v.op, "name": v.name, "at": v.created_at, "kernel": v.kernel_note, "bad_origin": v.bad_origin,
        "axes": v.axes, "inputs": inputs, "outputs": put(v.outputs), "dys": put(v.dys),
        "saved": put(v.saved) if saved else {},
        "forward": _listing(v, True, store, forward), "backward": _listing(v, False, store),
        "origins": {name: saved_in(v, name) for name in v.saved} if saved else {},
        "identity": v.identity and {"words": v.identity.words, "expression": v.identity.expression,
                                    "ok": v.identity.ok, "residual": _number(v.identity.residual)},
        "checks": [{"check": r.check, "of": r.of, "error": _number(r.error), "detail": r.detail, "ok": r.ok}
                   for r in v.report.rows],
    }


def _listing(v: View, forward: bool, store: "ArrayStore", values: bool = True) -> dict[str, Any]:
    listing = v.forward if forward else v.backward
    return {"source": listing.source, "place": listing.place, "note": listing.note, "lines": [
        [line.first, line.last, {name: store.put(a) for name, a in line.values.items()},
         {name: _tree(tree, v, forward, n, store) for name, tree in v.trees(forward, n).items()}]
        if values else [line.first, line.last, {}, {}] for n, line in enumerate(listing.lines, 1)]}


def _tree(tree: Tree, v: View, forward: bool, line: int, store: "ArrayStore") -> dict[str, Any]:
    """The expression of a line for JSON. line: its number."""
    node: dict[str, Any] = {"op": tree.op}
    if tree.op == "array":
        return node | {"name": tree.text, "a": store.put(tree.value), "line": newest(v, forward, line, tree.text)}
    if tree.op == "number":
        value = np.asarray(tree.value)
        number = {"text": tree.text, "value": _number(value.reshape(-1)[0] if value.size else 0.0)}
        return node | number | ({"shape": value.shape} if value.ndim else {})
    node["of"] = [_tree(x, v, forward, line, store) for x in tree.of]
    if tree.op in STRUCTURE:
        node |= {key: getattr(tree, key) for key in ("axes", "sources") if getattr(tree, key)}
        if tree.positions is not None:
            node["positions"] = store.put(np.asarray(tree.positions))
        if tree.replaces:
            node["replaces"] = True
    else:                                       # a function: the page has no code to compute it
        node["text"] = tree.text
    if tree.op not in STRUCTURE or tree.op in ("sum", "mean"):      # sums are shown between the operands and the result
        return node | {"a": store.put(tree.value)}
    return node | ({"shape": tree.shape} if tree.shape else {})


def _unread(v: View) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """(line, name, shape) of the small gradients of an op whose lines cannot be read: the page stores all answers."""
    n = len(v.backward.lines)
    for x in v.inputs:
        if x.gradient is not None and x.gradient.size <= STORED:
            tree, _ = tree_of(v, False, n, f"d{x.name}")
            if tree is None or tree.op == "call":
                yield n, f"d{x.name}", x.gradient.shape


def _why(why: Why) -> dict[str, Any]:
    return {"equation": why.equation, "value": _number(why.value), "total": _number(why.total), "count": why.count,
            "terms": [[{"text": f.text, "value": _number(f.value), "cells": [[c.line, c.name, c.at] for c in f.cells]}
                       for f in term.factors] for term in why.terms]}


def _nudge(n: Nudge, curve: NudgeCurve | None) -> dict[str, Any]:
    """A row of the table, and the curve as changes of the loss at evenly spaced values up to `reach` on either side; of
    a large model no curve."""
    numbers = {k: _number(getattr(n, k)) for k in ("gradient", "delta", "predicted", "actual")}
    return {"leaf": n.leaf, "at": n.at} | numbers | ({} if curve is None else {
        "value": _number(curve.value), "loss": _number(curve.loss), "reach": _number(curve.deltas[-1]),
        "changes": _floats(curve.changes)})


def _optimizer(step: OptimizerStep, over_time: Iterable[OverTime], store: "ArrayStore", formulas: list[Formula]
               ) -> dict[str, Any]:
    columns = {x.leaf: {name: _floats(xs) for name, xs in x.columns.items()} for x in over_time}
    listing = step.updates[0].listing if step.updates else Listing("", "", [])
    return {"op": step.op, "clip": step.clip, "difference": step.why_not_as_predicted, **_changes_of_loss(step),
            "source": listing.source, "place": listing.place, "overTime": next((x.about for x in over_time), ""),
            "updates": [_update(u, store) | {"overTime": columns.get(u.leaf), "formula": formulas.index(u.formula)}
                        for u in step.updates]}


def _update(u: ParameterUpdate, store: "ArrayStore") -> dict[str, Any]:
    """An optimizer's arithmetic for single weights: its inputs, and the value that each line computed."""
    def picked(values: dict[str, Any]) -> dict[str, Any]:
        return {name: [_number(np.asarray(a)[at] if np.ndim(a) else a) for at in u.picks] for name, a in values.items()}

    return {"leaf": u.leaf, "picks": u.picks, "given": picked(u.given),
            "lines": [[x.first, x.last, picked(x.values)] for x in u.listing.lines],
            "change": store.put(u.change, PICTURE), **_changes_of_loss(u)}


def _changes_of_loss(x: OptimizerStep | ParameterUpdate) -> dict[str, Any]:
    second = None if x.second_order is None else _number(x.second_order)
    return {"predicted": _number(x.predicted), "secondOrder": second, "actual": _number(x.actual)}


def _compared(found: list[Compared]) -> dict[str, Any]:
    def floats(xs: Any) -> str:
        return base64.b64encode(xs.astype("<f4").tobytes()).decode()

    k = max(range(len(found)), key=lambda k: float(found[k].error.max(initial=0.0)))
    say, which = summary(found)
    return {"say": say, "which": which, "worst": {"leaf": k, "error": _number(found[k].error.max(initial=0.0)),
                                                  "at": found[k].worst},
            "leaves": [{"leaf": x.leaf, "shape": x.shape, "at": x.at.tolist(), "analytic": floats(x.analytic),
                        "numeric": floats(x.numeric), "error": _number(x.error.max(initial=0.0)),
                        "wrong": np.flatnonzero(~x.right).tolist()} for x in found]}


# ---- numbers and arrays ---------------------------------------------------------------------------------------------

def _number(x: Any) -> Any:
    """A number for JSON, to 9 digits; NaN and infinity, which JSON lacks, as strings for JavaScript's Number()."""
    x = float(x)
    if math.isfinite(x):
        return float(f"{x:.9g}")
    return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


def _floats(xs: Any) -> str:
    """A few numbers, kept out of the budget's sampling: base64 of float32."""
    return base64.b64encode(np.asarray(xs, "<f4").tobytes()).decode()


class ArrayStore:
    """The arrays of a page, each stored once."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self.most: list[int] = []
        self._described: list[dict[str, Any]] = []
        self._positions: dict[Any, int] = {}

    def put(self, value: Any, most: int = CELLS[0]) -> int:
        """Store an array or a number, unless it is there already; its position in `arrays`. most: numbers of it."""
        a = np.asarray(value)
        key = a.shape, a.dtype.str, hashlib.sha1(a.tobytes()).digest()
        if key not in self._positions:
            self._positions[key] = len(self.arrays)
            self.arrays.append(a)
            self.most.append(most)
            with np.errstate(all="ignore"):     # an array from empty() may hold any bits
                self._described.append(described(a))
        return self._positions[key]

    def encoded(self, cells: int) -> list[dict[str, Any]]:
        """All arrays for JSON: a description and at most `cells` numbers of each. "same": the position of an array of
        another shape that has the same numbers in the same order."""
        found: list[dict[str, Any]] = []
        known: dict[str, int] = {}
        for a, most, description in zip(self.arrays, self.most, self._described):
            with np.errstate(all="ignore"):
                numbers = sampled(a, min(most, cells))
            key = str(numbers)
            if "stride" not in numbers and key in known and a.size > 8:
                numbers = {"same": known[key]}
            known.setdefault(key, len(found))
            found.append(description | numbers)
        return found


def described(a: Any) -> dict[str, Any]:
    """The shape of an array, and the largest magnitude, norm and mean of its numbers that are finite and no masks; the
    value of a 0-d array."""
    if a.ndim == 0:
        return {"shape": [], "value": _number(a)}
    x = marked(a.astype(np.float64))
    usual = x[np.isfinite(x) & (np.abs(x) < MASK)]
    return {"shape": a.shape, "max": _number(np.abs(usual).max(initial=0.0)), "norm": _number(np.linalg.norm(usual)),
            "mean": _number(usual.mean() if usual.size else 0.0)}


def sampled(a: Any, cells: int) -> dict[str, Any]:
    """At most `cells` numbers of an array.

    "floats": base64 of float32. "ints" of integers and booleans. "stride" [n, r, c] of a sampled
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
    masked = np.isfinite(shown) & (np.abs(marked(shown)) >= MASK)
    if masked.any():                            # stored as infinities that stand for this number
        found["mask"] = _number(shown[masked][0])
    floats = np.where(masked, np.copysign(np.inf, shown), shown).astype("<f4")
    return found | {"floats": base64.b64encode(floats.tobytes()).decode()}


def strides(shape: tuple[int, ...], cells: int) -> list[int]:
    """Strides over panels, rows and columns that keep at most `cells` numbers; the longest axis is thinned first."""
    stride = [max(-(-shape[0] // PANELS), 1), 1, 1]
    while True:
        kept = [-(-n // s) for n, s in zip(shape, stride)]
        if math.prod(kept) <= cells:
            return stride
        stride[kept.index(max(kept))] += 1
