"""Samples: the inputs on which an op is checked."""
import math
from typing import Any, Callable, Sequence

import numpy as np

Draw = Callable[[np.random.Generator], np.ndarray]


def normal(*shape: int) -> Draw:
    """Standard normal numbers."""
    return lambda rng: rng.normal(size=shape)


def positive(*shape: int) -> Draw:
    """Numbers in [0.3, 2]."""
    return lambda rng: rng.uniform(0.3, 2.0, size=shape)


def signed(*shape: int) -> Draw:
    """Numbers of either sign, at least 0.2 away from 0."""
    return lambda rng: rng.uniform(0.2, 2.0, size=shape) * rng.choice([-1.0, 1.0], size=shape)


def distinct(*shape: int, offset: float = 0.0) -> Draw:
    """Numbers of either sign, no two closer than 0.1, none of them close to 0: away from ties and kinks."""
    n = math.prod(shape)
    return lambda rng: 0.1 * (rng.permutation(n) - n // 2 + 0.5).reshape(shape) + offset


def fixed(values: Any) -> Draw:
    """Just these numbers."""
    return lambda rng: np.array(values, dtype=np.float64)


class Sample:
    """Inputs to check an op with: a shape (normal numbers), a Draw, or a number for each positional input, and the
    keyword arguments as they are."""

    def __init__(self, *inputs: Sequence[int] | Draw | float, **static: Any) -> None:
        self.inputs = inputs
        self.static = static

    def draw(self, seed: int) -> list[Any]:
        """float64 arrays (numbers stay numbers), the same for the same seed."""
        rng = np.random.default_rng(seed)
        draws = [normal(*x) if isinstance(x, tuple) else x for x in self.inputs]
        return [np.asarray(x(rng)) if callable(x) else x for x in draws]

    def __repr__(self) -> str:
        shown = [str(np.shape(x)) if isinstance(x, np.ndarray) else str(x) for x in self.draw(0)]
        shown += [f"{k}={np.asarray(v).tolist() if isinstance(v, np.ndarray) else v}" for k, v in self.static.items()]
        return f"({', '.join(shown)})"
