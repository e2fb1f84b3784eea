"""Samples: inputs on which an op is checked."""
import math
from typing import Any, Callable, Sequence

import numpy as np

Draw = Callable[[np.random.Generator], np.ndarray]     # draws one input


def normal(*shape: int) -> Draw:
    """Standard normal numbers of this shape."""
    return lambda rng: rng.normal(size=shape)


def positive(*shape: int) -> Draw:
    """Uniform numbers in [0.3, 2]."""
    return lambda rng: rng.uniform(0.3, 2.0, size=shape)


def signed(*shape: int) -> Draw:
    """Numbers of both signs, of magnitude 0.2 to 2."""
    return lambda rng: rng.uniform(0.2, 2.0, size=shape) * rng.choice([-1.0, 1.0], size=shape)


def distinct(*shape: int, offset: float = 0.0) -> Draw:
    """Multiples of 0.1, shifted by 0.05 + offset and shuffled: distinct and not 0, so finite differences cross no tie
    and no kink."""
    n = math.prod(shape)
    return lambda rng: 0.1 * (rng.permutation(n) - n // 2 + 0.5).reshape(shape) + offset


def fixed(values: Any) -> Draw:
    """These numbers, as float64."""
    return lambda rng: np.array(values, dtype=np.float64)


class Sample:
    """Inputs for one call of an op. Each positional input is a shape (standard normal numbers), a Draw, or a Python
    number; keyword arguments are passed to the op as they are."""

    def __init__(self, *inputs: Sequence[int] | Draw | float, **static: Any) -> None:
        self.inputs = inputs
        self.static = static

    def draw(self, seed: int) -> list[Any]:
        """The positional inputs: float64 arrays, and Python numbers as they are. The same for the same seed."""
        rng = np.random.default_rng(seed)
        draws = [normal(*x) if isinstance(x, tuple) else x for x in self.inputs]
        return [np.asarray(x(rng)) if callable(x) else x for x in draws]

    def __repr__(self) -> str:
        shown = [str(np.shape(x)) if isinstance(x, np.ndarray) else str(x) for x in self.draw(0)]
        shown += [f"{k}={np.asarray(v).tolist() if isinstance(v, np.ndarray) else v}" for k, v in self.static.items()]
        return f"({', '.join(shown)})"
