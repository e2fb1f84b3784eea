"""A whole backward written down: what the page and the terminal show, and nothing else.

`record(loss)` walks the backward of a loss to its end and makes a View of every step on the way: its arrays on the
host, the lines of its forward and backward with the values that they made, its checks. Since every op can be run again
from its inputs, the record can also be replayed forwards with other leaves: `nudges` move one number of each
parameter, `walk` all that an optimizer would move.
"""
import dataclasses
from functools import cached_property
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple

import numpy as np

from minigrad import tape
from minigrad.gradcheck import Report
from minigrad.ops.op import Op, input_names
from minigrad.optim import Optimizer
from minigrad.step import explain
from minigrad.step.breakpoints import longest, names_of, read
from minigrad.step.explain import Again, Why, on_host, top
from minigrad.step.formula import Formula, parse
from minigrad.step.invariant import Held
from minigrad.step.listing import Listing, is_finite, listed
from minigrad.step.step import Step, backward_steps
from minigrad.tensor import Tensor


class Input(NamedTuple):
    """One input of an op, and the gradient that the step made for it."""
    name: str                       # as in the op: "q"
    label: str                      # whose it is: "h.0.attn.c_attn.weight", "h.0.ln_1 (step 12)", "2.0"
    shape: tuple[int, ...]
    value: Any                      # array on the host, or a number
    source: int | None              # the step of the node that made it; None for a leaf
    leaf: str                       # the leaf's label; "" for what a node made, and for numbers
    gradient: Any                   # array on the host; None where none is wanted
    earlier: Any                    # what other steps had sent before: an array, to which gradient is added; or None


@dataclasses.dataclass
class View:
    """Everything there is to see of one step."""
    step: Step
    index: int
    op: str
    name: str                       # the module's path, or the op's name
    created_at: str                 # the user's forward line
    formula: Formula
    inputs: list[Input]
    outputs: dict[str, Any]         # "y" -> array
    dys: dict[str, Any]             # "dy" -> array
    saved: dict[str, Any]           # name -> array or number
    forward: Listing
    backward: Listing
    report: Report
    held: Held | None               # the op's invariant, tested
    kernel: str                     # what ran in place of the textbook; "" if the textbook did
    difference: float               # of the gradients that flow on from those of the textbook, relative to dy
    trouble: str                    # where a NaN or an infinity comes from; "" if all is finite


class Nudge(NamedTuple):
    """One number of a leaf moved a little: the change of the loss that its gradient predicts, beside what happens."""
    leaf: str
    at: tuple[int, ...]
    gradient: float
    delta: float
    predicted: float                # gradient * delta
    actual: float


class Update(NamedTuple):
    """An optimizer's update of one parameter, line by line; and what it does to the loss."""
    leaf: str
    formula: Formula
    listing: Listing                # the lines of the op's forward, each with the arrays that it made
    given: dict[str, Any]           # the op's inputs by name: p, g, m, v arrays; lr, beta1, ... numbers; t
    change: Any                     # p_new - p
    picks: list[tuple[int, ...]]    # the elements with the largest gradients
    predicted: float                # sum(gradient * change)
    actual: float                   # change of the loss if only this parameter is updated


class Walk(NamedTuple):
    """A whole step of an optimizer."""
    op: str                         # "adamw"
    clip: str                       # what clipping did to the gradients, in words; "" without
    updates: list[Update]
    predicted: float
    actual: float                   # with all parameters updated


class Replay:
    """The recorded graph run forwards again, in float64 on the host, with other values of some leaves."""

    def __init__(self, steps: list[Step], again: list[Again], y: Tensor) -> None:
        self.steps, self.again, self.y = steps[::-1], again[::-1], y
        self.values: dict[tuple[int, int], Any] = {}        # (number of the node, output) -> array
        self.values = self._run({})
        self.loss = self._loss(self.values, {})

    def change(self, leaves: Mapping[int, Any]) -> float:
        """How much the loss changes with these leaves: id of the Tensor -> float64 array."""
        return self._loss(self._run(leaves), leaves) - self.loss

    def _run(self, leaves: Mapping[int, Any]) -> dict[tuple[int, int], Any]:
        """The outputs that differ from `values`."""
        new: dict[tuple[int, int], Any] = {}
        for step, again in zip(self.steps, self.again):
            key = step.node.seq
            if (key, 0) not in self.values or any(
                    id(x) in leaves if x.node is None else (x.node.seq, x.out) in new
                    for x in step.inputs if isinstance(x, Tensor)):
                inputs = [self._value(x, own, leaves, new) for x, own in zip(step.inputs, again.inputs)]
                new.update({(key, out): y for out, y in enumerate(again.forward(inputs)[1])})
        return new

    def _value(self, x: Any, own: Any, leaves: Mapping[int, Any], new: Mapping[tuple[int, int], Any]) -> Any:
        if not isinstance(x, Tensor):
            return own
        if x.node is None:
            return leaves.get(id(x), own)
        key = x.node.seq, x.out
        return new[key] if key in new else self.values.get(key, own)

    def _loss(self, new: Mapping[tuple[int, int], Any], leaves: Mapping[int, Any]) -> float:
        if self.y.node is None:
            return float(np.sum(leaves.get(id(self.y), on_host(self.y))))
        key = self.y.node.seq, self.y.out
        return float(np.sum(new[key] if key in new else self.values[key]))


