"""The record of a whole backward: everything that the page and the terminal show.

`record(loss)` walks the backward of a loss to its end and makes a View of every step: its arrays on the host, the lines
of its forward and backward with the values that they computed, its checks. As every op can be run again from its
inputs, the record also answers what the loss would be with other values of some leaves: `nudges` move one number of
each parameter, `optimizer_step` moves all that an optimizer would.
"""
import dataclasses
from functools import cached_property
from typing import Any, Callable, Iterable, Mapping

import numpy as np

from minigrad import tape
from minigrad.ops.op import input_names
from minigrad.optim import Optimizer
from minigrad.step.breakpoints import largest_norm, names_of, parse_breakpoint
from minigrad.step.explain import Term, Uses, Why, checked_index, largest_entries, why
from minigrad.step.formula import parse
from minigrad.step.line_trace import trace_lines
from minigrad.step.replay import Nudge, OptimizerStep, ParameterUpdate, Replay
from minigrad.step.rerun import Rerun, nodes_of, on_host, output_names
from minigrad.step.variables import names_of_caller
from minigrad.step.view import View, view
from minigrad.tensor import Tensor


def record(loss: Tensor, *, names: Mapping[str, Tensor] | None = None, tokens: list[str] | None = None,
           title: str = "", notes: Iterable[str] = (), optimizer: Optimizer | None = None,
           max_norm: float | None = None) -> "Record":
    """Walk the backward of a loss, a Tensor of one element, to its end, and keep a View of every step.

    The `.grad` of all leaves are afterwards as `loss.backward()` would leave them.

    Args:
        names: what to call leaves; others have the names of Parameters in their Module, or those of the variables
            that hold them where `record` is called.
        tokens: a name for each position of the sequence; axes of that length are labelled with them.
        title, notes: what this is, and what was left out of it.
        optimizer: its next step becomes part of the record, with gradients clipped to a joint norm of max_norm.

    Raises ValueError for a Tensor that has no backward.
    """
    return Record(loss, names or {}, tokens, title, list(notes), optimizer, max_norm)


