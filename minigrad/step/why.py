"""Why an element has the value that it has: the line that computed it, as a sum of products of other elements.

Each of these elements can be asked again, from line to line and from op to op: a gradient up to the loss, a value of
the forward down to the parameters.
"""
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np

from minigrad.gradcheck import EPS
from minigrad.step.elements import MINUS, Index, Part, equation, terms
from minigrad.step.explain import size_of
from minigrad.step.expression import Tree, unbroadcast
from minigrad.step.line_trace import Listing
from minigrad.step.view import View
from minigrad.words import index

MOST = 6                                        # terms of an answer, the largest ones
EARLIER, SUM = "earlier ", "sum "               # before the name of a gradient: the partial gradient before and after


class Cell(NamedTuple):
    """An element of an array of a step."""
    step: int
    forward: bool                               # an array of the forward, not of the backward
    line: int                                   # the line that computed it, from 1; 0: the op was given it
    name: str
    at: Index


class Factor(NamedTuple):
    """One factor of a term."""
    text: str                                   # "dS[0,2]", "1 / n", "exp(z[0,1] - m[0,0])"
    value: float
    cells: tuple[Cell, ...]                     # the elements that it is computed from


class Term(NamedTuple):
    """One term of the sum."""
    factors: tuple[Factor, ...]

    @property
    def product(self) -> float:
        return math.prod(factor.value for factor in self.factors)

    @property
    def negative(self) -> bool:
        """Whether the first factor is the -1 of a term that is subtracted."""
        return len(self.factors) > 1 and self.factors[0].text == MINUS.text


@dataclass(frozen=True)
class Why:
    """An element as a sum of terms, each a product of factors."""
    cell: Cell
    value: float                                # as recorded
    equation: str                               # "dq[0,2] = sum over j of dS[0,j] * k[j,2]"; without terms a sentence
    terms: list[Term]                           # the largest ones, largest first; those that are 0 if all are
    count: int                                  # how many terms are not 0
    total: float                                # sum of all terms
    magnitude: float                            # sum of |term| over all terms
    record: Any = field(default=None, repr=False, compare=False)    # the Record whose `follow` explains its cells

    @property
    def name(self) -> str:
        return self.cell.name + index(self.cell.at)

    def _repr_html_(self) -> str:
        from minigrad.html_tables import why_table
        return why_table(self)


Origin = tuple[str, list[tuple[Cell, float]]]   # of an element that an op was given: a phrase after its name, its terms


def unknown(view: View, cell: Cell) -> Origin:
    """The origin of what an op was given, where only its own step is known."""
    return "was given to this op", []


def cell_of(view: View, name: str, at: Any = None) -> Cell:
    """An element of the array of this name in the backward of a step, or else in its forward: of the newest one if
    several lines computed it. at: the index, of which negative numbers count from the end; None for the element of
    largest magnitude.

    ValueError if the step has no such array, IndexError for an index outside it.
    """
    for forward, line, found in _newest_first(view):
        if name in found:
            array = np.asarray(found[name])
            index = checked_index(name, array.shape, at) if at is not None else (
                largest_entries(array, 1) or [(0,) * array.ndim])[0]
            return Cell(view.index, forward, line, name, index)
    raise ValueError(f"step {view.index} ({view.op}) has no array {name!r}; it has {', '.join(array_names(view))}")


def array_names(view: View) -> list[str]:
    """The names of all arrays and numbers of a step."""
    return list(dict.fromkeys(name for _, _, found in _newest_first(view) for name in found))


def _newest_first(view: View) -> Iterator[tuple[bool, int, dict[str, Any]]]:
    """(forward, line, arrays) of every line: those of the backward from the last one, then those of the forward."""
    for forward in (False, True):
        for line in range(len(_listing(view, forward).lines), -1, -1):
            yield forward, line, arrays(view, forward, line)