class Record:
    """A backward, from the loss to the leaves.

    views are in the order of the backward. tokens label the axes of that length; notes say what was cropped.
    """

    def __init__(self, y: Tensor, names: Mapping[str, Tensor], tokens: list[str] | None, title: str, notes: list[str],
                 optimizer: Optimizer | None, max_norm: float | None) -> None:
        steps = backward_steps(y, deliver=self._deliver)  # refuses what has no backward before anything else
        self.title, self.tokens, self.notes = title, tokens, notes
        self.loss = float(y.item())
        self.leaves: dict[str, Tensor] = {}                     # label -> leaf
        self.gradients: dict[str, Any] = {}                     # label -> its gradient in this backward, on the host
        self.views: list[View] = []
        self._y, self._optimizer, self._max_norm = y, optimizer, max_norm
        self._given = {id(t): name for name, t in names.items()}
        self._labels: dict[int, str] = {}
        self._index = {node.seq: i for i, node in enumerate(reversed(list(explain.nodes_of(y))))}
        self._users: dict[tuple[int, int], list[tuple[int, int]]] = {}

        for step in steps:
            self.views.append(view(step, self.label, self._index))
            for i, (x, dx) in enumerate(zip(step.inputs, step.dxs)):
                if dx is not None and x.node is not None:
                    self._users.setdefault((x.node.seq, x.out), []).append((step.index, i))

    def _deliver(self, leaf: Tensor, gradient: Any) -> None:
        self.gradients[self.label(leaf)] = np.array(on_host(gradient))
        tape.accumulate(leaf, gradient)

    def label(self, leaf: Tensor) -> str:
        """A name for a leaf: its own, the one it was given here, or a new one."""
        if id(leaf) not in self._labels:
            label = self._given.get(id(leaf), "") or getattr(leaf, "name", "") or f"leaf{len(self._labels)}"
            self._labels[id(leaf)] = label
            self.leaves[label] = leaf
        return self._labels[id(leaf)]

    def breakpoint(self, until: str) -> Callable[[View], bool]:
        """Whether a breakpoint, written as for `loss.backward_steps(until=...)`, stops at a view. ValueError, with the
        nearest names, for one that is not here."""
        names = {v.index: names_of(v.op, v.step.node.module, ()) | {x.leaf for x in v.inputs} - {""}
                 for v in self.views}
        kind, value = read(until, names.values())
        if kind == "bad":
            return lambda v: not v.report.ok
        if kind == "nan":
            return lambda v: bool(v.trouble)
        if kind == "norm":
            return lambda v: longest(x.gradient for x in v.inputs) > value
        return lambda v: value in names[v.index]

    # ---- why ----

    def users(self, step: Step, out: int) -> tuple[tuple[int, int], ...]:
        """(step, input) of each use of an output: its gradient is the sum of what they made."""
        return tuple(self._users.get((step.node.seq, out), ()))

    def why(self, index: int, name: str | int, at: Any, most: int = 6) -> Why:
        """One element of a gradient explained by terms that can be asked again: see `follow`."""
        return explain.why(self.views[index].step, name, at, most, self)

    def follow(self, term: explain.Term) -> list[Why]:
        """Why the gradient in a term is what it is: one answer for each use of that output; none at the loss."""
        return [self.why(index, name, term.at) for index, name in term.parts]

    def whys(self, largest: int = 3) -> dict[tuple[int, int, tuple[int, ...]], Why]:
        """The answers for the largest entries of every gradient; and from the largest of each leaf along the largest
        terms up to the loss: (step, input, index) -> Why."""
        found: dict[tuple[int, int, tuple[int, ...]], Why] = {}
        for v in self.views:
            for i, x in enumerate(v.inputs):
                for n, at in enumerate(top(x.gradient, largest) if x.gradient is not None else []):
                    if (v.index, i, at) not in found:
                        found[v.index, i, at] = self.why(v.index, i, at)
                    why = found[v.index, i, at]
                    while n == 0 and why.terms and why.terms[0].parts:
                        at = why.terms[0].at
                        key = max(why.terms[0].parts, key=lambda part: abs(self._gradient(*part)[at]))
                        why = found[*key, at] = found.get((*key, at)) or self.why(*key, at)
        return found

    def _gradient(self, index: int, i: int) -> Any:
        return self.views[index].inputs[i].gradient

    # ---- what if ----

    @cached_property
    def again(self) -> list[Again]:
        """The op of each step, ready to be run again in float64."""
        return [Again(v.step, np.float64) for v in self.views]

    @cached_property
    def replay(self) -> Replay:
        return Replay([v.step for v in self.views], self.again, self._y)

    def nudge(self, leaf: str, at: tuple[int, ...], delta: float | None = None) -> Nudge:
        """Move one number of a leaf by delta (by default a thousandth of the leaf's size). ValueError for a leaf that
        is not there, IndexError for an index outside it."""
        if leaf not in self.gradients:
            raise ValueError(f"no leaf is called {leaf!r}; those with a gradient: {', '.join(self.gradients)}")
        x = on_host(self.leaves[leaf]).astype(np.float64)
        at = explain.inside(leaf, x.shape, at)
        delta = 1e-3 * (float(np.sqrt(np.mean(x * x))) or 1.0) if delta is None else delta
        gradient = float(self.gradients[leaf][at])
        x[at] += delta
        actual = self.replay.change({id(self.leaves[leaf]): x})
        return Nudge(leaf, at, gradient, delta, gradient * delta, actual)

    def nudges(self, largest: int = 3) -> list[Nudge]:
        """The largest entries of every leaf's gradient, each moved a little."""
        return [self.nudge(leaf, at) for leaf, g in self.gradients.items() for at in top(g, largest)]

    @cached_property
    def walk(self) -> Walk | None:
        """What the optimizer's next step would do, computed in float64; nothing is moved. None without an optimizer."""
        if self._optimizer is None:
            return None
        scale, clip = 1.0, ""
        updated = {id(p): self.label(p) for p in self._optimizer.params if id(p) in self._labels}
        grads = {label: self.gradients[label].astype(np.float64) for label in updated.values()}
        if self._max_norm:
            norm = float(np.sqrt(sum(float((g * g).sum()) for g in grads.values())))
            scale = min(self._max_norm / (norm + 1e-6), 1.0)
            clip = f"the gradients' joint norm is {norm:.4g}, the limit {self._max_norm:.4g}: " + (
                f"all are multiplied by {scale:.4g}" if scale < 1.0 else "nothing is clipped")
        updates, moved = [], {}
        for group in self._optimizer.groups:
            for p in group["params"]:
                if id(p) in updated:
                    update, new = self._update(p, grads[updated[id(p)]], scale, group)
                    updates.append(update)
                    moved[id(p)] = new
        return Walk(self._optimizer.op.name, clip, updates, sum(u.predicted for u in updates),
                    self.replay.change(moved))

    def _update(self, p: Tensor, gradient: Any, scale: float, group: dict[str, Any]) -> tuple[Update, Any]:
        optimizer = self._optimizer
        assert optimizer is not None
        state = optimizer.state.get(id(p), {"t": 0})
        old = on_host(p).astype(np.float64)
        moments = [on_host(state[m]).astype(np.float64) if m in state else np.zeros_like(old)
                   for m in optimizer.moments]
        op = optimizer.op()
        op.xp = np
        hyper, static = optimizer.hyper(group, state["t"] + 1)
        inputs = [old, gradient * scale, *moments, *hyper]
        given = dict(zip(input_names(optimizer.op, len(inputs)), inputs)) | static
        results = explain.output_names(optimizer.op, 1 + len(moments))
        (new, *_), listing = listed(op.forward, results, *inputs, **static)
        change = new - old
        update = Update(self.label(p), parse(optimizer.op), listing, given, change, top(gradient, 3),
                        float((gradient * change).sum()), self.replay.change({id(p): new}))
        return update, new


