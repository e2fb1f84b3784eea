"""A language whose entropy is known exactly: three-line animal fables from a finite-state source.

    ada the hare finds two small ripe plums.
    'are the plums sweet, ada the hare?'
    ada the hare shares the plums by the drums.

The name, the animal, the number and the thing of the first line are repeated in the next two, and the last word rhymes
with the thing. The source is unifilar: its state and the next character determine the next state. The probability of a
text from a known state is therefore the product along one path; that of a window which starts anywhere is a sum over
the states consistent with it. So the entropy rate, the losses of the best n-gram predictors and the best possible loss
on given windows are computed exactly; none is estimated.
"""
import functools
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np

from gpt.text.entropy import Source
from minigrad.random import bits, key

NAMES = "ada bela cleo dora elsa fina greta hugo ivo juno kato lola milo nora otto pia".split()
ANIMALS = "hare wolf fox hen toad mole goat crow".split()
RHYMES = {"plum": "drum", "pear": "bear", "bean": "queen", "nut": "hut", "fig": "twig", "leek": "creek",
          "horn": "thorn", "cake": "lake"}
ADJECTIVES = "ripe red small round brown sweet cold fine".split()
FINDS = "has finds hides keeps".split()
EATS = "eats sells drops shares".split()


class Memory(NamedTuple):
    """The choices made so far in a fable that later lines depend on."""
    name: str = ""
    animal: str = ""
    plural: bool = False
    thing: str = ""

    @property
    def things(self) -> str:
        return self.thing + "s" * self.plural

    @property
    def rhyme(self) -> str:
        return RHYMES[self.thing] + "s" * self.plural


class Choice(NamedTuple):
    """One alternative at a place in a fable: the words, their probability, and the next place and memory. All words of
    a place end with the same characters, so that none is a prefix of another."""
    words: str
    weight: float
    place: str
    memory: Memory


State = tuple[str, Memory]
START: State = ("name", Memory())


def name(m: Memory) -> Iterator[Choice]:
    for n in NAMES:
        yield Choice(f"{n} the ", 1, "animal", m._replace(name=n))


def animal(m: Memory) -> Iterator[Choice]:
    for a in ANIMALS:
        yield Choice(f"{a} ", 1, "finds", m._replace(animal=a))


def finds(m: Memory) -> Iterator[Choice]:
    for verb in FINDS:
        yield Choice(f"{verb} ", 1, "number", m)


def number(m: Memory) -> Iterator[Choice]:
    for word, plural in (("a", False), ("two", True)):
        yield Choice(f"{word} ", 1, "adjective", m._replace(plural=plural))


def thing(m: Memory, weight: float = 1.0) -> Iterator[Choice]:
    for t in RHYMES:
        with_thing = m._replace(thing=t)
        yield Choice(f"{with_thing.things}.\n", weight / len(RHYMES), "question", with_thing)


def adjective(m: Memory) -> Iterator[Choice]:
    for a in ADJECTIVES:
        yield Choice(f"{a} ", 0.75 / len(ADJECTIVES), "adjective_or_thing", m)
    yield from thing(m, 0.25)


def adjective_or_thing(m: Memory) -> Iterator[Choice]:
    for a in ADJECTIVES:
        yield Choice(f"{a} ", 0.3 / len(ADJECTIVES), "thing", m)
    yield from thing(m, 0.7)


def question(m: Memory) -> Iterator[Choice]:
    verb = "are" if m.plural else "is"
    for a in ADJECTIVES:
        yield Choice(f"'{verb} the {m.things} {a}, {m.name} the {m.animal}?'\n", 1, "end", m)


def end(m: Memory) -> Iterator[Choice]:
    for verb in EATS:
        yield Choice(f"{m.name} the {m.animal} {verb} the {m.things} by the {m.rhyme}.\n\n", 1, *START)


PLACES: dict[str, Callable[[Memory], Iterator[Choice]]] = {
    f.__name__: f for f in (name, animal, finds, number, thing, adjective, adjective_or_thing, question, end)
}


@functools.cache
def choices(state: State) -> tuple[tuple[Choice, ...], np.ndarray]:
    """The choices in a state, and their cumulative probabilities."""
    place, memory = state
    found = tuple(PLACES[place](memory))
    cumulated = np.cumsum([c.weight for c in found])
    return found, cumulated / cumulated[-1]


@functools.cache
def source() -> Source:
    """The language as a table of states, to compute its exact losses from. Takes seconds the first time."""
    def transitions(state: Any) -> list[tuple[str, float, Any]]:
        found, cumulated = choices(state)
        return [(c.words, p, (c.place, c.memory)) for c, p in zip(found, np.diff(cumulated, prepend=0.0).tolist())]
    return Source(START, transitions)


def text(n: int, seed: int) -> str:
    """The first n characters of an endless sequence of fables; which one depends on the seed alone."""
    state, length, drawn = START, 0, 0
    parts: list[str] = []
    draws: list[float] = []
    while length < n:
        if drawn == len(draws):
            draws = (bits(key(seed, step=len(parts)).fold("fables"), (1 << 14,)) / 2.0 ** 32).tolist()
            drawn = 0
        found, cumulated = choices(state)
        c = found[int(cumulated.searchsorted(draws[drawn], side="right"))]
        drawn += 1
        parts.append(c.words)
        length += len(c.words)
        state = c.place, c.memory
    return "".join(parts)[:n]


def is_grammatical(fable: str) -> bool:
    """Whether a text is one complete fable, with the empty line at its end, that this source can produce."""
    length, complete = _produced(fable)
    return complete and length == len(fable)


def grammatical_lines(fable: str) -> int:
    """How many lines of a text, counted from its first, this source can produce at the beginning of a fable."""
    return fable[:_produced(fable)[0]].count("\n")


def _produced(text: str) -> tuple[int, bool]:
    """(how many characters of a text, from its first, this source can produce, whether they are one complete fable)."""
    state, length = START, 0
    while length == 0 or state != START:
        c = next((c for c in choices(state)[0] if text.startswith(c.words, length)), None)
        if c is None:
            return length, False
        state, length = (c.place, c.memory), length + len(c.words)
    return length, True


def share_grammatical(sample: str) -> tuple[int, int]:
    """(number of grammatical fables, number of fables) in a sample, of those between two empty lines: the first and the
    last may be incomplete."""
    complete = sample.split("\n\n")[1:-1]
    return sum(is_grammatical(fable + "\n\n") for fable in complete), len(complete)
