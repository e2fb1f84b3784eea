"""The floor: what the matrix products of the linear layers of a step take by themselves; and how many floating-point
operations a step needs."""
from functools import cache, partial
from typing import Any, Callable

import numpy as np

from minigrad.device import put, xp
from minigrad.kernels import pool

from gpt.bench.machine import wait_for
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


def floor(p: Preset, device: str, parts: int) -> Callable[[], None]:
    """The matrix products of all linear layers of a step and nothing else, each in `parts` on as many threads, which do
    not wait for each other: for each layer y = x @ w, then backward dx = dy @ w.T and dw = x.T @ dy, into arrays that
    exist."""
    rng, N = np.random.default_rng(0), p.tokens

    def array(*shape: int) -> Any:
        return put(rng.random(shape, dtype=np.float32), device)

    @cache
    def passing(what: str, width: int) -> Any:  # like outputs and their gradients, which do not stay
        return array(N, width)

    def jobs(a: Any, b: Any, out: Any) -> list[Callable[[], Any]]:
        return [partial(xp(a).matmul, a[rows], b, out=out[rows]) for rows in pool.cuts(len(a), parts)]

    forward, backward = [], []
    for n, m in linear_layers(p.shape):
        x, w, dw, y = array(N, n), array(n, m), array(n, m), passing("y", m)
        forward.append(jobs(x, w, y))
        backward += [jobs(x.T, y, dw), jobs(y, w.T, passing("dx", n))]
    products = [partial(pool.do, part) for part in zip(*forward, *backward[::-1], strict=True)]

    def run() -> None:
        pool.run(products)
        wait_for(dw)
    return run