def view(step: Step, label: Any, index: Mapping[int, int]) -> View:
    """Everything there is to see of a step, while the walk stands at it. label names a leaf; index gives the step of a
    node by its number."""
    again = Again(step)
    with np.errstate(all="ignore"):
        op, ys, forward = again.forward_listed()
        dxs, backward = again.backward_listed(op)
        report = explain.check(step)
        flowing = [on_host(dx) for dx in step.dxs if dx is not None]
        finite = all(map(is_finite, [*again.inputs, *ys, *again.dys, *flowing]))
        trouble = "" if finite else explain.bad_origin(step)
        held = _held(step, again, op, ys, dxs, backward) if not trouble and backward.lines else None
    inputs = []
    for i, (x, dx, earlier) in enumerate(zip(step.inputs, step.dxs, step.earlier)):
        source = index.get(x.node.seq) if isinstance(x, Tensor) and x.node is not None else None
        leaf = label(x) if isinstance(x, Tensor) and x.node is None and x.requires_grad else ""
        name = leaf or (f"{x.node.module or x.node.op_class.name} (step {source})" if source is not None else
                        "a constant")
        copy = lambda a: None if a is None else np.array(on_host(a))
        inputs.append(Input(again.names[i], name, np.shape(again.inputs[i]), again.inputs[i], source, leaf, copy(dx),
                            copy(earlier)))
    kernel = "" if type(step.ran) is step.op_class else type(step.ran).__module__ + "." + type(step.ran).__name__
    saved = {name: np.array(a) if isinstance(a, np.ndarray) else a for name, a in op.saved.items()
             if isinstance(a, (np.ndarray, int, float, np.generic))}
    difference = max((row.error for row in report.rows if row.check == explain.RAN), default=0.0)
    return View(step, step.index, step.op, step.name, step.created_at, parse(step.op_class), inputs,
                dict(zip(explain.output_names(step.op_class, len(ys)), ys)),
                dict(zip(again.gradient_names(), map(np.array, again.dys))), saved, forward, backward, report, held,
                kernel, difference, trouble)


