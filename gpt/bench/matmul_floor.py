"""The floor: what the matrix products of the linear layers of a step take by themselves; and how many floating-point
operations a step needs."""
from functools import cache, partial
from typing import Any, Callable

import numpy as np

from minigrad.device import put, synchronize, xp

from gpt.bench.presets import Preset
from gpt.model import GPTConfig


def linear_layers(shape: GPTConfig) -> list[tuple[int, int]]:
    """(in, out) of all linear layers, from the first to the head."""
    C = shape.n_embd
    return [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)] * shape.n_layer + [(C, shape.vocab_size)]


def floor_flops(p: Preset) -> int:
    """Floating-point operations of the linear layers in a step: one product forward, and two backward if it trains."""
    return 2 * p.tokens * sum(n * m for n, m in linear_layers(p.shape)) * (1 if p.generates else 3)


def step_flops(p: Preset) -> int:
    """The same with attention's: two products forward, four backward, of which the causal mask leaves half."""
    return floor_flops(p) + 2 * p.tokens * p.shape.n_layer * p.shape.n_embd * p.shape.block_size * (
        1 if p.generates else 3)


def floor(p: Preset, device: str) -> Callable[[], None]:
    """The matrix products of all linear layers of a step and nothing else, one after the other on BLAS's threads, into
    arrays that exist: for each layer y = x @ w, then for each from the last to the first dx = dy @ w.T and
    dw = x.T @ dy."""
    rng, N = np.random.default_rng(0), p.tokens

    def array(*shape: int) -> Any:
        return put(rng.random(shape, dtype=np.float32), device)

    @cache
    def shared(what: str, width: int) -> Any:   # one array for all layers, as a step frees outputs and their gradients
        return array(N, width)

    def product(a: Any, b: Any, out: Any) -> Callable[[], Any]:
        return partial(xp(a).matmul, a, b, out=out)

    forward, backward = [], []
    for n, m in linear_layers(p.shape):
        x, w, dw, y = array(N, n), array(n, m), array(n, m), shared("y", m)
        forward.append(product(x, w, y))
        backward += [product(x.T, y, dw), product(y, w.T, shared("dx", n))]
    products = [*forward, *backward[::-1]]

    def run() -> None:
        for each in products:
            each()
        synchronize()
    return run
