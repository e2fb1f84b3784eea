"""The elements of an array that a line computed, in index notation.

`trees` reads a statement as trees of array operations, each with the values that it gave. From a tree, `terms` writes
one element as a sum of products of elements of the operands, and `equation` writes it in index notation: the element
[0,3] of dS @ k is the sum over j of dS[0,j] * k[j,3].
"""
import ast
import itertools
import math
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from minigrad.ops import attention, sums
from minigrad.ops.shape import scatter

Index = tuple[int, ...]
Symbols = tuple[Any, ...]                       # an index of numbers and letters
LETTERS = "jkmnuv"                              # of the axes that are summed over
OPERATORS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.MatMult: "@"}
UFUNCS = {np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/", np.power: "**", np.matmul: "@",
          np.negative: "neg"}
MOVES = "swapaxes", "transpose", "reshape", "ravel", "squeeze", "expand_dims", "broadcast_to", "moveaxis"
CASTS = "astype", "asarray", "copy"
CONSTANTS = np.zeros, np.zeros_like, np.ones
PRECEDENCE = {"sum": 1, "mean": 1, "max": 1, "@": 1, "scatter": 1, "+": 2, "-": 2, "*": 3, "/": 3, "neg": 4, "**": 5}
MOST_WRITTEN = 4                                # elements that an equation lists one by one


@dataclass(frozen=True)
class Tree:
    """An array operation, the values that it gave, and its operands.

    op is "array" for a variable, "number" for a constant, "+", "-", "*", "/", "**", "neg", "@", the name of another
    elementwise function, or one of these:

    - "sum", "mean": over `axes` of the operand;
    - "view": its element [i0, i1, ...] is the operand's element whose index on each axis is start + step * i[axis], for
      (axis, start, step) in `sources`; axis None: start;
    - "reshape": the operand's elements in the same order;
    - "index", "max": the operand's elements at the flat `positions`;
    - "join": the elements of several operands, at flat `positions` in all of them one after the other;
    - "where": the elements of the second operand where the first one is true, else of the third;
    - "scatter": the first operand, with each element of the second one added at its flat position in `positions`, or
      if `replaces` in the place of the one that was there;
    - "call": another function, whose elements are not explained.
    """
    op: str
    value: Any
    text: str                                   # the name of a variable, else the code
    of: "tuple[Tree, ...]" = ()
    axes: tuple[int, ...] = ()
    sources: tuple[tuple[int | None, int, int], ...] = ()
    positions: Any = None
    replaces: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)


class Factor(NamedTuple):
    """One factor of a term: an element, a number, or a function of elements."""
    text: str                                   # "dS[0,2]", "1 / n", "exp(z[0,1] - m[0,0])"
    value: float
    elements: tuple[tuple[str, Index], ...]     # the name and index of each element in it


# ---- reading a statement --------------------------------------------------------------------------------------------

def trees(source: str, first: int, scope: Mapping[str, Any], before: Mapping[str, Any], results: Sequence[str]
          ) -> dict[str, Tree]:
    """The tree of each variable that a statement assigns; {} if the statement cannot be read.

    source: of the function; first: the statement's first line in it, from 0; scope: the function's globals; before: its
    local variables before the statement; results: names of the values that it returns.
    """
    read = _Reader(scope, before)
    try:
        match _statement(source, first):
            case ast.Assign(targets=[ast.Name(name)], value=value):
                return {name: read(value)}
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
                return {ast.unparse(t): tree for t, tree in zip(targets, read.several(value), strict=True)}
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(name) as target, slice=key)], value=value):
                return {name: read.scattered(target, key, read(value), replaces=True)}
            case ast.AugAssign(target=ast.Name(name) as target, op=op, value=value):
                return {name: read(ast.BinOp(ast.Name(name, ast.Load()), op, value))}
            case ast.AugAssign(target=ast.Subscript(value=ast.Name(name) as target, slice=key), op=ast.Add(), value=value):
                return {name: read.scattered(target, key, read(value))}
            case ast.AugAssign(target=ast.Subscript(value=ast.Name(name) as target, slice=key), op=ast.Sub(), value=value):
                return {name: read.scattered(target, key, read(ast.UnaryOp(ast.USub(), value)))}
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="at") as at, args=[ast.Name(name) as target, key, value])
                          ) if read.value(at.value) is np.add:
                return {name: read.scattered(target, key, read(value))}
            case ast.Return(value=ast.expr() as value):
                return dict(zip(results, read.several(value) if isinstance(read.value(value), tuple) else [read(value)]))
    except Exception:                           # the code of any op: what cannot be read has no tree
        return {}
    return {}


