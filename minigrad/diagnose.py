"""Says what is likely wrong with a wrong gradient: "the sign is flipped", "missing factor w".

A hypothesis is a function of a Difference (the wrong gradient, the right one, and arrays that may explain it). It
returns a sentence if it explains the whole difference up to rounding, else "". HYPOTHESES are tried in order, the most
specific first; the first sentence is the diagnosis.
"""
import functools
import itertools
import math
from typing import Any, Callable, Mapping, NamedTuple

import numpy as np

NO_RULE = "the difference follows no simple rule"


class Block(NamedTuple):
    """A part of an array: its elements at some indices along each axis."""
    shape: tuple[int, ...]                          # of the whole array
    axes: list[list[int]]                           # the indices along each axis

    @property
    def whole(self) -> bool:
        return tuple(map(len, self.axes)) == self.shape

    def of(self, x: np.ndarray) -> np.ndarray:
        """These elements of an array of that shape."""
        return x[np.ix_(*self.axes)] if x.ndim else x


def diagnose(got: Any, want: Any, known: Mapping[str, Any] = {}, block: Block | None = None) -> str:
    """One sentence on how the gradient `got` differs from the right one, `want`; NO_RULE if no hypothesis explains it.

    got, want: arrays of any shapes, compared in float64; want may come from central differences. known: arrays and
    numbers by name, whose values and sizes may explain the difference: the op's inputs, what it saved, the gradient of
    its output as "dy". block: where got and want are only a block of the gradient, that block.
    """
    with np.errstate(all="ignore"):
        d = Difference(got, want, known, block)
        return next((words for hypothesis in HYPOTHESES if (words := hypothesis(d))), NO_RULE)


class Difference:
    """A wrong gradient, the right one, and known arrays and numbers that may explain the difference. block: the block
    of the gradients that got and want are; None if they are whole."""

    def __init__(self, got: Any, want: Any, known: Mapping[str, Any], block: Block | None = None) -> None:
        self.block = None if block is None or block.whole else block
        self.got, self.want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        self.shape, self.axes = self.want.shape, range(self.want.ndim)
        arrays = {name: x for name, x in known.items() if isinstance(x, np.ndarray) and x.size > 0}
        self.indices = {name: x for name, x in arrays.items() if x.dtype.kind in "iu"}
        self.arrays = {name: x for name, x in arrays.items()
                       if x.size > 1 and x.dtype.kind in "fb" and np.abs(x).max() < 1e100}
        scalar = (int, float, np.integer, np.floating)
        self.numbers = {name: float(x) for name, x in known.items() if isinstance(x, scalar)}
        self.numbers |= {name: x.item() for name, x in arrays.items() if x.size == 1 and x.dtype.kind == "f"}
        self.off = self.got - self.want if self.got.shape == self.shape else self.got
        self.noise = 1e-8 * largest(self.want, 0.1)             # above the error of central differences
        self.wrong = np.abs(self.off) > max(self.noise, 1e-5 * largest(self.off))

    def same(self, a: Any, b: Any, scale: float = 1.0) -> bool:
        """Whether two arrays have one shape and differ by at most 1e-5 of the smallest of a, b and the difference to be
        explained, or by the noise. scale: what the gradients in a and b were multiplied by."""
        tolerance = 1e-5 * min(largest(a), largest(b), largest(self.off))
        return np.shape(a) == np.shape(b) and largest(a - b) <= max(tolerance, self.noise * scale)

    def vanishes(self, a: Any, scale: float = 1.0) -> bool:
        """Whether a is 0 up to the noise times scale."""
        return largest(a) <= self.noise * scale

    def spanned(self, target: np.ndarray, axis: int, *basis: np.ndarray) -> bool:
        """Whether each line of target along an axis is a linear combination of the lines of basis at the same place.
        Only True where the lines are long enough for that not to be a coincidence."""
        lines = np.moveaxis(target, axis, -1)[..., None]                            # (..., n, 1)
        columns = np.stack([np.moveaxis(b, axis, -1) for b in basis], axis=-1)      # (..., n, k)
        n, k = columns.shape[-2:]
        conclusive = n > k and lines.size // n * (n - k) > 1
        return conclusive and self.same(columns @ (np.linalg.pinv(columns) @ lines), lines)

    @functools.cached_property
    def factors(self) -> dict[str, np.ndarray]:
        """The known arrays broadcast to the shape of the gradient: of that shape, one number per row or per column."""
        fitting, shape = {}, self.block.shape if self.block else self.shape
        for name, x in self.arrays.items():
            x = x.reshape(x.shape + (1,) * (len(shape) - x.ndim)) if x.shape == shape[:x.ndim] else x
            if x.ndim <= len(shape) and all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1])):
                whole = np.broadcast_to(x, shape)
                fitting[name] = (self.block.of(whole) if self.block else whole).astype(np.float64)
        return fitting

    @functools.cached_property
    def products(self) -> dict[str, np.ndarray]:
        """The products of two known matrices (also transposed or reshaped) that have the shape of the gradient."""
        if self.block:                              # large arrays
            return {}
        forms = {name: x.astype(np.float64) for name, x in self.arrays.items() if x.ndim > 1}
        for name, x in list(forms.items()):
            turned = x.swapaxes(-1, -2)
            forms |= {f"{name}^T": turned, f"{name}.reshape{turned.shape}": x.reshape(turned.shape)}
        return {f"{m} @ {n}": a @ b for (m, a), (n, b) in itertools.product(forms.items(), repeat=2)
                if a.shape[-1] == b.shape[-2] and a.shape[:-1] == self.shape[:-1]
                and b.shape[:-2] + b.shape[-1:] == self.shape[:-2] + self.shape[-1:]}

    @functools.cached_property
    def divisors(self) -> dict[int, str]:
        """Integers by which a gradient may have to be divided, each with its meaning: saved numbers, the number of True
        in masks, lengths of axes and their products."""
        found = [(int(x), name) for name, x in self.numbers.items() if x.is_integer()]
        found += [(int(x.sum()), f"the number of True in {name}") for name, x in self.arrays.items() if x.dtype == bool]
        shapes = {name: x.shape for name, x in (self.arrays | self.indices).items()}
        for r in range(1, 5):
            for name, shape in shapes.items():
                for axes in itertools.combinations(range(len(shape)), r):
                    where = f"axis {axes[0]}" if r == 1 else f"axes {' and '.join(map(str, axes))} together"
                    found.append((math.prod(shape[i] for i in axes), f"the length of {where} of {name}"))
        return {n: " or ".join([where for m, where in found if m == n][:2]) for n, _ in found if n > 1}

    def each(self, axis: int) -> str:
        """In words: one number for each line along an axis."""
        if self.want.ndim < 2:
            return "one number"
        return "one number per row" if axis == self.want.ndim - 1 else f"one number for each line along axis {axis}"