def _held(step: Step, again: Again, op: Op, ys: list[Any], dxs: list[Any], backward: Listing) -> Held | None:
    """The invariant, on what ran if that was in float64, else on a run that is."""
    if again.dtype != np.float64:
        again = Again(step, np.float64)
        op, ys = again.forward()
        dxs, backward = again.backward_listed(op)
    return explain.invariant(again, op, ys, dxs, backward)


def record(loss: Tensor, *, names: Mapping[str, Tensor] | None = None, tokens: list[str] | None = None,
           title: str = "", notes: Iterable[str] = (), optimizer: Optimizer | None = None,
           max_norm: float | None = None) -> Record:
    """Walk the backward of a loss (one number) to its end, and write down every step.

    It leaves the `.grad` of all leaves as `loss.backward()` would.

    Args:
        names: what to call leaves that are no Parameters of a Module.
        tokens: a name for each position of the sequence; axes of that length are labelled with them.
        title, notes: what this is, and what was left out of it.
        optimizer: its next step becomes part of the record, with gradients clipped to a joint norm of max_norm.
    """
    return Record(loss, names or {}, tokens, title, list(notes), optimizer, max_norm)


@dataclasses.dataclass(frozen=True)
class ForwardStep:
    """One node's forward, run again."""
    index: int
    op: str
    name: str
    created_at: str
    inputs: dict[str, Any]          # name -> array or number
    outputs: dict[str, Any]
    listing: Listing


def forward_steps(fn: Any) -> Iterator[ForwardStep]:
    """The forward of y = fn(), one op at a time, oldest first: what each made, and how, line by line. Pausing the loop
    pauses the work. ValueError if nothing in it needs a gradient, as then nothing was recorded."""
    y = fn()
    if not isinstance(y, Tensor) or y.node is None:
        raise ValueError(f"fn gave {y!r:.80}: forward_steps needs a Tensor made from at least one that has "
                         "requires_grad=True, outside no_grad()")
    for index, node in enumerate(explain.nodes_of(y)):
        outs = len(node.outs or (None,))
        _, ys, listing = explain.forward_listed(node.op_class, node.op.needs, node.inputs, node.static, outs)
        names = input_names(node.op_class, len(node.inputs))
        yield ForwardStep(index, node.op_class.name, node.module or node.op_class.name, node.created_at,
                          dict(zip(names, map(on_host, node.inputs))),
                          dict(zip(explain.output_names(node.op_class, outs), ys)), listing)
