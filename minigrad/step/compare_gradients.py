"""The gradient of every leaf against central differences of the loss, entry by entry."""
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigrad.gradcheck import EPS, TOLERANCE, relative_errors
from minigrad.step.explain import size_of
from minigrad.step.rerun import on_host

if TYPE_CHECKING:
    from minigrad.step.backward_record import Record

MOST = 2000                                     # entries compared in a record, each by two runs of its forward
WORK = 10 ** 8                                  # entries compared, times the number of entries of all leaves


class Compared(NamedTuple):
    """Entries of the gradient of one leaf, and what central differences of the loss give for them."""
    leaf: str
    shape: tuple[int, ...]
    at: Any                         # (n,) positions in the flat leaf, ascending
    analytic: Any                   # (n,)
    numeric: Any                    # (n,)
    error: Any                      # (n,) as minigrad.gradcheck.relative_errors gives it
    bound: float                    # of the error

    @property
    def right(self) -> Any:
        """(n,) booleans: which entries agree."""
        return self.error <= self.bound

    @property
    def worst(self) -> tuple[int, ...]:
        """The index, in the leaf, of the entry with the largest error; () of an empty leaf."""
        if not self.error.size:
            return ()
        return tuple(int(k) for k in np.unravel_index(self.at[np.argmax(self.error)], self.shape))


def compare(record: "Record") -> list[Compared]:
    """Compare every entry of a leaf, or as many picked at random, with a fixed seed, as the work allows; an equal
    number of each large leaf. The forward runs in float64. Nothing where the loss is not finite: there is no numeric
    gradient then."""
    if not np.isfinite(record.replay.loss) or not record.gradients:
        return []
    sizes = [g.size for g in record.gradients.values()]
    each = max(min(MOST, WORK // max(sum(sizes), 1)) // len(sizes), 1)
    if sum(sizes) <= MOST:
        each = MOST
    rng = np.random.default_rng(0)
    return [_compare_leaf(record, leaf, rng.permutation(g.size)[:each]) for leaf, g in record.gradients.items()]


def _compare_leaf(record: "Record", leaf: str, picked: Any) -> Compared:
    tensor, at = record.leaves[leaf], np.sort(picked)
    x = on_host(tensor).astype(np.float64)
    gradient = record.gradients[leaf]
    analytic, numeric = gradient.astype(np.float64).reshape(-1)[at], np.empty(len(at))
    eps = EPS * size_of(x)

    def loss(k: int, value: float) -> float:
        moved = x.copy()
        moved.flat[k] = value
        return record.replay.change({id(tensor): moved})

    for n, k in enumerate(at):
        numeric[n] = (loss(k, x.flat[k] + eps) - loss(k, x.flat[k] - eps)) / (2.0 * eps)
    error = np.nan_to_num(relative_errors(analytic, numeric), nan=np.inf)
    tolerance = max(TOLERANCE, float(np.finfo(gradient.dtype).eps) ** 0.5)
    return Compared(leaf, x.shape, at, analytic, numeric, error, tolerance)


def summary(found: list[Compared]) -> tuple[str, str]:
    """Two sentences: how many entries lie on the diagonal, and which were compared."""
    n, right = sum(len(x.at) for x in found), sum(int(x.right.sum()) for x in found)
    total = sum(math.prod(x.shape) for x in found)
    worst = max(float(x.error.max(initial=0.0)) for x in found)
    which = (f"{n:,} of {total:,} entries, picked at random: at most {max(len(x.at) for x in found)} of each tensor."
             if n < total else "Every entry of every gradient.")
    points = f"{'all ' if n == right else f'{right:,} of '}{n:,} {'points' if n < total else 'entries'}"
    return (f"{points} lie on the diagonal; worst relative error {worst:.1g}",
            f"{which} The error is relative to the largest entry of its tensor.")
