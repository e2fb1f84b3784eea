"""One element of an array that a line computed: as a sum of products of elements of the operands (`terms`), and in
index notation (`equation`): the element [0,3] of dS @ k is the sum over j of dS[0,j] * k[j,3].
"""
import itertools
import math
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np

from minigrad.step.expression import Tree
from minigrad.words import index

Index = tuple[int, ...]
Symbols = tuple[Any, ...]                       # an index of numbers and letters
LETTERS = "jkmnuv"                              # of the axes that are summed over; then j2, j3, ...
PRECEDENCE = {"sum": 1, "mean": 1, "max": 1, "@": 1, "scatter": 1, "+": 2, "-": 2, "*": 3, "/": 3, "neg": 4, "**": 5}
MOVES = "view", "reshape", "index", "max", "join", "where"      # whose elements are elements of an operand
MOST_WRITTEN = 4                                # elements that an equation lists one by one
MOST_SUMMED = 10_000                            # elements of a sum that are each a term
LARGEST = 20                                    # of a larger sum: those that are each a term; the rest is one


class Part(NamedTuple):
    """One factor of a term: an element, a number, or a function of elements."""
    text: str                                   # "dS[0,2]", "1 / n", "exp(z[0,1] - m[0,0])"
    value: float
    elements: tuple[tuple[str, Index], ...]     # the name and index of each element in it


Term = tuple[Part, ...]
MINUS = Part("-1", -1.0, ())                    # the first factor of a term that is subtracted


def terms(tree: Tree, at: Index) -> Iterator[Term]:
    """One element of a tree as a sum of products: the factors of each term. Products with a sum are multiplied out, as
    long as only one factor is a sum. A sum over an axis that is itself a term, as in x - mean(x), stays one factor, and
    so do other operations."""
    match tree.op:
        case "+" | "-":
            a, b = tree.of
            yield from _parts(a, _own(a, at))
            yield from _parts(b, _own(b, at)) if tree.op == "+" else map(_negated, _parts(b, _own(b, at)))
        case "neg":
            yield from map(_negated, terms(tree.of[0], _own(tree.of[0], at)))
        case "*":
            yield from _products(*((x, _own(x, at)) for x in tree.of))
        case "/":
            a, b = tree.of
            divisor = _factor(b, _own(b, at))
            inverse = Part(f"1 / {_inside(b, _own(b, at), 4)}", _quotient(1.0, divisor.value), divisor.elements)
            if a.op == "number" and a.value == 1.0:
                yield (inverse,)
            else:
                yield from ((*factors, inverse) for factors in terms(a, _own(a, at)))
        case "@":
            for i, j in _pairs(tree, at):
                yield from _products((tree.of[0], i), (tree.of[1], j))
        case "sum" | "mean":
            x = tree.of[0]
            n = math.prod(x.shape[axis] for axis in tree.axes)
            share = (Part(f"1 / {n}", 1.0 / n, ()),) if tree.op == "mean" else ()
            of = (terms(x, inner) for inner in _summed(tree, at)) if n <= MOST_SUMMED else _largest(tree, at)
            yield from ((*factors, *share) for factors in itertools.chain.from_iterable(of))
        case op if op in MOVES:
            yield from terms(*_source(tree, at))
        case "scatter":
            target, added = tree.of
            places = _added(tree, at)
            if not (tree.replaces and places):
                yield from terms(target, at)
            for place in places[-1:] if tree.replaces else places:
                yield from terms(added, _own(added, place))
        case "number" if not np.any(_at(tree.value, at)):
            return
        case _:
            yield (_factor(tree, at),)


def equation(name: str, tree: Tree, at: Index) -> str:
    """One element of a tree in index notation: "dq[0,2] = sum over j of dS[0,j] * k[j,2]"."""
    return f"{name}{index(at)} = {_written(tree, at, _letters())}"


def leaves(tree: Tree, at: Index) -> Iterator[tuple[str, Index]]:
    """The name and index of every element of a variable that an element of the tree is computed from."""
    if tree.op == "array":
        yield tree.text, at
    elif tree.op == "@":
        for pair in _pairs(tree, at):
            for x, own in zip(tree.of, pair):
                yield from leaves(x, own)
    elif tree.op in ("sum", "mean"):
        for inner in _summed(tree, at):
            yield from leaves(tree.of[0], inner)
    elif tree.op in MOVES:
        yield from leaves(*_source(tree, at))
    elif tree.op == "scatter":
        yield from leaves(tree.of[0], at)
        for place in _added(tree, at):
            yield from leaves(tree.of[1], _own(tree.of[1], place))
    else:
        for x in tree.of:
            yield from leaves(x, _own(x, at))


