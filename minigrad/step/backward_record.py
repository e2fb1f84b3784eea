"""The record of a whole backward: everything that the page and the terminal show.

`record(loss)` walks the backward of a loss to its end and makes a View of every step: its arrays on the host, the lines
of its forward and backward with the values that they computed, its checks. As every op can be run again from its
inputs, the record also answers what the loss would be with other values of some leaves: `nudges` move one number of
each parameter, `optimizer_step` moves all that an optimizer would.
"""
import dataclasses
from collections import defaultdict
from functools import cached_property
from typing import Any, Callable, Iterable, Mapping

import numpy as np

from minigrad import tape
from minigrad.optim import Optimizer
from minigrad.step.axes import name_axes
from minigrad.step.breakpoints import largest_norm, names_of, parse_breakpoint
from minigrad.step.caller_names import names_of_caller
from minigrad.step.explain import size_of
from minigrad.step.nudge import Nudge, NudgeCurve, nudge_curve
from minigrad.step.optimizer_steps import OptimizerStep, OptimizerSteps, OverTime
from minigrad.step import replay
from minigrad.step.replay import Replay
from minigrad.step.rerun import Rerun, nodes_of, on_host
from minigrad.step.view import Traces, View, view
from minigrad.step.why import (MOST, SUM, Cell, Origin, Why, array_names, cell_of, checked_index, explain,
                                largest_entries)
from minigrad.tensor import Tensor
from minigrad.words import plural


def record(loss: Tensor, *, names: Mapping[str, Tensor] | None = None, tokens: Iterable[str] | None = None,
           vocabulary: Iterable[str] | None = None, title: str = "", notes: Iterable[str] = (),
           optimizer: Optimizer | None = None, max_norm: float | None = None) -> "Record":
    """Walk the backward of a loss, a Tensor of one element, to its end, and keep a View of every step.

    The `.grad` of all leaves are afterwards as `loss.backward()` would leave them.

    Args:
        names: what to call leaves; others have the names of Parameters in their Module, or those of the variables
            that hold them where `record` is called.
        tokens: a label for each position of the sequence.
        vocabulary: a label for each token id.
        title, notes: what this is, and what was left out of it.
        optimizer: its next step becomes part of the record, with gradients clipped to a joint norm of max_norm.

    Raises ValueError for a Tensor that has no backward.
    """
    return Record(loss, names or {}, tokens, vocabulary, title, list(notes), optimizer, max_norm)


