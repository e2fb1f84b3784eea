"""Names for the axes of a step's arrays: query, key, head, batch, token, feature, vocabulary.

An op's docstring gives letters to the axes of its inputs: `x (..., I), w (I, O)`. The op runs once on random arrays in
which each letter has another prime as its length, so the length of an axis of any array that this run computes tells
its letter. Ops without letters, as add, have `...`: axes that broadcast are aligned from the right.

The words for the letters are in the docstring too (`axes  V vocabulary, C feature`), and pass along the graph: one
letter in an op is one axis, and an output of one op is an input of another. An axis has no name, "", rather than a
wrong one.
"""
import math
import re
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np

from minigrad.step.formula import Formula
from minigrad.step.line_trace import trace_lines
from minigrad.step.rerun import Rerun, on_host, output_names, trace_forward
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.step.view import View

INNER = "query", "key"          # names of an axis inside one op: elsewhere it has the name that the graph gives it
Letters = tuple[str, ...]       # of the axes of an array; an axis may have a product, "nh hs", or none, ""


@dataclass
class CallAxes:
    """The letters of all axes of the arrays of one call of an op."""
    inputs: list[Letters]
    outputs: list[Letters]
    lengths: dict[str, int]                     # letter -> length in the call
    arrays: dict[tuple[str, int], Letters] = field(default_factory=dict)       # (name, number of axes) -> letters

    def add(self, name: str, letters: Letters) -> None:
        """Note the letters of an array; axes that have different ones in two arrays of that name have none."""
        key = name, len(letters)
        old = self.arrays.get(key, letters)
        self.arrays[key] = tuple(a if a == b else "" for a, b in zip(old, letters))


def call_axes(rerun: Rerun, ys: Sequence[Any], formula: Formula) -> CallAxes:
    """The letters of the axes of a call. ys: its outputs. Where the op cannot run with other lengths than those of the
    call, only the inputs have letters, and of an op that reshapes its input the output."""
    documented, of_outputs = shape_letters(formula.shapes)
    lettered = dict(zip(rerun.names, rerun.inputs))
    fixed: list[int] = []                       # numbers that the call was given: no letter's length may divide them
    try:
        for name, value in rerun.static.items():
            if isinstance(value, np.ndarray) and (name in documented or rerun.op_class.broadcasts):
                lettered[name] = value
            else:
                fixed += _integers(value)
        letters = {name: spelled(documented.get(name, ["..."]), np.ndim(x)) for name, x in lettered.items()}
        lengths = _lengths((letters[name], np.shape(x)) for name, x in lettered.items())
        return _prime_run(rerun, ys, lettered, letters, lengths, of_outputs, fixed)
    except Exception:                           # an op may refuse other lengths in any way
        return _unrun(rerun, ys)


def _prime_run(rerun: Rerun, ys: Sequence[Any], lettered: dict[str, Any], letters: dict[str, Letters],
               lengths: dict[str, int], of_outputs: list[list[str]], fixed: list[int]) -> CallAxes:
    outputs = [spelled(of_outputs[i], np.ndim(y)) if i < len(of_outputs) else ("",) * np.ndim(y)
               for i, y in enumerate(ys)]
    sizes: dict[str, int] = {}                  # letter -> prime
    primes = (n for n in count(2) if all(n % d for d in range(2, n)) and all(f % n for f in fixed if abs(f) > 1))
    for letter in " ".join(axis for ls in [*letters.values(), *outputs] for axis in ls).split():
        if letter not in sizes and not letter.isdigit():
            known = rerun.static.get(letter)
            sizes[letter] = known if isinstance(known, int) else next(primes)

    def size(axis: str) -> int:
        return math.prod(int(f) if f.isdigit() else sizes[f] for f in axis.split())

    rng = np.random.default_rng(0)

    def resized(name: str, x: Any) -> Any:
        if np.ndim(x) == 0:
            return x
        shape = [1 if n == 1 < lengths[axis] else size(axis) for axis, n in zip(letters[name], np.shape(x))]
        return rng.normal(size=shape) if x.dtype.kind == "f" else np.ones(shape, x.dtype)

    arrays = {name: resized(name, x) for name, x in lettered.items()}
    inputs = [arrays[name] for name, _ in zip(rerun.names, rerun.inputs)]
    static = {name: arrays.get(name, value) for name, value in rerun.static.items()}
    with np.errstate(all="ignore"):
        op, new_ys, forward = trace_forward(rerun.op_class, rerun.needs, inputs, static, len(ys))
        dys = [rng.normal(size=y.shape) for y in new_ys]
        _, backward = trace_lines(op.backward, [f"d{name}" for name in rerun.names], *dys, **op.saved)
    if any(np.ndim(y) != np.ndim(new) for y, new in zip(ys, new_ys)):
        raise ValueError("the number of axes of the output depends on the lengths")

    axes = {axis for ls in [*letters.values(), *outputs] for axis in ls if axis and size(axis) > 1}
    by_size = {size(axis): axis for axis in sorted(axes, key=len)}

    def read(a: Any) -> Letters:
        """The letters of an array of this run."""
        return tuple(by_size.get(n) or _product(n, sizes) for n in np.shape(a))

    documented = [known if all(a and size(a) == n for a, n in zip(known, np.shape(y))) else read(y)
                  for known, y in zip(outputs, new_ys)]
    found = _ends(rerun, [letters[name] for name, _ in zip(rerun.names, rerun.inputs)], documented, ys, lengths)
    for name, value in op.saved.items():
        if isinstance(value, np.ndarray):
            found.add(name, read(value))
    for listing in forward, backward:
        for line in listing.lines:
            for name, value in line.values.items():
                found.add(name, read(value))
    return found


