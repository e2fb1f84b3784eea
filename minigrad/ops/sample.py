"""Samples: inputs on which an op is checked."""
import math
from typing import Any, Callable

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
    """Inputs for one call of an op. Each positional input is a shape, a tuple of integers, for standard normal numbers;
    or a Draw, an array, a list or a Tensor; or a Python number. Keyword arguments are passed to the op as they are."""

    def __init__(self, *inputs: Any, **static: Any) -> None:
        self.inputs = [_host(x) for x in inputs]
        self.static = {name: _host(value) for name, value in static.items()}

    def draw(self, seed: int) -> list[Any]:
        """The positional inputs: arrays of float64, arrays of integers where integers are given, and Python numbers as
        they are. The same for the same seed."""
        rng = np.random.default_rng(seed)
        draws = [normal(*x) if isinstance(x, tuple) else x for x in self.inputs]
        drawn = [np.array(x(rng) if callable(x) else x) if callable(x) or np.ndim(x) else x for x in draws]
        return [x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind not in "biu" else x for x in drawn]

    def __repr__(self) -> str:
        shown = [str(np.shape(x)) if isinstance(x, np.ndarray) else str(x) for x in self.draw(0)]
        shown += [f"{name}={_short(value)}" for name, value in self.static.items()]
        return f"({', '.join(shown)})"


def _host(x: Any) -> Any:
    """A Tensor as an array; anything else unchanged."""
    return x.numpy() if hasattr(x, "requires_grad") else x


def _short(value: Any) -> str:
    """An array as a list if it is small, else its shape; anything else as it prints."""
    if not isinstance(value, np.ndarray):
        return str(value)
    return str(value.tolist()) if value.size <= 40 else f"an array {value.shape}"
