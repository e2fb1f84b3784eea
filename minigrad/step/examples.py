"""Small backwards to walk through: each function makes a Record."""
import functools
import operator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import Tensor, functional as F, nn, optim
from minigrad.ops.op import OPS, input_names
from minigrad.step.record import Record, record

WORD = "banana"


class Speller(nn.Module):
    """Guesses the next letter from the last one: an embedding, a hidden layer beside a straight way past it, a head."""

    def __init__(self, letters: int, width: int, hidden: int) -> None:
        place: dict[str, Any] = dict(rng=np.random.default_rng(0), dtype="float64")
        self.wte = nn.Embedding(letters, width, **place)
        self.fc = nn.Linear(width, hidden, **place)
        self.proj = nn.Linear(hidden, width, **place)
        self.head = nn.Linear(width, letters, **place)

    def forward(self, idx: Any, targets: Any) -> Tensor:
        x = self.wte(idx)                                                       # (T,) -> (T, C)
        h = F.gelu(self.fc(x))                                                  # (T, H)
        x = x + self.proj(h)                                                    # (T, C)
        return F.cross_entropy(self.head(x), targets)


def tiny() -> Record:
    """The third training step of a speller: each letter of a word guesses the next one."""
    letters = sorted(set(WORD))
    idx = np.array([letters.index(letter) for letter in WORD])
    model = Speller(len(letters), 4, 7)
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(2):
        model(idx[:-1], idx[1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return record(model(idx[:-1], idx[1:]), tokens=list(WORD[:-1]), optimizer=optimizer,
                  title=f"each letter of {WORD!r} guesses the next one, third step of training")


def op(name: str) -> Record:
    """One op on the largest of its samples; attention causal, as in a GPT. The loss weighs its outputs with fixed
    random numbers, so that no gradient is special. KeyError for a name that no op has."""
    op_class = OPS[name]
    sample = max(op_class.samples, key=lambda s: (s.static.get("causal", False), sum(map(np.size, s.draw(0)))))
    inputs = [Tensor(x, requires_grad=True) if isinstance(x, np.ndarray) else x for x in sample.draw(0)]
    y = mg.tape.apply(op_class, *inputs, **sample.static)
    rng = np.random.default_rng(1)
    parts = [(out * Tensor(rng.normal(size=out.shape), dtype=out.dtype)).sum()
             for out in (y if type(y) is tuple else (y,))]
    named = {x: t for x, t in zip(input_names(op_class, len(inputs)), inputs) if isinstance(t, Tensor)}
    return record(functools.reduce(operator.add, parts), names=named,
                  title=f"{name}{sample}, with random weights for a loss")


def gpt() -> Record:
    """One training step of a small GPT on fables."""
    from gpt.step import example                # a command line may know the model
    return example()


EXAMPLES = {"tiny": tiny, "gpt": gpt}