def largest(x: Any, least: float = 0.0) -> float:
    """max|x|, but at least `least`."""
    return float(np.abs(x).max(initial=least))


# ---- hypotheses -----------------------------------------------------------------------------------------------------

def not_finite(d: Difference) -> str:
    """A division by 0, an overflow, or a point without a derivative."""
    if not np.isfinite(d.want).all():
        return "there is no finite derivative to compare with here"
    bad = int((~np.isfinite(d.got)).sum())
    return f"{bad} of {d.got.size} entries are NaN or infinite" if bad else ""


def misplaced(d: Difference) -> str:
    """The right numbers in another order: transposed, or reshaped where a transpose is needed."""
    if not d.same(np.sort(d.got, axis=None), np.sort(d.want, axis=None)) or d.want.size < 2:
        return ""
    orders = [(order, d.want.transpose(order)) for order in itertools.permutations(d.axes)]
    for order, turned in orders:
        if d.same(d.got, turned):
            return f"transposed: this is the right gradient with its axes in the order {order}"
    if d.same(d.got.ravel(), d.want.ravel()):
        return "the right numbers in the wrong shape"
    if any(d.same(d.got.ravel(), turned.ravel()) for _, turned in orders):
        return "the right numbers in the wrong places: reshaped where the axes must be transposed"
    return "the right numbers in the wrong places"


def wrong_shape(d: Difference) -> str:
    """Not summed over the axes along which the input was broadcast, or summed over others."""
    if d.got.shape == d.shape:
        return ""
    for axes in (a for r in range(1, d.got.ndim + 1) for a in itertools.combinations(range(d.got.ndim), r)):
        total = d.got.sum(axis=axes)
        if total.size == d.want.size and d.same(total.reshape(d.shape), d.want):
            return f"not summed over axis {' and '.join(map(str, axes))}, along which the input was broadcast"
    if d.same(d.got.sum(), d.want.sum(), d.got.size) and not d.vanishes(d.want.sum(), d.got.size):
        return "its total is right: summed over other axes than those along which the input was broadcast"
    return NO_RULE


def zero(d: Difference) -> str:
    """One of the two gradients is 0 everywhere."""
    if d.vanishes(d.want):
        return "the right gradient is 0 everywhere"
    return "all zeros" if not d.got.any() else ""


