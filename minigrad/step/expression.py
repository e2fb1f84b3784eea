"""The expression of a line: the array operations of a statement as trees, each with the values that it gave."""
import ast
import itertools
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from minigrad.ops import attention, sums
from minigrad.ops.shape import scatter

OPERATORS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.MatMult: "@"}
UFUNCS = {np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/", np.power: "**", np.matmul: "@",
          np.negative: "neg"}
FUNCTIONS = {op: function for function, op in UFUNCS.items()}
MOVES = "swapaxes", "transpose", "reshape", "ravel", "squeeze", "expand_dims", "broadcast_to", "moveaxis"
CASTS = "astype", "asarray", "copy"
CONSTANTS = np.zeros, np.zeros_like, np.ones


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


def trees(source: str, first: int, scope: Mapping[str, Any], before: Mapping[str, Any], results: Sequence[str]
          ) -> dict[str, Tree]:
    """The tree of each variable that a statement assigns; {} if the statement cannot be read.

    source: of the function; first: the statement's first line in it, from 0; scope: the function's globals; before: its
    local variables before the statement; results: names of the values that it returns.
    """
    try:
        return _assigned(_statement(source, first), _Reader(scope, before), results)
    except Exception:                           # the code of any op: what cannot be read has no tree
        return {}


def _assigned(statement: ast.stmt | None, read: "_Reader", results: Sequence[str]) -> "dict[str, Tree]":
    match statement:
        case ast.Assign(targets=[ast.Name(), *_] as targets, value=value) if all(
                isinstance(target, ast.Name) for target in targets):
            return dict.fromkeys(map(ast.unparse, targets), read(value))
        case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value):
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
        case ast.AugAssign(target=ast.Subscript(value=ast.Name(name) as target, slice=key) as part, op=op, value=value):
            old = ast.Subscript(part.value, part.slice, ast.Load())
            return {name: read.scattered(target, key, read(ast.BinOp(old, op, value)), replaces=True)}
        case ast.Expr(value=ast.Call(func=function, args=[ast.Name(name) as target, key, value])
                      ) if read.value(function) in (np.add.at, sums.add_at):
            return {name: read.scattered(target, key, read(value))}
        case ast.Return(value=ast.expr() as value):
            return dict(zip(results, read.several(value) if isinstance(read.value(value), tuple) else [read(value)]))
    return {}