class Record:
    """A backward, from the loss to the leaves; `record` makes one.

    views are in the order of the backward. labels are for axes of a name, as in `View.axes`, and of their length; notes
    say what was left out.
    """

    def __init__(self, y: Tensor, names: Mapping[str, Tensor], tokens: Iterable[str] | None,
                 vocabulary: Iterable[str] | None, title: str, notes: list[str], optimizer: Optimizer | None,
                 max_norm: float | None) -> None:
        steps = tape.backward_steps(y, deliver=self._deliver)   # first, as it refuses a Tensor without a backward
        self.title, self.notes = title, notes
        self.labels: dict[str, list[str]] = {}                  # name of an axis -> label of each index
        if tokens is not None:
            self.labels = dict.fromkeys(("token", "query", "key"), list(tokens))
        if vocabulary is not None:
            self.labels["vocabulary"] = list(vocabulary)
        self.loss = float(y.item())
        self.leaves: dict[str, Tensor] = {}                     # label -> leaf
        self.gradients: dict[str, Any] = {}                     # label -> its gradient in this backward, on the host
        self.views: list[View] = []
        self._y, self._optimizer, self._max_norm = y, optimizer, max_norm
        self._given = {id(t): name for name, t in names.items()}
        self._variables = names_of_caller()
        self._labels: dict[int, str] = {}
        self._index = {node.seq: i for i, node in enumerate(reversed(list(nodes_of(y))))}
        self.uses: dict[Any, list[tuple[int, int]]] = defaultdict(list)     # key of a Tensor -> (step, input) of uses

        traces = Traces()
        self._values: dict[Any, Any] = {}                       # key of a leaf -> its array as recorded
        for step in steps:
            self.views.append(view(step, self.label, self._index, traces, self._values))
            for i, (x, dx) in enumerate(zip(step.inputs, step.dxs)):
                if dx is not None:
                    self.uses[self.key(x)].append((step.index, i))
        name_axes(self.views, self.labels.get("vocabulary"))

    def _deliver(self, leaf: Tensor, gradient: Any) -> None:
        """Keep the gradient of a leaf: that of its only use, which is held already, or a copy."""
        label = self.label(leaf)
        uses = [self.views[step].inputs[i].gradient for step, i in self.uses.get(label, ())]
        self.gradients[label] = uses[0] if len(uses) == 1 else np.array(on_host(gradient))
        tape.accumulate(leaf, gradient)

    def label(self, leaf: Tensor) -> str:
        """A name for a leaf: the one given to `record`, its own, that of a variable, or a new one; with a prime if it
        is another leaf's."""
        if id(leaf) not in self._labels:
            label = (self._given.get(id(leaf)) or getattr(leaf, "name", "") or self._variables.get(leaf.key) or
                     f"leaf{len(self._labels)}")
            while label in self.leaves:
                label += "'"
            self._labels[id(leaf)] = label
            self.leaves[label] = leaf
        return self._labels[id(leaf)]

    def _repr_html_(self) -> str:
        from minigrad.step.page import iframe
        from minigrad.step.page_data import contents_of
        return iframe(contents_of(self))

    def __repr__(self) -> str:
        title = f" of {self.title}" if self.title else ""
        return f"<record{title}: {len(self.views)} steps, loss {self.loss:.4g}; leaves {', '.join(self.leaves)}>"

    def breakpoint(self, until: str) -> Callable[[View], bool]:
        """A function of a view: whether a breakpoint stops at it. until: as for `loss.backward_steps(until=...)`.
        ValueError, with the nearest names, for a name that is not in this record."""
        names = {v.index: names_of(v.op, v.step.node.module, ()) | {x.leaf for x in v.inputs} - {""}
                 for v in self.views}
        kind, value = parse_breakpoint(until, names.values())
        if kind == "bad":
            return lambda v: not v.report.ok
        if kind == "nan":
            return lambda v: bool(v.bad_origin)
        if kind == "norm":
            return lambda v: largest_norm(x.gradient for x in v.inputs) > value
        return lambda v: value in names[v.index]

    # ---- why ----

    def why(self, step: int, name: str, at: Any, most: int = MOST) -> Why:
        """One element of an array of a step, the newest of that name, by the line that computed it. Each element in the
        answer is a Cell that `follow` explains, up to the loss. A leaf and its gradient can also be called by the name
        of the leaf: "w", "dw".

        ValueError for a name that the step does not have, IndexError for an index outside the array.
        """
        view = self.views[step]
        if name not in array_names(view):
            names = {x.leaf: x.name for x in view.inputs} | {f"d{x.leaf}": f"d{x.name}" for x in view.inputs}
            name = names.get(name, name)
        return self.follow(cell_of(view, name, at), most)

    def follow(self, cell: Cell, most: int = MOST) -> Why:
        """The answer for an element of an array that any line of any step computed or was given."""
        return dataclasses.replace(explain(self.views[cell.step], cell, self._origin, most), record=self)

    def _origin(self, view: View, cell: Cell) -> Origin:
        """The origin of an element that an op was given: the gradients that a gradient is the sum of, the output that
        an input is."""
        if not cell.forward and (cell.name in view.dys or cell.line):
            return self._sum_of_uses(view, cell)
        x = next((x for x in view.inputs if x.name == cell.name), None)
        if x is None or x.source is None:
            return (f"is an element of {x.label}" if x is not None else "was given to this op"), []
        source = self.views[x.source]
        name = list(source.outputs)[x.out]
        above = Cell(x.source, True, len(source.forward.lines), name, cell.at)
        return f"is the output of step {x.source}, {source.name}", [(above, float(source.outputs[name][cell.at]))]

    def _sum_of_uses(self, view: View, cell: Cell) -> Origin:
        if cell.name in view.dys:
            uses = self.uses[view.step.node.seq, list(view.dys).index(cell.name)]
            words = "is the gradient of the loss itself: the backward begins here" if not uses else (
                "is the gradient from the only use of the output" if len(uses) == 1 else
                f"is the sum of the gradients from the {len(uses)} uses of the output")
        else:                                   # "earlier dw", "sum dw"
            kind, _, name = cell.name.partition(" ")
            i = next(i for i, x in enumerate(view.inputs) if f"d{x.name}" == name)
            uses = [use for use in self.uses[self.key(view.step.inputs[i])]
                    if use[0] < view.index or (use == (view.index, i) and kind == SUM.strip())]
            words = f"is the sum of the gradients from {plural(len(uses), 'step')} so far"
        terms = []
        for step, i in uses:
            used, x = self.views[step], self.views[step].inputs[i]
            use = Cell(step, False, len(used.backward.lines), f"d{x.name}", cell.at)
            terms.append((use, float(x.gradient[cell.at])))
        return words, terms

    def key(self, x: Tensor) -> Any:
        """The key of a Tensor in `uses`: (number of its node, number of the output); of a leaf its label."""
        return self.label(x) if x.node is None else (x.node.seq, x.out)

    # ---- what if ----

    @property
    def too_large(self) -> str:
        """Of a very large model: why the loss is not computed again for all its numbers; else ""."""
        n = sum(leaf.size for leaf in self.leaves.values())
        return "" if n <= replay.MOST_RERUN else (
            f"the loss is not computed again with other weights, as these are {n:,} numbers")

    @cached_property
    def reruns(self) -> list[Rerun]:
        """For each step its op, to be run again in float64."""
        return [Rerun(v.step, np.float64) for v in self.views]

    @cached_property
    def replay(self) -> Replay:
        return Replay([v.step for v in self.views], self.reruns, self._y)

    def nudge(self, leaf: str, at: tuple[int, ...], delta: float | None = None) -> Nudge:
        """Change one number of a leaf by delta, by default a thousandth of the leaf's root mean square. ValueError for
        a leaf that is not in the record, IndexError for an index outside it."""
        x, at = self._leaf(leaf, at)
        delta = 1e-3 * size_of(x) if delta is None else delta
        gradient = float(self.gradients[leaf][at])
        x[at] += delta
        return Nudge(leaf, at, gradient, delta, gradient * delta, self.replay.change({id(self.leaves[leaf]): x}))

    def nudges(self, largest: int = 3) -> list[Nudge]:
        """A nudge of each of the `largest` entries of every leaf's gradient."""
        return [self.nudge(leaf, at) for leaf, g in self.gradients.items() for at in largest_entries(g, largest)]

    def nudge_curve(self, leaf: str, at: tuple[int, ...]) -> NudgeCurve:
        """The loss along one number of a leaf, with its tangent. A notebook shows it as a picture, print as text.
        ValueError for a leaf that is not in the record, IndexError for an index outside it."""
        x, at = self._leaf(leaf, at)
        change = lambda moved: self.replay.change({id(self.leaves[leaf]): moved})
        return nudge_curve(leaf, at, x, self.replay.loss, float(self.gradients[leaf][at]), change)

    def _leaf(self, leaf: str, at: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
        """A float64 copy of a leaf, and an index in it."""
        if leaf not in self.gradients:
            raise ValueError(f"no leaf is called {leaf!r}; those with a gradient: {', '.join(self.gradients)}")
        x = on_host(self.leaves[leaf]).astype(np.float64)
        return x, checked_index(leaf, x.shape, at)

    @cached_property
    def optimizer_step(self) -> OptimizerStep | None:
        """What the optimizer's next step would do, computed in float64; no parameter changes. None without an
        optimizer."""
        return self._optimizer_steps.next() if self._optimizer_steps else None

    def over_time(self, picks: Mapping[str, Iterable[tuple[int, ...]]]) -> list[OverTime]:
        """The optimizer's state of single weights, label -> indices, in its steps t = 1 to 30: see
        minigrad.step.optimizer_steps. ValueError without an optimizer, or for a parameter that it does not update;
        IndexError for an index outside a parameter."""
        steps = self._optimizer_steps
        if steps is None:
            raise ValueError("no optimizer was recorded: record(loss, optimizer=...)")
        for leaf in picks:
            if leaf not in steps.leaves:
                raise ValueError(f"the optimizer updates no leaf {leaf!r} of this record; it updates "
                                 f"{', '.join(steps.leaves)}")
        return steps.over_time({leaf: [checked_index(leaf, steps.leaves[leaf].shape, at) for at in indices]
                                for leaf, indices in picks.items()})

    @cached_property
    def _optimizer_steps(self) -> OptimizerSteps | None:
        if self._optimizer is None:
            return None
        leaves = {label: self.leaves[label] for label in self.gradients}
        values = {label: self._values.get(leaf.key, on_host(self._y)) for label, leaf in leaves.items()}
        return OptimizerSteps(self._optimizer, leaves, values, self.gradients, self._max_norm,
                              None if self.too_large else self.replay)
