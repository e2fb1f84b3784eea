"""completion_targets: which targets of a pair count. lora_gradients: the gradients of an adapter's two matrices."""
from typing import Any, Callable

import numpy as np

from minigrad.gradcheck import numeric_gradient
from minigrad.grade.answer import array, call, results
from minigrad.grade.verdict import must

IGNORED = -100


def grade_completion_targets(mine: Callable[..., Any]) -> None:
    """mine(prompt, completion): x and y (T,), y is -100 where the next token is one of the prompt."""
    for n, m in ((4, 3), (1, 1), (1, 4), (5, 1)):
        tokens = np.random.default_rng(n).permutation(np.arange(10, 10 + n + m))       # all different
        case = f"a prompt of {n} and a completion of {m}"
        x, y = (array(a, (n + m - 1,), f"{name} for {case}")
                for a, name in zip(results(call(mine, tokens[:n], tokens[n:]), "x", "y"), "xy"))
        must((x == tokens[:-1]).all(), f"{case}: x is {x.tolist()}, should be all tokens but the last one, "
             f"{tokens[:-1].tolist()}: -100 is for targets, the model reads the prompt")
        expected = np.where(np.arange(n + m - 1) < n - 1, IGNORED, tokens[1:])
        must(bool((y != IGNORED).any()), f"{case}: no target counts")
        counted = y != IGNORED
        must(not counted[:n - 1].any(), f"{case}: targets within the prompt count, {y[:n - 1].tolist()}: the model "
             "need not learn to write the prompt")
        must(bool(counted[n - 1]), f"{case}: the first token of the completion does not count: it is the target of the "
             f"last token of the prompt, y[{n - 1}]")
        must((y == expected).all(), f"{case}: y is {y.tolist()}, should be {expected.tolist()}")


def grade_lora_gradients(mine: Callable[..., Any]) -> None:
    """mine(x, A, B, dy, s): dA (I, R) and dB (R, O)."""
    rng = np.random.default_rng(0)
    for N, I, R, O, s in ((5, 4, 2, 3, 0.5), (1, 3, 1, 2, 2.0), (4, 2, 3, 5, 1.0)):
        x, A, B, dy = (rng.normal(size=shape) for shape in ((N, I), (I, R), (R, O), (N, O)))
        case = f"x ({N}, {I}), rank {R}, s = {s:g}"
        given = results(call(mine, x, A, B, dy, s), "dA", "dB")
        for name, matrix, result in (("dA", A, given[0]), ("dB", B, given[1])):
            got = array(result, matrix.shape, f"{name} for {case}")
            want = numeric_gradient(lambda: float((dy * (s * (x @ A) @ B)).sum()), matrix)
            ratio = got.ravel() @ want.ravel() / (want.ravel() @ want.ravel())
            scaled = np.allclose(got, ratio * want) and not np.isclose(ratio, 1.0)
            must(not scaled, f"{case}: {name} is {ratio:.3g} times what it should be: y has the factor s once, so each "
                 "gradient has it once")
            must(np.allclose(got, want, rtol=1e-6), f"{case}: {name} is wrong: a small change of {name[1]} "
                 "changes the loss by another amount")


EXERCISES = {"completion_targets": grade_completion_targets, "lora_gradients": grade_lora_gradients}