def _statement(source: str, first: int) -> ast.stmt | None:
    """The statement that begins on a line: the innermost one, as `if x: y = z` has two."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and node.lineno == first + 1]
    return found[-1] if found else None


class _Reader:
    """Reads expressions as trees. To know shapes and conditions it evaluates each part of an expression, with the
    variables that the statement had before it ran."""

    def __init__(self, scope: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        self.names = {**scope, "index_": np.s_, **before}

    def value(self, node: ast.expr) -> Any:
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "line", "eval")
        with np.errstate(all="ignore"):
            return eval(code, self.names)

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
                return [_Reader(self.names, variables)(part) for variables in bound]
        return [Tree("call", value, ast.unparse(node)) for value in self.value(node)]

    def __call__(self, node: ast.expr) -> Tree:
        if isinstance(node, ast.IfExp):
            return self(node.body if self.value(node.test) else node.orelse)
        value, text = self.value(node), ast.unparse(node).replace("self.", "")
        if isinstance(node, ast.Name):
            return Tree("array", value, node.id)
        if not isinstance(value, (np.ndarray, np.generic)):
            return Tree("number", value, text)
        try:
            tree = self.operation(node, value, text)
        except Exception:                       # the code of any op: a part that cannot be read is not explained
            return Tree("call", value, text)
        return tree if close(tree.value, value) else Tree("call", value, text)

    def operation(self, node: ast.expr, value: Any, text: str) -> Tree:
        """The tree of an operation. value: what it gave; the tree has another value if it was not understood."""
        match node:
            case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
                return _elementwise(OPERATORS[type(op)], value, text, self(a), self(b))
            case ast.UnaryOp(op=ast.USub(), operand=a):
                return _elementwise("neg", value, text, self(a))
            case ast.Attribute(value=a, attr="T"):
                return _moved(self(a), text, lambda x: x.T)
            case ast.Subscript(value=a, slice=key) if isinstance(self.value(a), np.ndarray):
                at = self.key(key)
                return _moved(self(a), text, lambda x: x[at])
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

    def call(self, name: str, function: Any, arguments: list[ast.expr], keywords: list[ast.keyword], value: Any,
             text: str) -> Tree:
        """The tree of a call; function is None for a method, whose array is the first argument."""
        if isinstance(function, np.ufunc) and len(arguments) == function.nin and not keywords:
            return _elementwise(UFUNCS.get(function, name), value, text, *map(self, arguments))
        if function in (abs, np.clip) and not keywords:
            return Tree(name, value, text, tuple(map(self, arguments)))
        if function in (np.concatenate, np.stack):
            return self.joined(function, arguments, keywords, value, text)
        if function is np.where and not keywords:
            return Tree("where", value, text, tuple(map(self, arguments)))
        if function in CONSTANTS:
            return Tree("number", value, "1" if function is np.ones else "0")
        if function is scatter:
            _, added, index, _ = arguments
            return _scattered(Tree("number", np.zeros_like(value), "0"), self.value(index), self(added))
        if function in (sums.root_mean_square, attention.highest):
            arguments = arguments[1:]           # without xp
        x = self(arguments[0])
        if name == "dot" and function in (None, np.dot):
            y = self(arguments[1])
            return Tree("@" if {len(x.shape), len(y.shape)} <= {1, 2} else "call", value, text, (x, y))
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
        if name in CASTS and close(x.value, value):
            return replace(x, value=value)
        if name in MOVES:
            return _moved(x, text, lambda a: getattr(a, name)(*rest, **named) if function is None else
                          function(a, *rest, **named))
        return Tree("call", value, text)

    def joined(self, function: Any, arguments: list[ast.expr], keywords: list[ast.keyword], value: Any, text: str
               ) -> Tree:
        """The tree of np.concatenate or np.stack."""
        match arguments[0]:
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                arrays = [self(part) for part in parts]
            case ast.Name(name):
                arrays = [Tree("array", x, f"{name.rstrip('s')}{i}") for i, x in enumerate(self.names[name])]
        ends = itertools.accumulate((x.value.size for x in arrays), initial=0)
        numbered = [np.arange(x.value.size).reshape(x.shape) + start for x, start in zip(arrays, ends)]
        rest, named = map(self.value, arguments[1:]), {str(k.arg): self.value(k.value) for k in keywords}
        return Tree("join", value, text, tuple(arrays), positions=function(numbered, *rest, **named))

    def scattered(self, target: ast.Name, key: ast.expr, added: Tree, replaces: bool = False) -> Tree:
        return _scattered(self(ast.Name(target.id, ast.Load())), self.key(key), added, replaces)


def close(a: Any, b: Any) -> bool:
    """Whether two arrays or numbers have one shape and are equal up to rounding in the dtype of b."""
    if a is b:
        return True
    a, b = np.asarray(a), np.asarray(b)
    if b.dtype.kind != "f" or a.shape != b.shape:
        return np.array_equal(a, b)
    with np.errstate(all="ignore"):
        largest = np.abs(b, where=np.isfinite(b), out=np.zeros_like(b)).max(initial=0.0)
        return np.allclose(a, b, 0.0, 8.0 * float(np.finfo(b.dtype).eps * largest), equal_nan=True)


def _elementwise(op: str, value: Any, text: str, *of: Tree) -> Tree:
    """The tree of an operator or a ufunc; of a sum of truth values, or of integers that overflow, a "call"."""
    if value.dtype.kind != "f" and op in FUNCTIONS and not np.array_equal(
            FUNCTIONS[op](*(np.asarray(x.value, np.float64) for x in of)), value):
        return Tree("call", value, text)
    return Tree(op, value, text, of)


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
    positions = positions.reshape(np.shape(value))
    return Tree("max", x.value.reshape(-1)[positions], text, (x,), positions=positions)


def _moved(x: Tree, text: str, move: Callable[[Any], Any]) -> Tree:
    """The tree of a function that only moves elements, as a view if each index is a linear function of one index."""
    if not x.shape:
        return Tree("view", np.asarray(move(x.value)), text, (x,))
    positions = np.asarray(move(np.arange(x.value.size).reshape(x.shape)))
    value = x.value.reshape(-1)[positions]
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
    value = np.array(target.value)
    if replaces:
        value[index] = added.value
    else:
        np.add.at(value, index, added.value)
    return Tree("scatter", value, "", (target, added), positions=positions, replaces=replaces)


def unbroadcast(tree: Tree, shape: tuple[int, ...]) -> Tree:
    """The gradient of an input that was broadcast: the sum over its copies. shape: of the input."""
    total = _reduced("sum", tree, sums.copied_axes(tree.shape, shape), False)
    return Tree("reshape", total.value.reshape(shape), "", (total,))