def _at(value: Any, at: Index) -> Any:
    return value[at] if np.ndim(value) else value


def _own(x: Tree, at: Symbols) -> Symbols:
    """The index of x, an operand that is broadcast to the shape of a result, for an index of the result."""
    n = len(x.shape)
    return tuple(0 if size == 1 else i for size, i in zip(x.shape, at[len(at) - n:])) if n else ()


def _negated(factors: Term) -> Term:
    return _signed((MINUS, *factors))


def _parts(x: Tree, at: Index) -> Iterator[Term]:
    """The terms of an element that is added to others."""
    if x.op in ("+", "-", "neg") or not _sums(x):
        return terms(x, at)
    return iter([(_factor(x, at),)])


def _sums(x: Tree) -> bool:
    """Whether an element of x is computed by a sum over an axis."""
    return x.op in ("sum", "mean", "@") or any(map(_sums, x.of))


def _quotient(a: float, b: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def _factor(tree: Tree, at: Index) -> Part:
    """A whole element as one factor, with at most MOST_SUMMED of the elements in it."""
    elements = tuple(dict.fromkeys(itertools.islice(leaves(tree, at), MOST_SUMMED)))
    return Part(_inside(tree, at, 3), float(_at(tree.value, at)), elements)


def _products(*operands: tuple[Tree, Index]) -> Iterator[Term]:
    """The terms of a product of two elements. If both are sums, the shorter one stays one factor."""
    (a, i), (b, j) = operands
    left, right = list(terms(a, i)), list(terms(b, j))
    if len(left) > 1 and len(right) > 1:
        if len(left) >= len(right):
            right = [(_factor(b, j),)]
        else:
            left = [(_factor(a, i),)]
    yield from (_signed((*x, *y)) for x in left for y in right)


def _signed(factors: Term) -> Term:
    """The factors with at most one -1, in front."""
    others = tuple(f for f in factors if f != MINUS)
    return (MINUS, *others) if (len(factors) - len(others)) % 2 else others or factors[:1]


def _pairs(tree: Tree, at: Symbols, inner: Any = None) -> Iterator[tuple[Symbols, Symbols]]:
    """The indices of both operands in each term of a matrix product. inner: a letter for the axis that is summed over,
    instead of each number."""
    a, b = tree.of
    row = at[-1 - (len(b.shape) > 1)] if len(a.shape) > 1 else None
    column = at[-1] if len(b.shape) > 1 else None
    lead = at[:len(at) - (row is not None) - (column is not None)]
    for j in range(a.shape[-1]) if inner is None else (inner,):
        first, second = (j,) if row is None else (row, j), (j,) if column is None else (j, column)
        yield tuple(_lead(x, lead) + own for x, own in ((a, first), (b, second)))  # type: ignore[misc]


def _lead(x: Tree, lead: Symbols) -> Symbols:
    """The index of an operand of a product on the axes before its last two."""
    sizes = x.shape[:-2]
    return tuple(0 if size == 1 else i for size, i in zip(sizes, lead[len(lead) - len(sizes):]))


def _summed(tree: Tree, at: Symbols, inner: Sequence[Any] | None = None) -> Iterator[Symbols]:
    """The indices of the operand in each term of a sum or mean. inner: letters instead of each number."""
    x = tree.of[0]
    outer = [i for axis, i in enumerate(at) if axis not in tree.axes] if len(at) == len(x.shape) else list(at)
    every = itertools.product(*(range(x.shape[axis]) for axis in tree.axes)) if inner is None else [tuple(inner)]
    for numbers in every:
        own, summed = iter(outer), iter(numbers)
        yield tuple(next(summed) if axis in tree.axes else next(own) for axis in range(len(x.shape)))


def _largest(tree: Tree, at: Index) -> Iterator[Iterable[Term]]:
    """The terms of the largest elements of a long sum, then one of all others."""
    x = tree.of[0]
    own, = _summed(tree, at, [slice(None)] * len(tree.axes))
    summed = np.asarray(x.value[own], np.float64)
    largest = np.argpartition(-np.abs(summed), LARGEST, axis=None)[:LARGEST]
    for numbers in zip(*np.unravel_index(largest, summed.shape)):
        inner, = _summed(tree, at, [int(k) for k in numbers])
        yield terms(x, inner)
    rest = np.delete(summed.reshape(-1), largest)
    yield [(Part(f"the other {rest.size:,} elements", float(rest.sum()), ()),)]


def _source(tree: Tree, at: Index) -> tuple[Tree, Index]:
    """The element of an operand that an element of a view, reshape, index, max, join or where is."""
    if tree.op == "where":
        condition, a, b = tree.of
        chosen = a if _at(condition.value, _own(condition, at)) else b
        return chosen, _own(chosen, at)
    x = tree.of[0]
    if tree.op == "view":
        return x, tuple(start if axis is None else start + step * at[axis] for axis, start, step in tree.sources)
    flat = int(np.ravel_multi_index(at, tree.shape)) if at else 0
    flat = flat if tree.op == "reshape" else int(tree.positions.reshape(-1)[flat])
    for x in tree.of:
        if flat < x.value.size:
            break
        flat -= x.value.size
    return x, tuple(int(k) for k in np.unravel_index(flat, x.shape)) if x.shape else ()


def _added(tree: Tree, at: Index) -> list[Index]:
    """The indices at which `added`, broadcast to the positions, is added to this element."""
    flat = int(np.ravel_multi_index(at, tree.shape)) if at else 0
    return [tuple(int(k) for k in place) for place in np.argwhere(tree.positions == flat)]


# ---- in index notation ----------------------------------------------------------------------------------------------

def _letters() -> Iterator[str]:
    return itertools.chain(LETTERS, (f"j{n}" for n in itertools.count(2)))


def _inside(tree: Tree, at: Symbols, floor: int, letters: Iterator[str] | None = None) -> str:
    """A part of an expression, in brackets if it binds less tightly than `floor`."""
    text = _written(tree, at, letters or _letters())
    return f"({text})" if PRECEDENCE.get(_outermost(tree, at), 9) < floor else text


def _outermost(tree: Tree, at: Symbols) -> str:
    """The operation that is written outermost for an element."""
    while tree.op in MOVES and all(isinstance(i, int) for i in at):
        tree, at = _source(tree, at)
    return "" if tree.op == "number" and not any(sign in tree.text for sign in "+-*/ ") else {"number": "*"}.get(
        tree.op, tree.op)


def _written(tree: Tree, at: Symbols, letters: Iterator[str]) -> str:
    """An element of a tree in index notation; letters: for axes that are summed over."""
    write: Callable[[Tree, int], str] = lambda x, floor: _inside(x, _own(x, at), floor, letters)
    numbers = all(isinstance(i, int) for i in at)
    match tree.op:
        case "array":
            return tree.text + index(at)
        case "number":
            return tree.text
        case "+" | "-" | "*" | "/" | "**":
            a, b = tree.of
            p = PRECEDENCE[tree.op]
            return f"{write(a, p + (tree.op == '**'))} {tree.op} {write(b, p + (tree.op in '-/'))}"
        case "neg":
            return f"-{write(tree.of[0], 5)}"
        case "@":
            j = next(letters)
            (row, column), = _pairs(tree, at, j)
            return f"sum over {j} of {_inside(tree.of[0], row, 3, letters)} * {_inside(tree.of[1], column, 4, letters)}"
        case "sum" | "mean":
            inner = [next(letters) for _ in tree.axes]
            own, = _summed(tree, at, inner)
            body = _inside(tree.of[0], own, 3, letters)
            return f"{tree.op} over {','.join(inner)} of {body}" if inner else body
        case "view":
            sources = [start if axis is None else at[axis] if (start, step) == (0, 1) else
                       start + step * at[axis] if isinstance(at[axis], int) else
                       f"{f'{step} ' if step != 1 else ''}{at[axis]}{f' + {start}' if start else ''}"
                       for axis, start, step in tree.sources]
            return _written(tree.of[0], tuple(sources), letters)
        case op if op in MOVES and numbers:
            return _written(*_source(tree, at), letters)
        case "scatter" if numbers:
            places = _added(tree, at)
            added = [_written(tree.of[1], _own(tree.of[1], p), letters) for p in places[:MOST_WRITTEN]]
            more = [f"... ({len(places)} terms)"] if len(places) > MOST_WRITTEN else []
            empty = not _at(tree.of[0].value, at)
            start = ([] if places else ["0"]) if empty else [_written(tree.of[0], at, letters)]
            return " + ".join((added[-1:] if tree.replaces and places else start + added + more)).replace("+ -", "- ")
    if tree.of and tree.op not in (*MOVES, "scatter"):
        return f"{tree.op}({', '.join(write(x, 0) for x in tree.of)})"
    return f"({tree.text}){index(at)}"