def constant_factor(d: Difference) -> str:
    """All entries are wrong by one factor, which may be a known one: 1/N, 1/sqrt(D), a number that the op saved."""
    r = float((d.got * d.want).sum() / (d.want * d.want).sum())
    if not d.same(d.got, r * d.want, abs(r)):
        return ""
    near: Callable[[float, float], bool] = lambda x, y: abs(x - y) < 1e-5 * abs(y)
    if near(r, -1.0):
        return "the sign is flipped"
    size = f"every entry is {max(abs(r), 1 / abs(r)):.4g} times too {'large' if abs(r) > 1 else 'small'}"
    for name, x in d.numbers.items():
        if not x.is_integer() and (near(r * x, 1.0) or near(r, x)):
            return f"{size}: {'missing' if near(r * x, 1.0) else 'an extra'} factor {name}"
    size += " and its sign is flipped" * (r < 0)
    forms = {"missing 1/{}": 1.0, "an extra 1/{}": -1.0, "missing 1/sqrt({})": 0.5, "an extra 1/sqrt({})": -0.5}
    causes = [f"{form.format(n)}, and {n} is {where}"
              for form, power in forms.items() for n, where in d.divisors.items() if near(abs(r), n ** power)]
    if not causes:
        causes = [f"1/{m} instead of 1/{n}: {m} is {d.divisors[m]}, {n} is {d.divisors[n]}"
                  for m, n in itertools.permutations(d.divisors, 2) if near(abs(r), n / m)][:1]
    if not causes:
        return size if d.want.size > 1 else ""
    return f"{size}: {'; or '.join(causes)}"


def repeats_lost(d: Difference) -> str:
    """Where an index names a row several times, the gradients of all its uses must be added up."""
    if d.block:
        return ""
    rows = np.flatnonzero(d.wrong.any(axis=tuple(d.axes[1:]))).tolist()
    for name, index in d.indices.items():
        values, counts = np.unique(index, return_counts=True)
        if values[counts > 1].tolist() == rows:
            return f"only rows {rows} are wrong, those that {name} names more than once: add the gradients of all uses"
    return ""


def picked_entries(d: Difference) -> str:
    """Wrong only at the entry of each row that an index picks, such as a target."""
    if d.block:
        return ""
    for name, index in d.indices.items():
        rows = d.wrong.reshape(index.size, -1).copy() if d.want.size % index.size == 0 else np.ones((0, 0))
        if 0 <= index.min() <= index.max() < rows.shape[1]:
            rows[np.arange(index.size), index.ravel()] = False
            if not rows.any():
                return f"wrong only at [i, {name}[i]]: a term that only these entries have is missing or wrong"
    return ""


def other_factor(d: Difference) -> str:
    """A known array is missing as a factor, is a factor too many, or is a factor instead of another one."""
    for name, x in d.factors.items():
        if d.same(d.got * x, d.want):
            return f"missing factor {name}"
        if d.same(d.got, d.want * x, largest(x)):
            return f"an extra factor {name}"
    for (a, x), (b, y) in itertools.permutations(d.factors.items(), 2):
        if d.same(d.got * y, d.want * x, largest(x)) and not d.vanishes(d.want * x, largest(x)):
            return f"multiplied by {a} instead of {b}"
    return ""


def own_factors(d: Difference) -> str:
    """Each row, or each column, is wrong by a factor, and the factors differ."""
    for axis in reversed(d.axes):
        if d.spanned(d.got, axis, d.want):
            return f"every entry is off by a factor, {d.each(axis)}"
    return ""


def other_product(d: Difference) -> str:
    """A product of the wrong matrices: one of them is not transposed, or their order is wrong."""
    wrong = [name for name, y in d.products.items() if d.same(d.got, y)]
    right = [name for name, y in d.products.items() if d.same(d.want, y)]
    return f"this is {wrong[0]} instead of {right[0]}" if wrong and right else ""


def missing_term(d: Difference) -> str:
    """The term that couples a row is missing: a mean, a sum times a known array, or both."""
    ones, terms = np.ones(d.shape), d.factors | d.products
    for axis in reversed(d.axes):
        if d.spanned(d.off, axis, ones):
            return f"a term constant along axis {axis} is missing or wrong: a mean or a sum"
        for name, k in terms.items():
            if d.spanned(d.off, axis, k):
                return f"a projection term is missing or wrong: off by ({d.each(axis)}) x {name}"
    for axis, (name, k) in itertools.product(reversed(d.axes), d.factors.items()):
        if d.spanned(d.off, axis, ones, k):
            each = d.each(axis)
            return f"two terms are missing or wrong, a mean and a projection: off by ({each}) + ({each}) x {name}"
    return ""


