"""A Record as one HTML file: it opens from disk, asks for nothing from the network, and needs nothing beside it.

Arrays go in once each, however often they are shown, as half floats of a / max|a|. Where they do not fit into the
budget they are sampled evenly; their shape, largest magnitude, norm and mean are those of the whole array.
"""
import base64
import hashlib
import html as markup
import json
import math
from pathlib import Path
from typing import Any, Iterable, NamedTuple

import numpy as np

from minigrad.step.explain import Why, top, why
from minigrad.step.formula import Formula
from minigrad.step.heat import MASK
from minigrad.step.listing import Listing
from minigrad.step.record import Nudge, Record, Update, View, Walk, view
from minigrad.tape import Step

WEB = Path(__file__).parent / "web"
PANELS = 12                 # of an array of more than two axes: so many of its matrices are shown side by side


CELLS = 4096, 2048, 1024, 512, 256, 128, 64     # numbers of one array, as many as the budget allows


def write(record: Record, path: str | Path, budget: float = 8e6) -> list[str]:
    """Write the page of a record into one file of at most `budget` bytes.

    Returns what was sampled or left out for that, in words; the page says the same. ValueError if even the smallest
    page is larger.
    """
    page, less = _fitted(_contents(record), budget)
    Path(path).write_text(page, encoding="utf-8")
    return less


def html(record: Record, budget: float = 8e6) -> str:
    """The page of a record, as text."""
    return _fitted(_contents(record), budget)[0]


def iframe(step: Step) -> str:
    """One Step as a page inside another: for a notebook."""
    names: dict[int, str] = {}

    def label(leaf: Any) -> str:
        return names.setdefault(id(leaf), getattr(leaf, "name", "") or f"leaf{len(names)}")

    seen = view(step, label, {})
    seen.index = 0
    seen.inputs = [x if getattr(t, "node", None) is None else
                   x._replace(label=t.node.module or t.node.op_class.name) for x, t in zip(seen.inputs, step.inputs)]
    whys = [why(step, i, at)
            for i, x in enumerate(seen.inputs) if x.gradient is not None for at in top(x.gradient, 3)]
    page, _ = _fitted(Contents(f"step {step.index}: {step.node}", [seen], whys, embedded=True), 2e6)
    return (f'<iframe srcdoc="{markup.escape(page)}" title="{markup.escape(f"step {step.index}: {step.op}")}" '
            'style="width:100%;height:780px;border:1px solid #8886;border-radius:8px"></iframe>')


# ---- what is on it --------------------------------------------------------------------------------------------------

class Contents(NamedTuple):
    """What a page shows."""
    title: str
    views: list[View]
    whys: Iterable[Why]
    tokens: list[str] | None = None
    notes: Iterable[str] = ()
    loss: float | None = None
    nudges: Iterable[Nudge] = ()
    walk: Walk | None = None
    embedded: bool = False


def _contents(record: Record) -> Contents:
    return Contents(record.title, record.views, list(record.whys().values()), record.tokens, record.notes,
                    record.loss, record.nudges(), record.walk)


def _fitted(contents: Contents, budget: float) -> tuple[str, list[str]]:
    """The fullest page within the budget, and what it lacks."""
    template = (WEB / "page.html").read_text(encoding="utf-8")
    for part in "css", "js":
        template = template.replace(f"/*{part}*/", (WEB / f"page.{part}").read_text(encoding="utf-8"))
    for forward, saved, bounds in (True, True, CELLS), (False, True, CELLS[-1:]), (False, False, CELLS[-1:]):
        pool = Pool()
        data = _data(contents, pool, forward, saved)
        for cells in bounds:
            arrays = pool.encoded(cells)
            less = _less(arrays, cells, forward, saved)
            text = json.dumps(data | {"arrays": arrays, "less": less}, separators=(",", ":"), ensure_ascii=False,
                              allow_nan=False)
            page = template.replace("/*data*/", text.replace("<", "\\u003c"))       # no </script> inside
            size = len(page.encode())
            if size <= budget:
                return page, less
    raise ValueError(f"the page needs {size / 1e6:.2f} MB even with {cells} numbers of each array and no saved values: "
                     f"over the budget of {budget / 1e6:.2f} MB; record a smaller model or raise budget=")