def arrays(view: View, forward: bool, line: int) -> dict[str, Any]:
    """The arrays that a line computed, by name; those that the op was given for line 0, and with those of the last line
    its outputs, or the gradients of its inputs."""
    listing = _listing(view, forward)
    found: dict[str, Any] = {}
    if line:
        found |= listing.lines[line - 1].values
    else:
        found |= {x.name: x.value for x in view.inputs} if forward else view.dys | view.saved
    if line == len(listing.lines):
        if forward:
            found |= view.outputs
        for x in view.inputs if not forward else ():
            if x.gradient is not None:
                found[f"d{x.name}"] = x.gradient
                if x.earlier is not None:
                    found |= {f"{EARLIER}d{x.name}": x.earlier, f"{SUM}d{x.name}": x.earlier + x.gradient}
    return found


def explain(view: View, cell: Cell, origin: Callable[[View, Cell], Origin] = unknown, most: int = MOST) -> Why:
    """The answer for one element. ValueError if the step has no such array, IndexError for an index outside it."""
    computed = arrays(view, cell.forward, cell.line)
    if cell.name not in computed:
        raise ValueError(f"line {cell.line} of step {view.index} ({view.op}) has no array {cell.name!r}; it has "
                         f"{', '.join(computed)}")
    value = computed[cell.name]
    cell = cell._replace(at=checked_index(cell.name, np.shape(value), cell.at))
    number = float(np.asarray(value)[cell.at])
    name = cell.name + index(cell.at)
    tree, line = tree_of(view, cell.forward, cell.line, cell.name)
    if tree is not None and tree.op != "call":
        found = [Term(tuple(_placed(view, cell, line, part) for part in parts)) for parts in terms(tree, cell.at)]
        return _answer(cell, number, equation(cell.name, tree, cell.at), found, most)
    i = next((i for i, x in enumerate(view.inputs) if cell.name == f"d{x.name}" and x.gradient is not None), None)
    if i is not None and not cell.forward and cell.line == len(view.backward.lines):
        return _answer(cell, number, f"{name} = sum of local derivative * upstream gradient, by the chain rule",
                       _chain_rule(view, i, cell.at), most)
    if tree is not None:
        return _answer(cell, number, f"{name} is computed by {tree.text}, which is not split into terms", [], most)
    if cell.line and not cell.name.startswith((EARLIER, SUM)):
        return _answer(cell, number, f"{name} is not explained: its line cannot be read", [], most)
    phrase, given = _saved(view, cell) or origin(view, cell)
    found = [Term((Factor(f"{c.name}{index(c.at)}", x, (c,)),)) for c, x in given]
    return _answer(cell, number, f"{name} {phrase}", found, most)


def _placed(view: View, cell: Cell, line: int, part: Part) -> Factor:
    """A factor of a line, with the cells of its elements."""
    places = [(newest(view, cell.forward, line, name), name, at) for name, at in part.elements]
    return Factor(part.text, part.value,
                  tuple(Cell(cell.step, cell.forward, n, name, at) for n, name, at in places if n is not None))


def _answer(cell: Cell, value: float, words: str, every: list[Term], most: int) -> Why:
    """The answer with the largest terms of all; words: its equation."""
    products = np.array([term.product for term in every])
    magnitude = float(np.abs(products).sum())
    sizes = np.where(np.isnan(products), np.inf, np.abs(products))                  # what makes a sum NaN comes first
    count = int((sizes > 1e-9 * sizes.max(where=np.isfinite(sizes), initial=0.0)).sum())
    largest = [every[n] for n in np.argsort(-sizes, kind="stable") if sizes[n] or not sizes.any()][:most]
    return Why(cell, value, words, largest, count, float(products.sum()), magnitude)


def _saved(view: View, cell: Cell) -> Origin | None:
    """The origin of a value that the forward saved for the backward; None for other values."""
    if cell.forward or cell.line or cell.name in view.dys:
        return None
    place = saved_in(view, cell.name)
    element = float(np.asarray(view.saved[cell.name])[cell.at])
    return "was saved by the forward", [(Cell(cell.step, True, *place, cell.at), element)] if place else []


