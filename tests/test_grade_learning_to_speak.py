"""The exercises of docs/learning_to_speak.md: right answers, and what is said of wrong ones."""
import math

import numpy as np
import pytest

from minigrad.grade import check


def schedule(step, warmup_steps, max_steps, max_lr, min_lr):
    if step < warmup_steps:
        return max_lr * (step + 1) / (warmup_steps + 1)
    if step >= max_steps:
        return min_lr
    share = (step - warmup_steps) / (max_steps - warmup_steps)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * share)) * (max_lr - min_lr)


def test_a_schedule_is_right_also_if_its_warmup_starts_at_another_positive_rate():
    assert check("schedule", schedule)
    assert check("schedule", lambda step, W, N, high, low: np.float64(
        high * (step + 0.5) / (W + 0.5) if step < W else schedule(step, W, N, high, low)))


def unclamped(step, W, N, high, low):
    return schedule(step, W, N, high, low) if step < N else low + 0.5 * (high - low) * (
        1.0 + math.cos(math.pi * (step - W) / (N - W)))


@pytest.mark.parametrize("answer, words", [
    (lambda step, W, N, high, low: high * step / W if step < W else schedule(step, W, N, high, low),
     "the rate of step 0 is 0: the first batch teaches nothing"),
    (unclamped, "after max_steps the rate leaves min_lr: it is "),
    (lambda step, W, N, high, low: high * (step + 1) / W if step < W else schedule(step, W, N, high, low),
     "the warmup does not rise from step 9 to the next"),
    (lambda step, W, N, high, low: high * ((step + 1) / (W + 1)) ** 2 if step < W else schedule(step, W, N, high, low),
     "the warmup is not a line"),
    (lambda step, W, N, high, low: schedule(step, 0, N, high, low), "at the end of the warmup, step 10, the rate is "),
    (lambda step, W, N, high, low: high if step < W else schedule(step, W, N, high, low),
     "the warmup does not rise from step 0 to the next"),
    (lambda step, W, N, high, low: schedule(step, W, N, high, 0.0), "half-way down, step 60, the rate is "),
    (lambda step, W, N, high, low: schedule(step, W, N, high, low) if step < W else max(
        low, high - (high - low) * (step - W) / (N - W)), "a quarter of the way down, step 35, the rate is "),
    (lambda step, W, N, high, low: 2 * high if step == 3 else schedule(step, W, N, high, low),
     "the rate exceeds max_lr: 0.0012 at step 3"),
    (lambda step, W, N, high, low: high * (step + 1) / (W + 1) if step <= W - 1 and W else (
        schedule(step, W, N, high, low) if W else low), "without a warmup the rate of step 0 is 6e-05, not max_lr"),
    (lambda step, W, N, high, low: schedule(step, W, N, high, low) * (1.0 / W * W), "raised ZeroDivisionError"),
    (lambda *args: None, "the rate of step 0 is None: is a `return` missing?"),
    (lambda *args: [1.0], "the rate of step 0 is a list, should be a number"),
    (lambda *args: float("nan"), "the rate of step 0 is nan"),
])
def test_a_wrong_schedule_is_told_which_rate_is_wrong(answer, words):
    verdict = check("schedule", answer)
    assert verdict.verdict == "wrong"
    assert verdict.why.startswith(words)


@pytest.mark.parametrize("answer", [
    lambda counts: [n / sum(counts) for n in counts],
    lambda counts: np.array(counts) / sum(counts),
    lambda counts: tuple(n / sum(counts) for n in counts),
])
def test_weights_by_counts_are_right(answer):
    assert check("accumulation", answer)


@pytest.mark.parametrize("answer, words", [
    (lambda counts: [1 / len(counts)] * len(counts), "a mean of means weighs each micro-batch alike"),
    (lambda counts: [1.0] * len(counts), "not to 1: if all targets had the same loss"),
    (lambda counts: list(counts), "not to 1: if all targets had the same loss"),
    (lambda counts: [n / max(counts) for n in counts], "not to 1: if all targets had the same loss"),
    (lambda counts: [n ** 2 / sum(m ** 2 for m in counts) for n in counts], "the mean over all targets is "),
    (lambda counts: 1 / len(counts), "the result is a float, should be 4 values"),
    (lambda counts: [1.0], "it returns 1 value, should be 4 values"),
    (lambda counts: ["a"] * len(counts), "weight 0 is a str, should be a number"),
    (lambda counts: [float("nan")] * len(counts), "weight 0 is nan"),
    (lambda counts: None, "is a `return` missing?"),
    (lambda counts: (n / sum(counts) for n in counts), "the result is a generator, should be 4 values"),
])
def test_wrong_weights_are_told_what_they_do(answer, words):
    verdict = check("accumulation", answer)
    assert verdict.verdict == "wrong"
    assert words in verdict.why