def _ends(rerun: Rerun, inputs: list[Letters], outputs: list[Letters], ys: Sequence[Any], lengths: dict[str, int]
          ) -> CallAxes:
    """The letters of the arrays that the op was given and those that it returned. lengths: of the inputs' letters."""
    of_outputs = {letter: n for ls, y in zip(outputs, ys) for letter, n in zip(ls, np.shape(y))}
    found = CallAxes(inputs, outputs, of_outputs | lengths)
    for name, ls in zip(rerun.names, inputs):
        found.arrays[name, len(ls)] = found.arrays[f"d{name}", len(ls)] = ls
    for y, dy, ls in zip(output_names(rerun.op_class, len(outputs)), rerun.upstream_names(), outputs):
        found.arrays[y, len(ls)] = found.arrays[dy, len(ls)] = ls
    return found


def _unrun(rerun: Rerun, ys: Sequence[Any]) -> CallAxes:
    """The letters of a call that runs with its own lengths only: one for each axis of its inputs. If the output has all
    numbers of the only input in the same order, its axes are kept, merged or split axes of the input."""
    inputs = [tuple(f"{name}.{i}" for i in range(np.ndim(x))) for name, x in zip(rerun.names, rerun.inputs)]
    lengths = {letter: n for ls, x in zip(inputs, rerun.inputs) for letter, n in zip(ls, np.shape(x))}
    outputs: list[Letters] = [("",) * np.ndim(y) for y in ys]
    if len(inputs) == len(ys) == 1 and np.size(ys[0]) and np.array_equal(np.ravel(ys[0]), np.ravel(rerun.inputs[0])):
        outputs = [_reshaped(np.shape(rerun.inputs[0]), inputs[0], np.shape(ys[0]))]
    return _ends(rerun, inputs, outputs, ys, lengths)


def _reshaped(old: tuple[int, ...], letters: Letters, new: tuple[int, ...]) -> Letters:
    """The letters of the axes of a reshaped array, from those before: `T` for one that was kept, `B T` for merged ones,
    "" for those that an axis was split into."""
    found: list[str] = []
    i = 0
    while len(found) < len(new):
        j = len(found)
        if new[j] == 1 and (i == len(old) or old[i] > 1):
            found.append("")
        elif old[i] == 1 < new[j]:
            i += 1
        else:
            a, b = i + 1, j + 1                 # the shortest groups of axes of equal products
            while (n := math.prod(old[i:a])) != (m := math.prod(new[j:b])):
                a, b = (a + 1, b) if n < m else (a, b + 1)
            found += [" ".join(letters[i:a])] if b == j + 1 else [""] * (b - j)
            i = a
    return tuple(found)


def shape_letters(shapes: str) -> tuple[dict[str, list[str]], list[list[str]]]:
    """The letters in the first line of a docstring, `x (..., I), w (I, O)  ->  y (..., O)`: by the name of an input or
    a keyword argument, and for each output."""
    left, _, right = shapes.partition("->")
    given = [[(name, [a.strip() for a in letters.split(",") if a.strip()]) for name in names.split(", ")]
             for side in (left, right) for names, letters in re.findall(r"((?:\w+, )*\w+) \(([^()]*)\)", side + " ")]
    inputs = len(re.findall(r"\w \([^()]*\)", left))
    return dict(pair for group in given[:inputs] for pair in group), [ls for group in given[inputs:] for _, ls in group]


def spelled(letters: Sequence[str], ndim: int) -> Letters:
    """One letter for each of ndim axes: `...` becomes ...2, ...1, counted from the right; an array of fewer axes has
    the last letters."""
    fixed = [a for a in letters if a != "..."]
    rest = ndim - len(fixed)
    if rest <= 0 or "..." not in letters:
        return (*("",) * rest, *fixed[max(-rest, 0):])
    i = list(letters).index("...")
    return (*fixed[:i], *(f"...{k}" for k in range(rest, 0, -1)), *fixed[i:])


def _lengths(arrays: Iterator[tuple[Letters, tuple[int, ...]]]) -> dict[str, int]:
    """Each letter's length. ValueError if it has two, apart from axes of length 1, which broadcast."""
    lengths: dict[str, int] = {}
    for letters, shape in arrays:
        for letter, n in zip(letters, shape):
            if n != lengths.setdefault(letter, n) and n > 1 < lengths[letter]:
                raise ValueError(f"the axis {letter} has two lengths")
            lengths[letter] = max(n, lengths[letter])
    return lengths


