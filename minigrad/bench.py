"""The tape's overhead: one op on a small array, forward and backward, compared with the NumPy calls that it makes.

`python -m minigrad.bench` prints microseconds per op, for chains of 100 ops. Each round runs every engine once, and the
medians over the rounds are printed, because other programs slow down single rounds. DeZero and autograd are measured
too if they are installed.

With `--most=N`, the exit status is 1 if an op's overhead is longer than the time in which Python makes N small objects.
The bound is this ratio, not a time, because a slower processor slows down both. It is computed from the fastest rounds,
because other programs only add time.
"""
import argparse
import contextlib
import importlib
import math
import statistics
import sys
import time
from typing import Any, Callable

import numpy as np

from minigrad import Tensor, functional as F
from minigrad.command import run_command

CHAIN = 100                                     # ops in a run
Run = Callable[[], Any]


def chain(op: Callable[[Any], Any], x: Any) -> Any:
    """op(op(... op(x)))."""
    for _ in range(CHAIN):
        x = op(x)
    return x


def bare(forward: Callable[[np.ndarray], tuple[Any, ...]], backward: Callable[..., np.ndarray], x: np.ndarray) -> Run:
    """The NumPy calls of a chain, forward and backward. `forward` returns (y, *saved); `backward` takes dy, *saved."""
    def run() -> np.ndarray:
        y, stack = x, []
        for _ in range(CHAIN):
            y, *saved = forward(y)
            stack.append(saved)
        dy = np.ones_like(y)
        for saved in reversed(stack):
            dy = backward(dy, *saved)
        return dy
    return run


def on_tape(op: Callable[[Any], Any], x: np.ndarray) -> Run:
    """The same chain on minigrad's tape, forward and backward."""
    t, dy = Tensor(x, requires_grad=True), np.ones_like(x)
    return lambda: chain(op, t).backward(dy)


def layer_norm_bare(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Run:
    """The NumPy calls of a chain of layer norms of x (N, C), forward and backward."""
    C = x.shape[-1]

    def forward(x: np.ndarray) -> tuple[Any, ...]:
        xhat = x - x.sum(axis=-1, keepdims=True) / C
        var = (xhat * xhat).sum(axis=-1, keepdims=True) / C
        rstd = 1.0 / np.sqrt(var + 1e-5)
        xhat *= rstd
        return xhat * w + b, xhat, rstd

    def backward(dy: Any, xhat: Any, rstd: Any) -> Any:
        (dy * xhat).sum(axis=0), dy.sum(axis=0)
        dxhat = dy * w
        shift = dxhat.sum(axis=-1, keepdims=True) / C
        scale = (dxhat * xhat).sum(axis=-1, keepdims=True) / C
        return rstd * (dxhat - shift - xhat * scale)

    return bare(forward, backward, x)


class SmallObject:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def small_objects() -> None:
    """Make as many small Python objects as a chain has ops: the unit of --most."""
    for i in range(CHAIN):
        SmallObject({"value": i})


def other_engines(name: str, x: np.ndarray) -> dict[str, Run]:
    """The same chain in the other engines that are installed and work with this version of NumPy."""
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
    """Op -> engine -> a function that runs a chain. The engine "object" is the unit of --most."""
    one, row = np.array([0.5]), np.random.default_rng(0).normal(size=(1, 64))
    w, b = Tensor(np.ones(64), requires_grad=True), Tensor(np.zeros(64), requires_grad=True)
    table = {
        "add": (bare(lambda x: (x + x,), lambda dy: dy + dy, one), on_tape(lambda x: x + x, one)),
        "mul": (bare(lambda x: (x * x, x), lambda dy, x: dy * x + dy * x, one), on_tape(lambda x: x * x, one)),
        "tanh": (bare(lambda x: (y := np.tanh(x), y), lambda dy, y: dy * (1.0 - y * y), one), on_tape(F.tanh, one)),
        "layer_norm": (layer_norm_bare(row, w.data, b.data), on_tape(lambda x: F.layer_norm(x, w, b), row)),
    }
    return {name: {"object": small_objects, "bare": numpy, "minigrad": minigrad, **other_engines(name, one)}
            for name, (numpy, minigrad) in table.items()}


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Engine -> microseconds per op in each round. A round runs every engine once."""
    times: dict[str, list[float]] = {engine: [] for engine in runs}
    for _ in range(rounds):
        for engine, run in runs.items():
            start = time.perf_counter()
            run()
            times[engine].append((time.perf_counter() - start) / CHAIN * 1e6)
    return times


def main(argv: list[str] | None = None) -> int:
    """Print a row for each op, and the overhead. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.bench",
        usage=argparse.SUPPRESS,                # an error is one line
        description="The tape's overhead per op, compared with bare NumPy.",
    )
    parser.add_argument("--rounds", type=int, default=100, help="how often to run each chain (default 100)")
    parser.add_argument("--most", type=float, default=math.inf, metavar="N",
                        help="exit with status 1 if an op's overhead is longer than it takes to make N small objects")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    if not args.most > 0.0:
        parser.error(f"--most must be positive, got {args.most:g}")
    print(f"microseconds per op, forward and backward; medians of {args.rounds} chains of {CHAIN}, run in turn")
    overheads, objects = [], []
    with np.errstate(over="ignore"):
        for name, runs in cases().items():
            times = measure(runs, args.rounds)
            overheads.append(min(times["minigrad"]) - min(times["bare"]))
            objects.append(min(times.pop("object")))
            us = {engine: statistics.median(t) for engine, t in times.items()}
            bare, minigrad = us.pop("bare"), us.pop("minigrad")
            rest = "".join(f"   {engine} {t:5.1f}" for engine, t in us.items())
            cost = f"(+{minigrad - bare:.1f}, x{minigrad / bare:.1f})"
            print(f"{name:10}   bare NumPy {bare:5.1f}   minigrad {minigrad:5.1f} {cost}{rest}")
    overhead = statistics.median(overheads)
    ratio = overhead / min(objects)
    print(f"overhead of an op: {overhead:.1f} microseconds, as long as making {ratio:.0f} small Python objects")
    if ratio > args.most:
        print(f"python -m minigrad.bench: an op's overhead is {ratio:.0f} small objects, above --most={args.most:g}: "
              "look for what was added to apply and walk in minigrad/tape.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command("python -m minigrad.bench", main)
