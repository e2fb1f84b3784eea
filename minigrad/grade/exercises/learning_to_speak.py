"""schedule: a learning-rate schedule. accumulation: the weights of micro-batches."""
import math
from typing import Any, Callable

import numpy as np

from minigrad.grade.answer import call, number, results
from minigrad.grade.verdict import must


def grade_schedule(mine: Callable[..., Any]) -> None:
    """mine(step, warmup_steps, max_steps, max_lr, min_lr): the learning rate of a step, counted from 0."""
    W, N, high, low = 10, 110, 6e-4, 6e-5
    rates = [number(call(mine, step, W, N, high, low), f"the rate of step {step}") for step in range(2 * N)]
    must(rates[0] > 0.0, "the rate of step 0 is 0: the first batch teaches nothing")
    must(math.isclose(rates[W], high),
         f"at the end of the warmup, step {W}, the rate is {rates[W]:g}, not max_lr {high:g}")
    must(max(rates) <= high * (1 + 1e-9), f"the rate exceeds max_lr: {max(rates):g} at step {int(np.argmax(rates))}")
    rises = np.diff(rates[:W + 1])
    must(min(rises) > 0.0, f"the warmup does not rise from step {int(np.argmin(rises))} to the next: "
         f"max_lr comes at step {W}, the first after {W} steps of warmup, and not before it")
    must(np.allclose(rises, rises[0]), "the warmup is not a line: it rises by more at some steps than at others")
    for share, where in ((1 / 2, "half-way down"), (1 / 4, "a quarter of the way down")):
        step, want = round(W + share * (N - W)), low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * share))
        must(math.isclose(rates[step], want), f"{where}, step {step}, the rate is {rates[step]:g}, not that of half a "
             f"cosine from max_lr to min_lr, {want:g}")
    must(math.isclose(rates[N], low), f"at max_steps the rate is {rates[N]:g}, not min_lr {low:g}")
    must(all(math.isclose(r, low) for r in rates[N:]),
         f"after max_steps the rate leaves min_lr: it is {rates[N + 90]:g} at step {N + 90}, as the cosine goes on")
    first = number(call(mine, 0, 0, N, high, low), "the rate of step 0 without a warmup")
    must(math.isclose(first, high), f"without a warmup the rate of step 0 is {first:g}, not max_lr {high:g}")


def grade_accumulation(mine: Callable[..., Any]) -> None:
    """mine(counts): the weight of the mean loss of each micro-batch. counts: their numbers of targets."""
    rng = np.random.default_rng(0)
    for counts in ([8, 8, 8, 8], [8, 8, 8, 2], [5], [3, 0, 7], [1, 100]):
        losses = [rng.uniform(1, 5, n) for n in counts]
        means = [part.mean() if n else 0.0 for n, part in zip(counts, losses)]
        names = [f"weight {i}" for i in range(len(counts))]
        weights = list(map(number, results(call(mine, counts), *names), names))
        must(math.isclose(sum(weights), 1.0), f"targets {counts}: the weights sum to {sum(weights):g}, not to 1: if "
             "all targets had the same loss, the result would be another")
        got, want = float(np.dot(weights, means)), float(np.concatenate(losses).mean())
        alike = math.isclose(got, float(np.mean(means)))
        must(math.isclose(got, want), f"targets {counts}: the weighted sum of the means is {got:.4f}, the mean over "
             f"all targets is {want:.4f}" + (": a mean of means weighs each micro-batch alike" if alike else ""))


EXERCISES = {"schedule": grade_schedule, "accumulation": grade_accumulation}