def _integers(value: Any) -> list[int]:
    """All integers in a keyword argument, lengths of its arrays included. ValueError for a slice that reverses an axis,
    whose indices then are others."""
    if isinstance(value, np.ndarray):
        return list(value.shape)
    if isinstance(value, slice):
        if (value.step or 1) < 0:
            raise ValueError("a reversed axis")
        return _integers((value.start, value.stop, value.step))
    if isinstance(value, (tuple, list)):
        return [n for v in value for n in _integers(v)]
    return [int(value)] if isinstance(value, (int, np.integer)) else []


def _product(n: int, sizes: dict[str, int]) -> str:
    """The letters whose lengths have this product, `B T` for merged axes; "" if there are none."""
    factors = [letter for letter, size in sizes.items() if size > 1 and n % size == 0]
    return " ".join(factors) if n > 1 and math.prod(sizes[f] for f in factors) == n else ""


# ---- words ----------------------------------------------------------------------------------------------------------

def name_axes(views: Sequence["View"], vocabulary: Sequence[str] | None = None) -> None:
    """Set the `axis_name` of all views of a record, or of one. vocabulary: the token of each id."""
    parent: dict[Any, Any] = {}

    def root(axis: Any) -> Any:
        while axis in parent:
            axis = parent[axis]
        return axis

    def join(a: Any, b: Any) -> None:
        if root(a) != root(b):
            parent[root(a)] = root(b)

    for v in views:
        tensors = [(x.key, np.shape(x), ls) for x, ls in zip(v.step.inputs, v.letters.inputs) if isinstance(x, Tensor)]
        tensors += [((v.step.node.seq, out), np.shape(dy), ls)
                    for out, (dy, ls) in enumerate(zip(v.dys.values(), v.letters.outputs))]
        for key, shape, letters in tensors:
            for i, (letter, n) in enumerate(zip(letters, shape)):
                if letter and n == v.letters.lengths.get(letter):
                    join((v.index, letter), (key, i))
    meanings: dict[Any, set[str]] = {}
    for v in views:
        for letter, word in _words(v, vocabulary).items():
            if word not in INNER:
                meanings.setdefault(root((v.index, letter)), set()).add(word)

    def name(v: "View", letter: str) -> str:
        word = _words(v, vocabulary).get(letter, "")
        if word in INNER:
            return word
        found = meanings.get(root((v.index, letter)), set())
        found = found - {"feature"} or found    # any axis can be the feature axis of a linear layer
        if found or " " not in letter:
            return min(found) if len(found) == 1 else ""
        *others, last = [name(v, part) for part in letter.split()]
        return last if set(others) == {"batch"} else ""         # each token of each row of the batch

    for v in reversed(views):                   # in the order of the forward
        for letter in (letter for letters in v.letters.outputs for letter in letters if " " in letter):
            merged = name(v, letter)
            if merged:
                meanings.setdefault(root((v.index, letter)), {merged})
    for v in views:
        v.axis_name = partial(name, v)


def axes_of(v: "View") -> dict[str, tuple[str, ...]]:
    """The `axes` of a view, after name_axes."""
    found: dict[str, tuple[str, ...]] = {}
    for array, a in _arrays(v):
        if np.ndim(a) == 0:
            continue
        letters = v.letters.arrays.get((array, np.ndim(a)), ("",) * np.ndim(a))
        names = tuple(v.axis_name(letter) if n == _length(letter, v.letters.lengths) else ""
                      for letter, n in zip(letters, np.shape(a)))
        if len(found.setdefault(array, names)) != len(names):
            found[f"{array}:{len(names)}"] = names
    return found


def _length(axis: str, lengths: dict[str, int]) -> int:
    return lengths[axis] if axis in lengths else math.prod(lengths.get(letter, 0) for letter in axis.split())


def _words(v: "View", vocabulary: Sequence[str] | None) -> dict[str, str]:
    """The words for the letters of an op's docstring."""
    words = {(f"{letter}{k}" if letter == "..." else letter): word
             for letter, found in v.formula.axes.items() for k, word in enumerate(reversed(found), 1)}
    idx = np.asarray(on_host(v.step.static.get("idx", ())))
    if "V" in words and idx.ndim == 1 < idx.size and np.array_equal(idx, np.arange(len(idx)) + idx[0]):
        # Rows 0, 1, 2, ... are those of positions, unless the text happens to be of consecutive tokens.
        rows = len(v.inputs[0].value)
        words["V"] = "position" if vocabulary and rows != len(vocabulary) else ""
    return {letter: word for letter, word in words.items() if word}


def _arrays(v: "View") -> Iterator[tuple[str, Any]]:
    """The arrays of a step with their names, first those that its op was given and returned."""
    for x in v.inputs:
        yield x.name, x.value
        if x.gradient is not None:
            yield f"d{x.name}", x.gradient
    for arrays in (v.outputs, v.dys, v.saved, *(line.values for l in (v.forward, v.backward) for line in l.lines)):
        yield from arrays.items()
