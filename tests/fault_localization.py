"""How a wrong backward is localized: one op of a network is replaced by a faulty one of faulty_ops.py; then which
parameters have a wrong gradient, and which steps of the backward fail their own check?

    python tests/fault_localization.py          prints the table of docs/stepper.md
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
    """A 0-d loss that uses every op of OP_MISTAKES: embedding, layer norm, attention, a few others, cross-entropy."""
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
def planted(faulty: Any) -> Iterator[None]:
    """Inside the block the engine runs the faulty op in place of the op that it derives from."""
    right = faulty.__base__
    module = sys.modules[right.__module__]
    setattr(module, right.__name__, faulty)
    try:
        yield
    finally:
        setattr(module, right.__name__, right)


def gradients() -> dict[str, Any]:
    """The gradient of the loss with respect to each parameter, by name."""
    p = parameters()
    loss(p).backward()
    return {name: t.grad for name, t in p.items()}


def localize(faulty: Any) -> tuple[list[str], list[str], list[str]]:
    """With the faulty op planted: parameters whose gradient is wrong; ops of the steps that fail their own check; ops
    of all steps. If the engine raises instead (a gradient has the wrong shape): no parameters; the op of the message.
    """
    right = gradients()
    with planted(faulty):
        try:
            wrong = gradients()
            wrong_parameters = [name for name, g in right.items() if relative_error(wrong[name], g) > 1e-6]
            steps = loss(parameters()).backward_steps(until="bad")
            failed_ops = [step.op for step in steps]
        except (ValueError, TypeError) as error:
            stopped = next(note for note in error.__notes__ if note.startswith("in backward of "))
            wrong_parameters, failed_ops = [], [stopped.split()[3]]
    return wrong_parameters, failed_ops, [step.op for step in loss(parameters()).backward_steps()]


def table() -> str:
    """The table in Markdown: one row per faulty op."""
    rows = ["| op | the mistake | parameters with a wrong gradient | steps that fail their own check |",
            "| --- | --- | --- | --- |"]
    for faulty in OP_MISTAKES:
        wrong, bad, steps = localize(faulty)
        count = f"{len(wrong)} of {len(parameters())}" if wrong else "an error instead: wrong shape"
        mistake = " ".join((faulty.__doc__ or "").split())
        rows.append(f"| {faulty.name} | {mistake} | {count} | {len(bad)} of {len(steps)}: all {bad[0]} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
