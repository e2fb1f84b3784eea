"""What recording costs: one op on a small array, forward and backward, beside the bare NumPy calls that it makes.

`python -m minigrad.bench` prints, for chains of 100 ops, microseconds per op. The engines are run in turn, round after
round, and medians are quoted, as machines are noisy. DeZero and autograd are measured too where they are installed.
"""
import argparse
import contextlib
import importlib
import statistics
import sys
import time
from typing import Any, Callable

import numpy as np

from minigrad import Tensor, functional as F

CHAIN = 100
Run = Callable[[], Any]


def chain(op: Callable[[Any], Any], x: Any) -> Any:
    """op(op(... op(x)))."""
    for _ in range(CHAIN):
        x = op(x)
    return x


def bare(forward: Callable[[np.ndarray], tuple[Any, ...]], backward: Callable[..., np.ndarray], x: np.ndarray) -> Run:
    """The NumPy calls of a chain, both ways: forward gives (y, what backward needs)."""
    def run() -> np.ndarray:
        y, saved = x, []
        for _ in range(CHAIN):
            y, *kept = forward(y)
            saved.append(kept)
        dy = np.ones_like(y)
        for kept in reversed(saved):
            dy = backward(dy, *kept)
        return dy
    return run


def recorded(op: Callable[[Any], Any], x: np.ndarray) -> Run:
    """The same chain on the tape."""
    t, dy = Tensor(x, requires_grad=True), np.ones_like(x)
    return lambda: chain(op, t).backward(dy)


def layer_norm_bare(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Run:
    C = x.shape[-1]

    def forward(x: np.ndarray) -> tuple[Any, ...]:
        xhat = x - x.sum(axis=-1, keepdims=True) / C
        var = (xhat * xhat).sum(axis=-1, keepdims=True) / C
        rstd = 1.0 / np.sqrt(var + 1e-5)
        xhat *= rstd
        return xhat * w + b, xhat, rstd

    def backward(dy: np.ndarray, xhat: np.ndarray, rstd: np.ndarray) -> np.ndarray:
        (dy * xhat).sum(axis=0), dy.sum(axis=0)
        dxhat = dy * w
        shift = dxhat.sum(axis=-1, keepdims=True) / C
        scale = (dxhat * xhat).sum(axis=-1, keepdims=True) / C
        return rstd * (dxhat - shift - xhat * scale)

    return bare(forward, backward, x)


def others(name: str, x: np.ndarray) -> dict[str, Run]:
    """The same chain in the other engines that are installed and that import with this NumPy."""
    ops: dict[str, Callable[[Any, Any], Any]] = {
        "add": lambda xp, v: v + v, "mul": lambda xp, v: v * v, "tanh": lambda xp, v: xp.tanh(v)}
    runs: dict[str, Run] = {}
    if name not in ops:
        return runs
    with contextlib.suppress(ImportError, AttributeError):
        dezero, functions = importlib.import_module("dezero"), importlib.import_module("dezero.functions")
        runs["DeZero"] = lambda: chain(lambda v: ops[name](functions, v), dezero.Variable(x)).backward()
    with contextlib.suppress(ImportError, AttributeError):
        autograd, numpy = importlib.import_module("autograd"), importlib.import_module("autograd.numpy")
        gradient = autograd.grad(lambda v: chain(lambda u: ops[name](numpy, u), v)[0])
        runs["autograd"] = lambda: gradient(x)
    return runs


def cases() -> dict[str, dict[str, Run]]:
    """Op -> engine -> a run of the whole chain."""
    one, row = np.array([0.5]), np.random.default_rng(0).normal(size=(1, 64))
    w, b = Tensor(np.ones(64), requires_grad=True), Tensor(np.zeros(64), requires_grad=True)
    table = {
        "add": (bare(lambda x: (x + x,), lambda dy: dy + dy, one), recorded(lambda x: x + x, one)),
        "mul": (bare(lambda x: (x * x, x), lambda dy, x: dy * x + dy * x, one), recorded(lambda x: x * x, one)),
        "tanh": (bare(lambda x: (y := np.tanh(x), y), lambda dy, y: dy * (1.0 - y * y), one), recorded(F.tanh, one)),
        "layer_norm": (layer_norm_bare(row, w.data, b.data), recorded(lambda x: F.layer_norm(x, w, b), row)),
    }
    return {name: {"bare": plain, "minigrad": ours, **others(name, one)} for name, (plain, ours) in table.items()}


def measure(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median microseconds per op of each engine, run in turn."""
    times: dict[str, list[float]] = {engine: [] for engine in runs}
    for _ in range(rounds):
        for engine, run in runs.items():
            start = time.perf_counter()
            run()
            times[engine].append((time.perf_counter() - start) / CHAIN * 1e6)
    return {engine: statistics.median(t) for engine, t in times.items()}


def main(argv: list[str] | None = None) -> int:
    """Print a row per op."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.bench",
        usage=argparse.SUPPRESS,                # an error is one line
        description="What recording an op costs, beside bare NumPy.",
    )
    parser.add_argument("--rounds", type=int, default=100, help="how often each chain is run (default 100)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    print(f"microseconds per op, forward and backward; medians of {args.rounds} chains of {CHAIN}, run in turn")
    with np.errstate(over="ignore"):
        for name, runs in cases().items():
            us = measure(runs, args.rounds)
            plain, ours = us.pop("bare"), us.pop("minigrad")
            rest = "".join(f"   {engine} {t:5.1f}" for engine, t in us.items())
            cost = f"(+{ours - plain:.1f}, x{ours / plain:.1f})"
            print(f"{name:10}   bare NumPy {plain:5.1f}   minigrad {ours:5.1f} {cost}{rest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
