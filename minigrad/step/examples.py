"""Examples of a backward: each function makes a Record.

Other packages register theirs as entry points of the group `minigrad.examples`: name = module:function.
"""
import functools
import importlib.metadata
import operator
from typing import Any, Callable

import numpy as np

import minigrad as mg
from minigrad import Tensor, functional as F, nn, optim
from minigrad.ops.op import OPS, input_names
from minigrad.step.backward_record import Record, record
from minigrad.step.puzzles import PUZZLES, puzzle

GROUP = "minigrad.examples"
WORD = "banana"


class Speller(nn.Module):
    """Predicts the next letter from the last one: an embedding, a residual hidden layer, a head."""

    def __init__(self, letters: int, width: int, hidden: int) -> None:
        options: dict[str, Any] = dict(rng=np.random.default_rng(0), dtype="float64")
        self.wte = nn.Embedding(letters, width, **options)
        self.fc = nn.Linear(width, hidden, **options)
        self.proj = nn.Linear(hidden, width, **options)
        self.head = nn.Linear(width, letters, **options)

    def forward(self, idx: Any, targets: Any) -> Tensor:
        x = self.wte(idx)                                                       # (T,) -> (T, C)
        h = F.gelu(self.fc(x))                                                  # (T, H)
        x = x + self.proj(h)                                                    # (T, C)
        return F.cross_entropy(self.head(x), targets)


def tiny() -> Record:
    """The third training step of a Speller, which predicts each letter of a word from the one before."""
    letters = sorted(set(WORD))
    idx = np.array([letters.index(letter) for letter in WORD])
    model = Speller(len(letters), 4, 7)
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(2):
        model(idx[:-1], idx[1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return record(model(idx[:-1], idx[1:]), tokens=WORD[:-1], vocabulary=letters, optimizer=optimizer,
                  title=f"predict the next letter of {WORD!r}, third training step")


def op(name: str) -> Record:
    """One op on the largest of its samples; attention on a causal one, as in a GPT. The loss is the sum of its outputs
    times fixed random numbers, as ones would make some gradients 0. KeyError for a name that no op has."""
    op_class = OPS[name]
    sample = max(op_class.samples, key=lambda s: (s.static.get("causal", False), sum(map(np.size, s.draw(0)))))
    inputs = [Tensor(x, requires_grad=True) if isinstance(x, np.ndarray) else x for x in sample.draw(0)]
    y = mg.tape.apply(op_class, *inputs, **sample.static)
    rng = np.random.default_rng(1)
    parts = [(out * Tensor(rng.normal(size=out.shape), dtype=out.dtype)).sum()
             for out in (y if type(y) is tuple else (y,))]
    named = {x: t for x, t in zip(input_names(op_class, len(inputs)), inputs) if isinstance(t, Tensor)}
    return record(functools.reduce(operator.add, parts), names=named,
                  title=f"{name}{sample}; the loss is a randomly weighted sum of its outputs")


def example(name: str) -> Record:
    """The example of this name: tiny, a puzzle, or another package's. ValueError, with all names, if there is none."""
    if name == "tiny":
        return tiny()
    if name in PUZZLES:
        return puzzle(name)
    registered = importlib.metadata.entry_points(group=GROUP)
    if name not in registered.names:
        known = ", ".join(sorted({"tiny", *PUZZLES, *registered.names}))
        hint = "" if registered else "; others are registered where the project is installed: pip install -e ."
        raise ValueError(f"there is no example {name!r}; there are: {known}{hint}")
    make: Callable[[], Record] = registered[name].load()
    return make()