def _less(arrays: list[Any], cells: int, forward: bool, saved: bool) -> list[str]:
    sampled, less = sum("stride" in a for a in arrays), []
    if sampled:
        less.append(f"{sampled} of {len(arrays)} arrays are sampled evenly, to at most {cells} numbers each; their "
                    "shapes, norms, means and largest magnitudes are exact")
    if not forward:
        less.append("what the lines of the forwards made is left out")
    if not saved:
        less.append("the values saved for the backwards are left out")
    return less


def _data(contents: Contents, pool: "Pool", forward: bool, saved: bool) -> dict[str, Any]:
    formulas: dict[str, Formula] = {v.op: v.formula for v in contents.views}
    walk = contents.walk
    if walk is not None and walk.updates:
        formulas[walk.op] = walk.updates[0].formula
    return {
        "title": contents.title, "notes": list(contents.notes), "tokens": contents.tokens,
        "embedded": contents.embedded,
        "loss": None if contents.loss is None else _number(contents.loss),
        "formulas": {op: {"backward": f.mathml, "forward": f.forward_mathml, "shapes": f.shapes, "why": f.why}
                     for op, f in formulas.items()},
        "steps": [_step(v, pool, forward, saved) for v in contents.views],
        "whys": {f"{w.step}:{w.input}:{','.join(map(str, w.at))}": _why(w) for w in contents.whys},
        "nudges": [{"leaf": n.leaf, "at": n.at} | {k: _number(getattr(n, k)) for k in (
            "gradient", "delta", "predicted", "actual")} for n in contents.nudges],
        "walk": None if walk is None else {
            "op": walk.op, "clip": walk.clip, "predicted": _number(walk.predicted), "actual": _number(walk.actual),
            "updates": [_update(u, pool) for u in walk.updates]},
    }


def _step(v: View, pool: "Pool", forward: bool, saved: bool) -> dict[str, Any]:
    def put(arrays: dict[str, Any]) -> dict[str, int]:
        return {name: pool.put(a) for name, a in arrays.items()}

    inputs = []
    for x in v.inputs:
        shown = {"name": x.name, "label": x.label, "shape": x.shape, "source": x.source, "leaf": x.leaf,
                 "value": pool.put(x.value)}
        if x.gradient is not None:
            shown |= {"gradient": pool.put(x.gradient)}
            if x.earlier is not None:
                shown |= {"earlier": pool.put(x.earlier), "sum": pool.put(x.earlier + x.gradient)}
        inputs.append(shown)
    return {
        "op": v.op, "name": v.name, "at": v.created_at, "kernel": v.kernel, "difference": _number(v.difference),
        "trouble": v.trouble, "inputs": inputs, "outputs": put(v.outputs), "dys": put(v.dys),
        "saved": put(v.saved) if saved else {},
        "forward": _listing(v.forward, pool, forward), "backward": _listing(v.backward, pool),
        "held": v.held and {"words": v.held.words, "expression": v.held.expression, "ok": v.held.ok,
                            "residual": _number(v.held.residual)},
        "checks": [{"check": r.check, "of": r.of, "error": _number(r.error), "detail": r.detail, "ok": r.ok}
                   for r in v.report.rows],
    }


def _listing(listing: Listing, pool: "Pool", values: bool = True) -> dict[str, Any]:
    return {"source": listing.source, "place": listing.place, "note": listing.note, "lines": [
        [line.first, line.last, {name: pool.put(a) for name, a in line.values.items()} if values else {}]
        for line in listing.lines]}