def sum_over_wrong_axis(d: Difference) -> str:
    """A sum over the wrong axis, times a known array: the difference divided by that array is a sum over one axis minus
    a sum over another."""
    divisible = [(name, k) for name, k in d.factors.items() if np.abs(k).min() > 1e-3 * np.abs(k).max()]
    for (name, k), (a, b) in itertools.product(divisible, itertools.combinations(d.axes, 2)):
        mixed = np.diff(np.diff(d.off / k, axis=a), axis=b)
        if mixed.size > 1 and d.vanishes(mixed, 4.0 / np.abs(k).min()):
            return f"a sum is over the wrong one of axes {a} and {b}: off by (the wrong sum - the right one) x {name}"
    return ""


def missing_factor_of_dy(d: Difference) -> str:
    """Computed from dy as the right gradient is computed from dy times a known array."""
    if "dy" not in d.factors:
        return ""
    axis, dy, ones = d.axes[-1], d.factors["dy"], np.ones(d.shape)
    for (_, k), (name, w) in itertools.permutations(d.factors.items(), 2):
        if d.spanned(d.got, axis, ones, k, dy) and d.spanned(d.want, axis, ones, k, dy * w):
            return f"missing factor {name}: computed from dy instead of dy * {name}"
    return ""


def derivative_of_one_array(d: Difference) -> str:
    """dy times a polynomial of one known array; or wrong by that."""
    if formula := polynomial(d, d.got):
        return f"this is {formula}, elementwise: only part of the derivative, or that of another function"
    formula = polynomial(d, d.off)
    return f"a term is missing or wrong, elementwise: off by {formula}" if formula else ""


def polynomial(d: Difference, target: np.ndarray) -> str:
    """The target as dy, or dy times one or two known arrays, times a polynomial of degree 2 or less, or a step
    function, of another, elementwise; "" if it is none."""
    if "dy" not in d.factors:
        return ""
    arrays = {name: k for name, k in d.factors.items() if name != "dy"}
    outer = {" * ".join(["dy", *names]): math.prod((arrays[name] for name in names), start=d.factors["dy"])
             for r in range(3) for names in itertools.combinations(arrays, r)}
    arrays |= {f"({name} > 0)": 1.0 * (k > 0.0) for name, k in arrays.items()}
    for (front, g), degree, (name, k) in itertools.product(outer.items(), range(3), arrays.items()):
        terms = np.stack([(g * k ** i).ravel() for i in range(degree + 1)], axis=1)
        c = np.linalg.lstsq(terms, target.ravel(), rcond=None)[0]
        if degree == 0 and front != "dy" or abs(c[-1]) < 1e-6:       # a product alone is for other_factor
            continue
        if target.size > degree + 3 and d.same(terms @ c, target.ravel()):
            powers = zip(c, ("", f" * {name}", f" * {name}^2"))
            formula = " + ".join(f"{a:.4g}{power}" for a, power in powers if abs(a) > 1e-6).replace("+ -", "- ")
            return f"{front} * ({formula})" if formula != "1" else front
    return ""


def some_only(d: Difference) -> str:
    """Wrong only in some rows or columns."""
    where = [np.flatnonzero(d.wrong.any(axis=tuple(a for a in d.axes if a != axis))).tolist() for axis in d.axes]
    axis = min(d.axes, key=lambda a: len(where[a]) / d.shape[a], default=0)
    if not d.axes or len(where[axis]) == d.shape[axis]:
        return ""
    if d.block:
        where[axis] = [d.block.axes[axis][k] for k in where[axis]]
    name = {(1, 0): "entries", (2, 0): "rows", (2, 1): "columns"}.get((len(d.shape), axis), f"indices of axis {axis}:")
    return f"only {name} {where[axis]} are wrong"


def lost_sum(d: Difference) -> str:
    """As a last resort: the right gradient sums to 0 along an axis, this one does not."""
    for axis in d.axes:
        n = d.shape[axis]
        if n > 1 and d.vanishes(d.want.sum(axis=axis), n) and not d.vanishes(d.got.sum(axis=axis), n):
            return f"{NO_RULE}, but the right gradient sums to 0 along axis {axis} and this one does not"
    return ""


HYPOTHESES = (not_finite, misplaced, wrong_shape, zero, constant_factor, repeats_lost, picked_entries, other_factor,
              own_factors, other_product, missing_term, sum_over_wrong_axis, missing_factor_of_dy,
              derivative_of_one_array, some_only, lost_sum)