class Record:
    """A backward, from the loss to the leaves; `record` makes one.

    views are in the order of the backward. tokens label the axes of that length; notes say what was left out.
    """

    def __init__(self, y: Tensor, names: Mapping[str, Tensor], tokens: list[str] | None, title: str, notes: list[str],
                 optimizer: Optimizer | None, max_norm: float | None) -> None:
        steps = tape.backward_steps(y, deliver=self._deliver)   # first, as it refuses a Tensor without a backward
        self.title, self.tokens, self.notes = title, tokens, notes
        self.loss = float(y.item())
        self.leaves: dict[str, Tensor] = {}                     # label -> leaf
        self.gradients: dict[str, Any] = {}                     # label -> its gradient in this backward, on the host
        self.views: list[View] = []
        self._y, self._optimizer, self._max_norm = y, optimizer, max_norm
        self._given = {id(t): name for name, t in names.items()}
        self._variables = names_of_caller()
        self._labels: dict[int, str] = {}
        self._index = {node.seq: i for i, node in enumerate(reversed(list(nodes_of(y))))}
        self._uses: dict[tuple[int, int], list[tuple[int, int]]] = {}

        for step in steps:
            self.views.append(view(step, self.label, self._index))
            for i, (x, dx) in enumerate(zip(step.inputs, step.dxs)):
                if dx is not None and x.node is not None:
                    self._uses.setdefault((x.node.seq, x.out), []).append((step.index, i))

    def _deliver(self, leaf: Tensor, gradient: Any) -> None:
        self.gradients[self.label(leaf)] = np.array(on_host(gradient))
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
        from minigrad.step.page import contents_of, iframe
        return iframe(contents_of(self))

    def __repr__(self) -> str:
        title = f" of {self.title}" if self.title else ""
        return f"<record{title}: {len(self.views)} steps, loss {self.loss:.4g}; leaves {', '.join(self.leaves)}>"

    def breakpoint(self, until: str) -> Callable[[View], bool]:
        """A function of a view: whether a breakpoint stops at it. until: as for `loss.backward_steps(until=...)`.
        ValueError, with the nearest names, for a name that is not in this record."""
        names = {v.index: names_of(v.op, v.step.node.module, (), {}) | {x.leaf for x in v.inputs} - {""}
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

    def uses(self, step: Any, out: int) -> Uses:
        """(step, input) of each use of an output: its gradient is the sum of the gradients made there."""
        return tuple(self._uses.get((step.node.seq, out), ()))

    def why(self, index: int, name: str | int, at: Any, most: int = 6) -> Why:
        """Explain one element of a gradient of step `index` by the chain rule: see minigrad.step.explain.why. name: of
        the op's input, or of the leaf that it is. `follow` explains its terms."""
        step = self.views[index].step
        leaves = [x.leaf for x in self.views[index].inputs]
        if name in leaves and name not in [x.name for x in self.views[index].inputs]:
            name = leaves.index(name)
        answer = why(step, name, at, most, self.reruns[index], lambda out: self.uses(step, out))
        return dataclasses.replace(answer, record=self)

    def follow(self, term: Term) -> list[Why]:
        """Explain the upstream gradient in a term: one answer for each use of that output; none at the loss."""
        return [self.why(index, name, term.at) for index, name in term.uses]

    def whys(self, largest: int = 3) -> dict[tuple[int, int, tuple[int, ...]], Why]:
        """(step, input, index) -> Why, for the `largest` entries of every gradient, and from the first of them along
        the largest terms up to the loss."""
        found: dict[tuple[int, int, tuple[int, ...]], Why] = {}
        for v in self.views:
            for i, x in enumerate(v.inputs):
                for n, at in enumerate(largest_entries(x.gradient, largest) if x.gradient is not None else []):
                    if (v.index, i, at) not in found:
                        found[v.index, i, at] = self.why(v.index, i, at)
                    answer = found[v.index, i, at]
                    while n == 0 and answer.terms and answer.terms[0].uses:
                        at = answer.terms[0].at
                        key = max(answer.terms[0].uses, key=lambda use: abs(self._gradient(*use)[at]))
                        answer = found[*key, at] = found.get((*key, at)) or self.why(*key, at)
        return found

    def _gradient(self, index: int, i: int) -> Any:
        return self.views[index].inputs[i].gradient

    # ---- what if ----

    @cached_property
    def reruns(self) -> list[Rerun]:
        """For each step its op, to be run again in float64."""
        return [Rerun(v.step, np.float64) for v in self.views]

    @cached_property
    def replay(self) -> Replay:
        return Replay([v.step for v in self.views], self.reruns, self._y)

    def nudge(self, leaf: str, at: tuple[int, ...], delta: float | None = None) -> Nudge:
        """Move one number of a leaf by delta, by default a thousandth of the leaf's root mean square. ValueError for a
        leaf that is not in the record, IndexError for an index outside it."""
        if leaf not in self.gradients:
            raise ValueError(f"no leaf is called {leaf!r}; those with a gradient: {', '.join(self.gradients)}")
        x = on_host(self.leaves[leaf]).astype(np.float64)
        at = checked_index(leaf, x.shape, at)
        delta = 1e-3 * (float(np.sqrt(np.mean(x * x))) or 1.0) if delta is None else delta
        gradient = float(self.gradients[leaf][at])
        x[at] += delta
        actual = self.replay.change({id(self.leaves[leaf]): x})
        return Nudge(leaf, at, gradient, delta, gradient * delta, actual)

    def nudges(self, largest: int = 3) -> list[Nudge]:
        """A nudge of each of the `largest` entries of every leaf's gradient."""
        return [self.nudge(leaf, at) for leaf, g in self.gradients.items() for at in largest_entries(g, largest)]

    @cached_property
    def optimizer_step(self) -> OptimizerStep | None:
        """What the optimizer's next step would do, computed in float64; no parameter changes. None without an
        optimizer."""
        optimizer = self._optimizer
        if optimizer is None:
            return None
        scale, clip = 1.0, ""
        updated = {id(p): self.label(p) for p in optimizer.params if id(p) in self._labels}
        grads = {label: self.gradients[label].astype(np.float64) for label in updated.values()}
        if self._max_norm:
            norm = float(np.sqrt(sum(float((g * g).sum()) for g in grads.values())))
            scale = min(self._max_norm / (norm + 1e-6), 1.0)
            clip = f"the gradients' joint norm is {norm:.4g}, the limit {self._max_norm:.4g}: " + (
                f"all are multiplied by {scale:.4g}" if scale < 1.0 else "nothing is clipped")
        updates, moved = [], {}
        for group in optimizer.groups:
            for p in group["params"]:
                if id(p) in updated:
                    update, new = self._update(optimizer, p, grads[updated[id(p)]], scale, group)
                    updates.append(update)
                    moved[id(p)] = new
        return OptimizerStep(optimizer.op.name, clip, updates, sum(u.predicted for u in updates),
                             self.replay.change(moved))

    def _update(self, optimizer: Optimizer, p: Tensor, gradient: Any, scale: float, group: dict[str, Any]
                ) -> tuple[ParameterUpdate, Any]:
        """The update of one parameter, and the parameter after it. scale: of the gradient, by clipping."""
        state = optimizer.state_of(p)
        old = on_host(p).astype(np.float64)
        moments = [on_host(state[m]).astype(np.float64) for m in optimizer.moments]
        op = optimizer.op()
        op.xp = np
        hyper, static = optimizer.hyper(group, state["t"] + 1)
        inputs = [old, gradient * scale, *moments, *hyper]
        given = dict(zip(input_names(optimizer.op, len(inputs)), inputs)) | static
        results = output_names(optimizer.op, 1 + len(moments))
        (new, *_), listing = trace_lines(op.forward, results, *inputs, **static)
        change = new - old
        update = ParameterUpdate(self.label(p), parse(optimizer.op), listing, given, change,
                                 largest_entries(gradient, 3), float((gradient * change).sum()),
                                 self.replay.change({id(p): new}))
        return update, new