def _why(w: Why) -> dict[str, Any]:
    return {"name": w.name, "value": _number(w.value), "total": _number(w.total), "magnitude": _number(w.magnitude),
            "count": w.count, "terms": [{"out": t.out, "at": t.at, "slope": _number(t.slope), "dy": _number(t.dy),
                                         "product": _number(t.product), "parts": t.parts} for t in w.terms]}


def _update(u: Update, pool: "Pool") -> dict[str, Any]:
    """An optimizer's arithmetic, for single weights: what it was given, and what each line made."""
    def picked(values: dict[str, Any]) -> dict[str, Any]:
        return {name: [_number(np.asarray(a)[at] if np.ndim(a) else a) for at in u.picks] for name, a in values.items()}

    return {"leaf": u.leaf, "picks": u.picks, "source": u.listing.source, "place": u.listing.place,
            "given": picked(u.given), "lines": [[x.first, x.last, picked(x.values)] for x in u.listing.lines],
            "change": pool.put(u.change), "predicted": _number(u.predicted), "actual": _number(u.actual)}


# ---- numbers and arrays ---------------------------------------------------------------------------------------------

def _number(x: Any) -> Any:
    """A number for JSON, to 9 digits; what JSON has no number for as a word that JavaScript's Number() reads."""
    x = float(x)
    if math.isfinite(x):
        return float(f"{x:.9g}")
    return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


class Pool:
    """The arrays of a page, each once."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self._described: list[dict[str, Any]] = []
        self._places: dict[Any, int] = {}

    def put(self, value: Any) -> int:
        """Where among `arrays` an array or number is."""
        a = np.asarray(value)
        key = a.shape, a.dtype.str, hashlib.sha1(a.tobytes()).digest()
        if key not in self._places:
            self._places[key] = len(self.arrays)
            self.arrays.append(a)
            with np.errstate(all="ignore"):     # an array that is not yet filled may hold anything
                self._described.append(described(a))
        return self._places[key]

    def encoded(self, cells: int) -> list[dict[str, Any]]:
        """All arrays for JSON: what they are, and at most `cells` numbers of each."""
        with np.errstate(all="ignore"):
            return [known | sampled(a, cells, known) for a, known in zip(self.arrays, self._described)]


def described(a: Any) -> dict[str, Any]:
    """The shape of an array, and its largest magnitude, norm and mean: of the finite numbers, without masks; of a
    number without axes its value."""
    if a.ndim == 0:
        return {"shape": [], "value": _number(a)}
    x = a.astype(np.float64)
    usual = x[np.isfinite(x) & (np.abs(x) < MASK)]
    return {"shape": a.shape, "max": _number(np.abs(usual).max(initial=0.0)), "norm": _number(np.linalg.norm(usual)),
            "mean": _number(usual.mean() if usual.size else 0.0)}


def sampled(a: Any, cells: int, known: dict[str, Any]) -> dict[str, Any]:
    """At most `cells` numbers of an array.

    Floats are "half": base64 of float16, of a / max|a|; integers and booleans "ints". "stride" [n, r, c] of a sampled
    one: it is a[::n, ::r, ::c], with all axes but the last two taken as one.
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
    if masked.any():                            # its infinities stand for this number
        found["mask"] = _number(shown[masked][0])
    half = (np.where(masked, np.copysign(np.inf, shown), shown) / (known["max"] or 1.0)).astype("<f2")
    return found | {"half": base64.b64encode(half.tobytes()).decode()}


def strides(shape: tuple[int, ...], cells: int) -> list[int]:
    """Every how many-th panel, row and column to keep: the longest of the three is thinned first."""
    stride = [max(-(-shape[0] // PANELS), 1), 1, 1]
    while True:
        kept = [-(-n // s) for n, s in zip(shape, stride)]
        if math.prod(kept) <= cells:
            return stride
        stride[kept.index(max(kept))] += 1
