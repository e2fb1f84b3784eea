"""What a page holds of a Record or of one Step, and the same as JSON.

The expression of each line is stored too: from it and the arrays the page explains every element of every array that is
stored whole.
"""
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Mapping, NamedTuple

import numpy as np

from minigrad.step.compare_gradients import Compared, compare, summary
from minigrad.step.expression import Tree
from minigrad.step.formula import Formula
from minigrad.step.line_trace import Listing
from minigrad.step.nudge import Nudge, NudgeCurve
from minigrad.step.optimizer_steps import OptimizerStep, OverTime, ParameterUpdate
from minigrad.step.page_arrays import ArrayStore, floats, as_json
from minigrad.step.quiz import Question, questions
from minigrad.step.view import View, view_alone
from minigrad.step.why import Cell, Why, explain, newest, saved_in, tree_of

if TYPE_CHECKING:
    from minigrad.step.backward_record import Record

STRUCTURE = {"+", "-", "*", "/", "**", "neg", "@", "sum", "mean", "view", "reshape", "index", "max", "join", "where",
             "scatter"}                         # operations that the page computes
PICTURE = 1024                                  # numbers stored of an array that is only looked at
STORED = 64                                     # elements of a gradient whose answers are stored


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
    alone: bool = False             # one Step without the graph that it is of


def contents_of(record: "Record") -> Contents:
    if record.too_large:
        left_out = f"{record.too_large}: the optimizer's update, nudges and the tab Check are left out"
        return Contents(record.title, record.views, record.labels, [*record.notes, left_out], record.loss,
                        questions=questions(record.views))
    step = record.optimizer_step
    return Contents(record.title, record.views, record.labels, record.notes, record.loss,
                    [(n, record.nudge_curve(n.leaf, n.at) if record.replay.is_quick else None)
                     for n in record.nudges()], step,
                    record.over_time({u.leaf: u.picks[:1] for u in step.updates}) if step else (),
                    questions(record.views), compare(record))


def contents_of_step(step: Any) -> Contents:
    """One Step."""
    shown = view_alone(step)
    shown.inputs = [x if getattr(t, "node", None) is None else
                    x._replace(label=t.node.module or t.node.op_class.name) for x, t in zip(shown.inputs, step.inputs)]
    return Contents(f"step {step.index}: {step.node}", [shown], alone=True)


# ---- as JSON ---------------------------------------------------------------------------------------------------------

def data_of(contents: Contents, store: ArrayStore, forward: bool, saved: bool) -> dict[str, Any]:
    optimizer = contents.optimizer_step
    formulas: list[Formula] = []                # each once
    for formula in [x.formula for x in (*contents.views, *(optimizer.updates if optimizer else ()))]:
        if formula not in formulas:
            formulas.append(formula)
    asked = {q: n for n, q in enumerate(dict.fromkeys(q for own in contents.questions for q in own))}
    return {
        "title": contents.title, "notes": list(contents.notes),
        "labels": dict(contents.labels), "alone": contents.alone,
        "loss": None if contents.loss is None else as_json(contents.loss),
        "formulas": [{"backward": f.mathml, "forward": f.forward_mathml,
                      "why": f.why or ("" if f.forward or f.backward else f.doc)} for f in formulas],
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


def _step(v: View, store: ArrayStore, forward: bool, saved: bool) -> dict[str, Any]:
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
                               "error": store.put(row.analytic - row.numeric), "worst": row.worst}
        inputs.append(shown)
    return {
        "op": v.op, "name": v.name, "at": v.created_at, "kernel": v.kernel_note, "bad_origin": v.bad_origin,
        "axes": v.axes, "inputs": inputs, "outputs": put(v.outputs), "dys": put(v.dys),
        "saved": put(v.saved) if saved else {},
        "forward": _listing(v, True, store, forward), "backward": _listing(v, False, store),
        "origins": {name: saved_in(v, name) for name in v.saved} if saved else {},
        "identity": v.identity and {"words": v.identity.words, "expression": v.identity.expression,
                                    "ok": v.identity.ok, "residual": as_json(v.identity.residual)},
        "checks": [{"check": r.check, "of": r.of, "error": as_json(r.error), "detail": r.detail, "ok": r.ok}
                   for r in v.report.rows],
    }