def _statement(source: str, first: int) -> ast.stmt | None:
    """The statement that begins on a line: the innermost one, as `if x: y = z` has two."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and node.lineno == first + 1]
    return found[-1] if found else None


class _Reader:
    """Reads expressions as trees. To know shapes and conditions it evaluates each part of an expression, with the
    variables that the statement had before it ran."""

    def __init__(self, scope: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        self.scope, self.before = {**scope, "index_": np.s_}, dict(before)

    def value(self, node: ast.expr) -> Any:
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "line", "eval")
        with np.errstate(all="ignore"):
            return eval(code, self.scope, self.before)

    def several(self, node: ast.expr) -> list[Tree]:
        """The trees of the parts of a tuple."""
        match node:
            case ast.Tuple(elts=parts):
                return [self(part) for part in parts]
            case ast.Subscript(value=ast.Tuple(elts=parts), slice=key):
                return [self(parts[i]) for i in range(len(parts))[self.key(key)]]
            case ast.Call(func=ast.Name("tuple"), args=[ast.GeneratorExp(elt=part, generators=[loop])]):
                names = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
                items = [item if len(names) > 1 else (item,) for item in self.value(loop.iter)]
                bound = [dict(zip(map(ast.unparse, names), item)) for item in items]
                return [_Reader(self.scope, self.before | variables)(part) for variables in bound]
        return [Tree("call", value, ast.unparse(node)) for value in self.value(node)]

    def __call__(self, node: ast.expr) -> Tree:
        if isinstance(node, ast.IfExp):
            return self(node.body if self.value(node.test) else node.orelse)
        value, text = self.value(node), ast.unparse(node).replace("self.", "")
        if isinstance(node, ast.Name):
            return Tree("array", value, node.id)
        if not isinstance(value, (np.ndarray, np.generic)):
            return Tree("number", value, text)
        match node:
            case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
                return Tree(OPERATORS[type(op)], value, text, (self(a), self(b)))
            case ast.UnaryOp(op=ast.USub(), operand=a):
                return Tree("neg", value, text, (self(a),))
            case ast.Attribute(value=a, attr="T"):
                return _moved(self(a), value, text, lambda x: x.T)
            case ast.Subscript(value=a, slice=key) if isinstance(self.value(a), np.ndarray):
                at = self.key(key)
                return _moved(self(a), value, text, lambda x: x[at])
            case ast.Call(func=ast.Attribute(value=x, attr=name), args=arguments, keywords=keywords) if isinstance(
                    self.value(x), (np.ndarray, np.generic)):
                return self.call(name, None, [x, *arguments], keywords, value, text)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                f = self.value(function)
                return self.call(getattr(f, "__name__", ""), f, arguments, keywords, value, text)
        return Tree("call", value, text)

    def key(self, node: ast.expr) -> Any:
        """The value of an index between square brackets, which may contain slices."""
        return self.value(ast.Subscript(ast.Name("index_", ast.Load()), node, ast.Load()))

    def call(self, name: str, function: Any, arguments: list[ast.expr], keywords: list[ast.keyword], value: Any, text: str
             ) -> Tree:
        """The tree of a call; function is None for a method, whose array is the first argument."""
        if isinstance(function, np.ufunc):
            return Tree(UFUNCS.get(function, name), value, text, tuple(map(self, arguments)))
        if function in (abs, np.clip):
            return Tree(name, value, text, tuple(map(self, arguments)))
        if function in (np.concatenate, np.stack):
            return self.joined(function, arguments, keywords, value, text)
        if function is np.where:
            return Tree("where", value, text, tuple(map(self, arguments)))
        if function in CONSTANTS:
            return Tree("number", value, "1" if function is np.ones else "0")
        if function is scatter:
            _, x, index, _ = arguments
            return _scattered(Tree("number", np.zeros_like(value), "0"), self.value(index), self(x))
        if function in (sums.root_mean_square, attention.highest):
            arguments = arguments[1:]           # without xp
        x = self(arguments[0])
        rest = [self.value(a) for a in arguments[1:]]
        named = {str(k.arg): self.value(k.value) for k in keywords}
        axis = named.get("axis", rest[0] if rest else None)
        if function is attention.highest:
            return _largest(x, value, text, x.value if axis is None else np.where(axis, x.value, -np.inf), -1)
        if function is sums.centered:
            return Tree("-", value, text, (x, _reduced("mean", x, axis, True)))
        if function is sums.root_mean_square:
            return Tree("sqrt", value, text, (_reduced("mean", Tree("*", x.value * x.value, "", (x, x)), axis, True),))
        if name in ("total", "sum", "mean"):
            op = "mean" if name == "mean" else "sum"
            return _reduced(op, x, axis, np.ndim(value) == x.value.ndim, text)
        if name in ("largest", "max"):
            return _largest(x, value, text, x.value, axis)
        if name in CASTS:
            return x
        if name in MOVES:
            return _moved(x, value, text, lambda a: getattr(a, name)(*rest, **named) if function is None else
                          function(a, *rest, **named))
        return Tree("call", value, text)

    def joined(self, function: Any, arguments: list[ast.expr], keywords: list[ast.keyword], value: Any, text: str) -> Tree:
        """The tree of np.concatenate or np.stack."""
        match arguments[0]:
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                arrays = [self(part) for part in parts]
            case ast.Name(name):
                arrays = [Tree("array", x, f"{name.rstrip('s')}{i}") for i, x in enumerate(self.before[name])]
        ends = itertools.accumulate((x.value.size for x in arrays), initial=0)
        numbered = [np.arange(x.value.size).reshape(x.shape) + start for x, start in zip(arrays, ends)]
        positions = function(numbered, **{str(k.arg): self.value(k.value) for k in keywords})
        return Tree("join", value, text, tuple(arrays), positions=positions)

    def scattered(self, target: ast.expr, key: ast.expr, added: Tree, replaces: bool = False) -> Tree:
        return _scattered(self(ast.parse(ast.unparse(target), mode="eval").body), self.key(key), added, replaces)


def _reduced(op: str, x: Tree, axis: Any, keepdims: bool, text: str = "") -> Tree:
    """The sum or mean of x over an axis, several, or all if None."""
    axes = range(x.value.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    reduced = tuple(sorted(int(a) % max(x.value.ndim, 1) for a in axes))
    value = (sums.mean if op == "mean" else sums.total)(x.value, reduced, keepdims)
    return Tree(op, value, text or f"{op}({x.text})", (x,), reduced)


def _largest(x: Tree, value: Any, text: str, scores: Any, axis: Any) -> Tree:
    """The maximum of x along one axis, or the whole x if None; scores: those of x among which it is taken."""
    flat = np.arange(scores.size).reshape(scores.shape)
    best = scores.argmax(axis, keepdims=True)
    positions = flat.reshape(-1)[best] if axis is None else np.take_along_axis(flat, best, axis)
    return Tree("max", value, text, (x,), positions=positions.reshape(np.shape(value)))


def _moved(x: Tree, value: Any, text: str, move: Callable[[Any], Any]) -> Tree:
    """The tree of a function that only moves elements, as a view if each index is a linear function of one index."""
    positions = np.asarray(move(np.arange(x.value.size).reshape(x.shape)))
    if not x.shape:
        return Tree("view", value, text, (x,))
    sources: list[tuple[int | None, int, int]] = []
    for where, n in zip(np.unravel_index(positions, x.shape) if positions.size else (), x.shape):
        moving = [axis for axis in range(where.ndim) if (np.diff(where, axis=axis) != 0).any()]
        if not moving:
            sources.append((None, int(where.flat[0]), 0))
            continue
        line = where[tuple(slice(None) if axis == moving[0] else 0 for axis in range(where.ndim))]
        if len(moving) > 1 or (np.diff(line, 2) != 0).any():
            break
        sources.append((moving[0], int(line[0]), int(line[1] - line[0])))
    if len(sources) == len(x.shape) and positions.size:
        return Tree("view", value, text, (x,), sources=tuple(sources))
    if np.array_equal(positions.reshape(-1), np.arange(x.value.size)):
        return Tree("reshape", value, text, (x,))
    return Tree("index", value, text, (x,), positions=positions)


def _scattered(target: Tree, index: Any, added: Tree, replaces: bool = False) -> Tree:
    """target with the elements of `added` added at an index, or put there."""
    positions = np.arange(target.value.size).reshape(target.shape)[index]
    value = np.array(target.value, np.float64)
    if replaces:
        value[index] = added.value
    else:
        np.add.at(value, index, added.value)
    return Tree("scatter", value, "", (target, added), positions=positions, replaces=replaces)


# ---- one element ----------------------------------------------------------------------------------------------------

def terms(tree: Tree, at: Index) -> Iterator[tuple[Factor, ...]]:
    """One element of a tree as a sum of products: the factors of each term. Sums, differences and products are
    multiplied out, as long as only one factor of a product is a sum; other operations are one factor."""
    match tree.op:
        case "+" | "-":
            a, b = (list(terms(x, _own(x, at))) for x in tree.of)
            yield from a
            yield from b if tree.op == "+" else map(_negated, b)
        case "neg":
            yield from map(_negated, terms(tree.of[0], _own(tree.of[0], at)))
        case "*":
            yield from _products(*((x, _own(x, at)) for x in tree.of))
        case "/":
            a, b = tree.of
            divisor = _factor(b, _own(b, at))
            inverse = Factor(f"1 / {_inside(b, _own(b, at), 4)}", _quotient(1.0, divisor.value), divisor.elements)
            yield from ((*factors, inverse) for factors in terms(a, _own(a, at)))
        case "@":
            for x, y in _pairs(tree, at):
                yield from _products((tree.of[0], x), (tree.of[1], y))
        case "sum" | "mean":
            x = tree.of[0]
            n = math.prod(x.shape[axis] for axis in tree.axes)
            share = (Factor(f"1 / {n}", 1.0 / n, ()),) if tree.op == "mean" else ()
            for inner in _summed(tree, at):
                yield from ((*factors, *share) for factors in terms(x, inner))
        case "view" | "reshape" | "index" | "max" | "join" | "where":
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
    return f"{name}{index(at)} = {_written(tree, at, iter(LETTERS))}"


def index(at: Symbols) -> str:
    """An index as it is written, [0,2]; "" for that of a scalar."""
    return f"[{','.join(map(str, at))}]" if at else ""


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
    elif tree.op in ("view", "reshape", "index", "max", "join", "where"):
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


def _negated(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    return (Factor("-1", -1.0, ()), *factors)


def _quotient(a: float, b: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def _factor(tree: Tree, at: Index) -> Factor:
    """A whole element as one factor."""
    elements = tuple(dict.fromkeys(leaves(tree, at)))
    return Factor(_inside(tree, at, 3), float(_at(tree.value, at)), elements)


def _products(*operands: tuple[Tree, Index]) -> Iterator[tuple[Factor, ...]]:
    """The terms of a product of two elements. If both are sums, the shorter one stays one factor."""
    (a, i), (b, j) = operands
    left, right = list(terms(a, i)), list(terms(b, j))
    if len(left) > 1 and len(right) > 1:
        left, right = (left, [(_factor(b, j),)]) if len(left) >= len(right) else ([(_factor(a, i),)], right)
    yield from ((*x, *y) for x in left for y in right)


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

def _inside(tree: Tree, at: Symbols, floor: int, letters: Iterator[str] | None = None) -> str:
    """A part of an expression, in brackets if it binds less tightly than `floor`."""
    text = _written(tree, at, letters or iter(LETTERS))
    return f"({text})" if PRECEDENCE.get(_outermost(tree, at), 9) < floor else text


def _outermost(tree: Tree, at: Symbols) -> str:
    """The operation that is written outermost for an element."""
    while tree.op in ("view", "reshape", "index", "max", "join", "where") and all(isinstance(i, int) for i in at):
        tree, at = _source(tree, at)
    return "" if tree.op == "number" and not any(sign in tree.text for sign in "+-*/ ") else {"number": "*"}.get(
        tree.op, tree.op)


def _written(tree: Tree, at: Symbols, letters: Iterator[str]) -> str:
    """An element of a tree in index notation; letters: for axes that are summed over."""
    write = lambda x, floor=0: _inside(x, _own(x, at), floor, letters)
    numbers = all(isinstance(i, int) for i in at)
    match tree.op:
        case "array":
            return tree.text + index(at)
        case "number":
            return tree.text
        case "+" | "-" | "*" | "/" | "**":
            a, b = tree.of
            p = PRECEDENCE[tree.op]
            return f"{write(a, p)} {tree.op} {write(b, p + (tree.op in '-/'))}"
        case "neg":
            return f"-{write(tree.of[0], 4)}"
        case "@":
            j = next(letters)
            (a, b), = _pairs(tree, at, j)
            return f"sum over {j} of {_inside(tree.of[0], a, 3, letters)} * {_inside(tree.of[1], b, 4, letters)}"
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
        case "reshape" | "index" | "max" | "join" | "where" if numbers:
            return _written(*_source(tree, at), letters)
        case "scatter" if numbers:
            places = _added(tree, at)
            added = [_written(tree.of[1], _own(tree.of[1], p), letters) for p in places[:MOST_WRITTEN]]
            more = [f"... ({len(places)} terms)"] if len(places) > MOST_WRITTEN else []
            start = [] if tree.of[0].op == "number" and places else [_written(tree.of[0], at, letters)]
            return " + ".join((added[-1:] if tree.replaces and places else start + added + more)).replace("+ -", "- ")
    if tree.of and tree.op not in ("reshape", "index", "max", "join", "where", "scatter"):
        return f"{tree.op}({', '.join(write(x) for x in tree.of)})"
    return f"({tree.text}){index(at)}"
