"""A network that uses every op of tests/faulty_ops.py, with one mistake at a time in a backward: which parameters then
have a wrong gradient, and which steps fail their own check.

    python tests/locate_mistakes.py         prints the table of docs/stepper.md
"""
import contextlib
import sys
from typing import Any, Iterator

import numpy as np

from minigrad import Tensor, functional as F
from minigrad.gradcheck import relative_error
from faulty_ops import OP_MISTAKES

T, C, V = 5, 6, 11
TOKENS = np.array([[1, 3, 1, 0, 6], [2, 2, 5, 1, 3], [0, 4, 4, 4, 2]])
TARGETS = np.array([[3, -100, 0, 6], [2, 5, 1, 3]])


def parameters() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    shapes = {"wte": (V, C), "wpe": (T, C), "ln.w": (C,), "ln.b": (C,), "qkv.w": (C, 3 * 4), "qkv.b": (3 * 4,),
              "proj": (4, 8), "gate": (3, 1), "fc.w": (T, 4), "fc.b": (4,), "scale": (4,), "head": (4, V),
              "bias": (4, V)}
    return {name: Tensor(rng.normal(size=shape), requires_grad=True) for name, shape in shapes.items()}


def loss(p: dict[str, Tensor]) -> Tensor:
    """Embedding, layer norm, attention, then ops that a GPT does not need, then cross-entropy."""
    x = F.embedding(p["wte"], TOKENS) + p["wpe"]                                # (3, T, C)
    x = F.layer_norm(x, p["ln.w"], p["ln.b"])
    q, k, v = F.split(F.linear(x, p["qkv.w"], p["qkv.b"]), 3, axis=-1)          # (3, T, 4)
    x = F.scaled_dot_product_attention(q, k, v, causal=True)
    x = F.matmul(x, p["proj"])                                                  # (3, T, 8)
    x = F.transpose(x, (1, 2, 0))                                               # (T, 8, 3)
    x = F.softmax(x, axis=1)
    x = F.matmul(x, p["gate"])                                                  # (T, 8, 1)
    x = F.transpose(F.squeeze(x, axis=2), (1, 0))                               # (8, T)
    x = F.gelu(F.linear(x, p["fc.w"], p["fc.b"])) * p["scale"]                  # (8, 4)
    x = F.mean(F.reshape(F.matmul(x, p["head"]), (2, 4, V)) * 3.0, axis=1)      # (2, V)
    x = F.reshape(x, (2, 1, V)) + p["bias"]                                     # (2, 4, V)
    return F.cross_entropy(x, TARGETS) * 1.7


@contextlib.contextmanager
def with_mistake(mutant: Any) -> Iterator[None]:
    """Inside, a mutant replaces the op that it derives from, for every graph that is recorded."""
    right = mutant.__base__
    module = sys.modules[right.__module__]
    setattr(module, right.__name__, mutant)
    try:
        yield
    finally:
        setattr(module, right.__name__, right)


def gradients() -> dict[str, Any]:
    p = parameters()
    loss(p).backward()
    return {name: t.grad for name, t in p.items()}


def locate(mutant: Any) -> tuple[list[str], list[str], list[str]]:
    """With this mistake: the parameters whose gradient is wrong; the ops of the steps that fail their own check; the
    ops of all steps. If the engine refuses a gradient for its wrong shape: no parameters, and the op that it names."""
    right = gradients()
    with with_mistake(mutant):
        try:
            wrong = gradients()
            parameters_wrong = [name for name, g in right.items() if relative_error(wrong[name], g) > 1e-6]
            steps = loss(parameters()).backward_steps(until="bad")
            failing = [step.op for step in steps]
        except (ValueError, TypeError) as error:
            stopped = next(note for note in error.__notes__ if note.startswith("in backward of "))
            parameters_wrong, failing = [], [stopped.split()[3]]
    return parameters_wrong, failing, [step.op for step in loss(parameters()).backward_steps()]


def table() -> str:
    rows = ["| op | the mistake | parameters with a wrong gradient | steps that fail their own check |",
            "| --- | --- | --- | --- |"]
    for mutant in OP_MISTAKES:
        wrong, failing, steps = locate(mutant)
        count = f"{len(wrong)} of {len(parameters())}" if wrong else "none: the engine raises an error, wrong shape"
        mistake = " ".join((mutant.__doc__ or "").split())
        rows.append(f"| {mutant.name} | {mistake} | {count} | {len(failing)} of {len(steps)}: all {failing[0]} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