def _listing(v: View, forward: bool, store: ArrayStore, values: bool = True) -> dict[str, Any]:
    listing = v.forward if forward else v.backward
    return {"source": listing.source, "place": listing.place, "note": listing.note, "lines": [
        [line.first, line.last, {name: store.put(a) for name, a in line.values.items()},
         {name: _tree(tree, v, forward, n, store) for name, tree in v.trees(forward, n).items()}]
        if values else [line.first, line.last, {}, {}] for n, line in enumerate(listing.lines, 1)]}


def _tree(tree: Tree, v: View, forward: bool, line: int, store: ArrayStore) -> dict[str, Any]:
    """The expression of a line for JSON. line: its number."""
    node: dict[str, Any] = {"op": tree.op}
    if tree.op == "array":
        return node | {"name": tree.text, "a": store.put(tree.value), "line": newest(v, forward, line, tree.text)}
    if tree.op == "number":
        value = np.asarray(tree.value)
        number = {"text": tree.text, "value": as_json(value.reshape(-1)[0] if value.size else 0.0)}
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
    return {"equation": why.equation, "value": as_json(why.value), "terms": [
        [{"text": f.text, "value": as_json(f.value), "cells": [[c.line, c.name, c.at] for c in f.cells]}
         for f in term.factors] for term in why.terms]}


def _nudge(n: Nudge, curve: NudgeCurve | None) -> dict[str, Any]:
    """A row of the table, and the curve as changes of the loss at evenly spaced values up to `reach` on either side; of
    a large model no curve."""
    numbers = {k: as_json(getattr(n, k)) for k in ("gradient", "predicted", "actual")}
    return {"leaf": n.leaf, "at": n.at} | numbers | ({} if curve is None else {
        "value": as_json(curve.value), "loss": as_json(curve.loss), "reach": as_json(curve.deltas[-1]),
        "changes": floats(curve.changes)})


def _optimizer(step: OptimizerStep, over_time: Iterable[OverTime], store: ArrayStore, formulas: list[Formula]
               ) -> dict[str, Any]:
    columns = {x.leaf: {name: floats(xs) for name, xs in x.columns.items()} for x in over_time}
    listing = step.updates[0].lines([])[1] if step.updates else Listing("", "", [])
    return {"op": step.op, "clip": step.clip, "difference": step.why_not_as_predicted, **_changes_of_loss(step),
            "source": listing.source, "place": listing.place, "overTime": next((x.about for x in over_time), ""),
            "updates": [_update(u, store) | {"overTime": columns.get(u.leaf), "formula": formulas.index(u.formula)}
                        for u in step.updates]}


def _update(u: ParameterUpdate, store: ArrayStore) -> dict[str, Any]:
    """An optimizer's arithmetic for single weights: its inputs, and the value that each line computed."""
    def picked(values: dict[str, Any]) -> dict[str, Any]:
        return {name: [as_json(a[i] if np.ndim(a) else a) for i in range(len(u.picks))] for name, a in values.items()}

    given, listing = u.lines(u.picks)
    return {"leaf": u.leaf, "picks": u.picks, "given": picked(given),
            "lines": [[x.first, x.last, picked(x.values)] for x in listing.lines],
            "change": store.put(u.change, PICTURE), **_changes_of_loss(u)}


def _changes_of_loss(x: OptimizerStep | ParameterUpdate) -> dict[str, Any]:
    return {"predicted": as_json(x.predicted)} | {name: None if value is None else as_json(value) for name, value in
                                                  (("secondOrder", x.second_order), ("actual", x.actual))}


def _compared(found: list[Compared]) -> dict[str, Any]:
    k = max(range(len(found)), key=lambda k: float(found[k].error.max(initial=0.0)))
    say, which = summary(found)
    return {"say": say, "which": which, "worst": {"leaf": k, "error": as_json(found[k].error.max(initial=0.0)),
                                                  "at": found[k].worst},
            "leaves": [{"leaf": x.leaf, "shape": x.shape, "at": x.at.tolist(), "analytic": floats(x.analytic),
                        "numeric": floats(x.numeric), "error": as_json(x.error.max(initial=0.0)),
                        "wrong": np.flatnonzero(~x.right).tolist()} for x in found]}