def saved_in(view: View, name: str) -> tuple[int, str] | None:
    """The line of the forward, and the name there, of a value that it saved under this name; None if it has no name."""
    saved = view.saved[name]
    computed = [(other != name, -line, other, value) for line in range(len(view.forward.lines) + 1)
                for other, value in arrays(view, True, line).items()]
    for _, line, other, value in sorted(computed, key=lambda item: item[:2]):       # the same name, the newest first
        if np.shape(value) == np.shape(saved) and np.array_equal(value, saved, equal_nan=True):
            return -line, other
    return None


def _chain_rule(view: View, i: int, at: Index) -> list[Term]:
    """An element of the gradient of input i as dL/dx = sum over j of dy_j/dx * dL/dy_j. That element of the input is
    moved up and down, in float64; the difference quotients are the local derivatives."""
    rerun = view.rerun(np.float64)
    x = rerun.inputs[i]
    delta = EPS * max(abs(float(x[at])), size_of(x))
    above, below = x.copy(), x.copy()
    above[at] += delta
    below[at] -= delta
    found = []
    for y, dy, high, low in zip(view.outputs, view.dys, rerun.outputs_with(i, above), rerun.outputs_with(i, below)):
        derivative = (high - low) / (above[at] - below[at])
        for j in np.argwhere(derivative):
            where = tuple(int(k) for k in j)
            local = Factor(f"∂{y}{index(where)}/∂{view.inputs[i].name}{index(at)}", float(derivative[where]), ())
            upstream = Factor(f"{dy}{index(where)}", float(view.dys[dy][where]),
                              (Cell(view.index, False, 0, dy, where),))
            found.append(Term((local, upstream)))
    return found


def tree_of(view: View, forward: bool, line: int, name: str) -> tuple[Tree | None, int]:
    """The expression that computed an array, and the number of its line; None, 0 for what the op was given. line: the
    array as it was after this line."""
    listing = _listing(view, forward)
    for n in range(line, 0, -1):
        tree = view.trees(forward, n).get(name)
        if tree is None and name in listing.lines[n - 1].values:       # computed by a line that cannot be read
            return None, 0
        if tree is not None and not (tree.op == "array" and tree.text == name):
            gradient = next((x.gradient for x in view.inputs if f"d{x.name}" == name and not forward), None)
            if (line == len(listing.lines) and gradient is not None and tree.shape != gradient.shape
                    and tree.op != "call"):
                tree = unbroadcast(tree, gradient.shape)
            return tree, n
    return None, 0


def newest(view: View, forward: bool, line: int, name: str) -> int | None:
    """The number of the last line before `line` that computed an array of this name; 0 if the op was given it."""
    for n in range(line - 1, 0, -1):
        if name in _listing(view, forward).lines[n - 1].values:
            return n
    return 0 if name in arrays(view, forward, 0) else None


def checked_index(name: str, shape: tuple[int, ...], at: Any) -> Index:
    """An index of one element, with negative numbers counted from the end. IndexError if an array of this shape has no
    such element."""
    at = at if isinstance(at, tuple) else (at,)
    if len(at) != len(shape) or any(not -n <= k < n for k, n in zip(at, shape)):
        raise IndexError(f"{name} has shape {shape}: {list(at)} is not in it")
    return tuple(int(k) % n for k, n in zip(at, shape))


def largest_entries(a: Any, n: int) -> list[Index]:
    """The indices of the n entries of largest magnitude, largest first, without those that are 0."""
    flat = -np.abs(a).reshape(-1)
    candidates = np.flatnonzero(flat)
    if len(candidates) > n:                     # sort only those that can be among the n; NaN is above all others
        bound = np.partition(flat[candidates], n)[n]
        candidates = candidates[~(flat[candidates] > bound)]
    largest = candidates[np.argsort(flat[candidates], kind="stable")][:n]
    return [tuple(int(k) for k in np.unravel_index(i, np.shape(a))) for i in largest]


def _listing(view: View, forward: bool) -> Listing:
    return view.forward if forward else view.backward
