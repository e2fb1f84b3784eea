"""The terminal's answers about single numbers: show an array, why, nudge, check, optimizer."""
import math
import re
from functools import partial
from typing import Any, Iterable

import numpy as np

from minigrad.gradcheck import Row
from minigrad.step.breakpoints import nearest
from minigrad.step.heatmap import TALLEST, number, summary
from minigrad.step.terminal_layout import LOWEST, arranged
from minigrad.step.terminal_screen import BOLD, DIM, Screen, mark, shape, wanted
from minigrad.step.why import Cell, Factor, Why, array_names, arrays, cell_of, checked_index, largest_entries
from minigrad.words import index

FEW = 3                                         # elements of a factor that `why` numbers
FACTORS = (1000.0, 100.0, 10.0, 1.0, 0.1)       # of the default nudge: the ratio goes to 1 as the nudge shrinks


class Questions(Screen):
    """The commands that ask about numbers of the step on the screen."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.cells: list[Cell] = []             # elements in the last answer of `why`, numbered from 1 on the screen

    def do_show(self, text: str) -> None:
        """show P 0 2    an array of this step, here P[0, 2]; show: the names of all"""
        known = self.arrays()
        if not text:
            for name, (value, label) in known.items():
                what = f"{shape(value)}  {summary(value)}" if np.ndim(value) else f"= {number(value)}"
                self.say(f"  {name:12} {what:30} {label}", hang=15)
            return
        name, at, delta = target(text)
        if name not in known or delta is not None:
            raise ValueError(f"{text!r} is no array of this step{nearest(name, known)}")
        value, label = known[name]
        at = () if at is None else at
        if len(at) > np.ndim(value) or any(not -n <= k < n for k, n in zip(at, np.shape(value))):
            raise IndexError(f"{name} has shape {np.shape(value)}: {list(at)} is not in it")
        axes = self.axes(name, value)
        where = [f"{axis} {k}" for axis, k in zip(axes, at) if axis]
        height = self.room - 2 if self.redraws else max(self.room, TALLEST + 1)
        for line in self.block(name + index(at), np.asarray(value)[at], ", ".join([*where, label]), axes[len(at):],
                               self.width - 2, height, indices=True):
            self.put(f"  {line}".rstrip())

    def arrays(self) -> dict[str, tuple[Any, str]]:
        """The arrays and numbers of this step, as they are after the current line, and where each comes from."""
        v = self.view
        found = {name: (y, "output") for name, y in v.outputs.items()}
        found |= {x.name: (x.value, f"input, {x.label}") for x in v.inputs if x.value is not None}
        found |= {x.leaf: (x.value, f"input {x.name}") for x in v.inputs if x.leaf}
        last = len(self.listing.lines)
        found |= {name: (value, f"computed by line {line}" if line else "upstream gradient" if name in v.dys else
                         found[name][1] if self.forward else "saved by the forward")
                  for name, (value, line) in self.known(self.l + 1 if self.l >= 0 else last).items()}
        found |= {f"d{x.name}": (x.gradient, f"gradient of {x.label}") for x in wanted(v)
                  if self.has_gradients or f"d{x.name}" not in found}
        return found

    def do_why(self, text: str) -> None:
        """why dS 0 2    why an element has its value: by the line that computed it; why dS: its largest; then why 2"""
        if text.isdigit():
            if not 1 <= int(text) <= len(self.cells):
                known = f"they are 1 to {len(self.cells)}" if self.cells else "first name an array: why dx"
                raise ValueError(f"there is no element {text}: {known}")
            why = self.record.follow(self.cells[int(text) - 1])
        else:
            name, numbers = re.fullmatch(r"((?:earlier |sum )?[^\s\[]*)(.*)", text).groups()      # type: ignore[union-attr]
            name = {x.leaf: f"d{x.name}" for x in wanted(self.view) if x.leaf}.get(name, name)
            if name not in array_names(self.view):
                first, known = wanted(self.view)[0], nearest(name, array_names(self.view))
                raise ValueError(f"{name!r} is no array of this step{known}; for example, write why "
                                 f"d{first.name} {' '.join('0' * len(first.shape))}")
            if re.sub(r"[\s,\[\]]|-?\d+", "", numbers):
                raise ValueError(f"{numbers.strip()!r} is no index: write why {name} 0 2")
            at = tuple(map(int, re.findall(r"-?\d+", numbers)))
            why = self.record.follow(cell_of(self.view, name, at if numbers.strip() else None))
        self.cells = []
        self.say_why(why)

    def say_why(self, why: Why) -> None:
        """Print an answer, with a number for each element that can be asked next."""
        v = self.record.views[why.cell.step]
        place = f"step {v.index}, {v.op}{f' in {v.name}' if v.name != v.op else ''}"
        place += f", line {why.cell.line}" if why.cell.line else ""
        direction = "forward" if why.cell.forward else "backward"
        self.say(f"{why.name} = {why.value:.6g}  in the {direction} of {place}", BOLD)
        self.say(f"  {why.equation}", hang=6)
        for term in why.terms:
            factors = " × ".join(self.factor(factor) for factor in term.factors[term.negative:])
            share = (abs(term.product) / (why.magnitude or 1.0) if math.isfinite(why.magnitude) else
                     not math.isfinite(term.product))
            bar = "█" * round(10 * share)
            product = f"  = {term.product:.4g}" if len(term.factors) > 1 else ""
            self.say(f"  {'-' * term.negative}{factors}{product}  {bar}", hang=6)
        if why.count > len(why.terms):
            rest = why.total - sum(term.product for term in why.terms)
            self.say(f"  and {why.count - len(why.terms)} smaller terms: {rest:.4g}")
        if why.terms:
            dtype = np.asarray(arrays(v, why.cell.forward, why.cell.line)[why.cell.name]).dtype
            precision = max(1e-6, float(np.finfo(dtype).eps) ** 0.5) if dtype.kind == "f" else 1e-6
            sums = ("its one term is" if why.count == 1 else f"all {why.count} terms sum to" if why.count else
                    "all its terms are")
            equal = mark(abs(why.total - why.value) <= precision * why.magnitude or
                         np.array_equal(why.total, why.value, equal_nan=True))
            self.say(f"  {equal} {sums} {why.total:.6g}, recorded {why.value:.6g}")
        if self.cells:
            cell = self.cells[0]
            self.say(f"  why 1: where {cell.name}{index(cell.at)} comes from", DIM)

    def factor(self, factor: Factor) -> str:
        """A factor as text: each element in it, unless they are many, with the number by which `why` asks for it."""
        numbers = []
        for cell in factor.cells if len(factor.cells) <= FEW else ():
            if cell not in self.cells:
                self.cells.append(cell)
            numbers.append(str(self.cells.index(cell) + 1))
        return f"{f'({chr(44).join(numbers)}) ' if numbers else ''}{factor.text} {factor.value:.4g}"

    def do_nudge(self, text: str) -> None:
        """nudge w[1,2]  change one number of a leaf: predicted and actual loss, as a curve; by 0.1: nudge w[1,2] 0.1"""
        name, at, delta = target(text)
        leaf = self.leaf(name, self.record.gradients)
        at = largest(self.record.gradients[leaf]) if at is None else at
        deltas = [f * self.record.nudge(leaf, at).delta for f in FACTORS] if delta is None else [delta]
        nudges = [self.record.nudge(leaf, at, delta) for delta in deltas]
        self.say(f"{leaf}{index(at)}: gradient g = {nudges[0].gradient:.6g}", BOLD)
        self.say(f"  {'delta':>12} {'g · delta':>14} {'loss changes by':>16} {'ratio':>10}")
        for n in nudges:
            ratio = f"{n.actual / n.predicted:.6f}" if n.predicted else "-"
            self.say(f"  {n.delta:12.4g} {n.predicted:14.6g} {n.actual:16.6g} {ratio:>10}")
        if delta is None:
            self.put(str(self.record.nudge_curve(leaf, at)))

    def do_check(self, text: str) -> None:
        """check [full]  check this op's gradients along a direction; full: every element"""
        if text not in ("", "full"):
            raise ValueError(f"write check or check full, not {text!r}")
        for row in (self.view.step.check(full=True) if text else self.view.report).rows:
            self.say(f"{mark(row.ok)} {row.of:12} {row.check:20} {row.error:8.1e}  {row.detail}")
            if not row.ok and row.numeric is not None:
                self.put("\n".join(f"  {line}" for line in self.comparison(row)))

    def comparison(self, row: Row) -> list[str]:
        """A wrong gradient, what finite differences give, and the error, as heat maps side by side."""
        arrays = ((f"{row.of}, yours", row.analytic, ""), ("finite difference", row.numeric, ""),
                  (f"error, worst {index(row.worst or ())}", row.analytic - row.numeric, ""))
        blocks = [partial(self.block, *each, self.axes(row.of, row.analytic)) for each in arrays]
        return arranged(blocks, self.width - 2, max(self.room // 2, LOWEST) if self.redraws else 10 ** 6)[0]

    def do_optimizer(self, text: str) -> None:
        """o [w[1,2]]    the optimizer's step: the change of the loss by tensor; or of one weight, and 30 steps of it"""
        step = self.record.optimizer_step
        if step is None:
            raise ValueError("no optimizer was recorded: record(loss, optimizer=...)")
        if not text:
            if step.clip:
                self.say(step.clip)
            self.say(f"  {step.op:30} {'|update|':>10} {'predicted':>12} {'loss changes by':>16}", BOLD)
            for u in step.updates:
                self.say(f"  {u.leaf:30} {u.norm:10.3g} {u.predicted:12.4g} {known(u.actual)}")
            self.say(f"  {'all at once':41} {step.predicted:12.4g} {known(step.actual)}")
            return self.say(f"  {step.why_not_as_predicted or self.record.too_large}", hang=2)
        name, at, _ = target(text)
        updates = {u.leaf: u for u in step.updates}
        u = updates[self.leaf(name, updates)]
        shape = self.record.leaves[u.leaf].shape
        at = checked_index(u.leaf, shape, (u.picks or [(0,) * len(shape)])[0] if at is None else at)
        given, listing = u.lines([at])
        [over_time] = self.record.over_time({u.leaf: [at]})
        self.say(f"{u.leaf}{index(at)} moves by {element(u.change[at])}", BOLD)
        self.say("  " + "  ".join(f"{key} = {element(value)}" for key, value in given.items()), hang=2)
        source = listing.source.splitlines()
        for line in listing.lines:
            code = " ".join(part.strip() for part in source[line.first:line.last + 1])
            values = ", ".join(f"{key} = {element(value)}" for key, value in line.values.items())
            if values:
                self.say(f"  {code:58}  {values}")
        self.put(str(over_time))
        self.say(f"{over_time.about}.", hang=0)

    def leaf(self, name: str, leaves: Iterable[str]) -> str:
        """The leaf of this name, or the leaf that is this step's input of this name. ValueError, with the nearest
        names, if there is none."""
        own = {x.name: x.leaf for x in wanted(self.view) if x.leaf} | {label: label for label in leaves}
        if name not in own:
            raise ValueError(f"no parameter is called {name!r}{nearest(name, own)}")
        return own[name]


def target(text: str) -> tuple[str, tuple[int, ...] | None, float | None]:
    """"w[1, 2] 0.1" or "w 1 2 0.1"  ->  ("w", (1, 2), 0.1); None for a part that is missing."""
    found = re.fullmatch(r"((?:earlier |sum )?[^\s\[]*)\s*(?:\[([\d\s,-]*)\]|((?:-?\d+(?:[\s,]+|$))*))\s*(\S*)", text)
    try:
        if found is None:
            raise ValueError
        at = found[2] if found[2] is not None else found[3] or None
        return (found[1], None if at is None else tuple(map(int, at.replace(",", " ").split())),
                float(found[4]) if found[4] else None)
    except ValueError:
        raise ValueError(f"{text!r} cannot be read: write a name and an index, w[0,2] or w 0 2; nudge: also a number"
                         ) from None


def largest(array: Any) -> tuple[int, ...]:
    """The index of the entry of largest magnitude; of the first entry if all are 0."""
    return (largest_entries(array, 1) or [(0,) * array.ndim])[0]


def element(value: Any) -> str:
    """A number, or the only element of an array, as text."""
    return f"{np.asarray(value).item():.6g}"


def known(change: float | None) -> str:
    """The change of the loss in a column; "-" if it was not computed."""
    return f"{'-' if change is None else f'{change:.4g}':>16}"
