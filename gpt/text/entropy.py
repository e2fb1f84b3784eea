"""Exact losses of the best predictors of a finite-state source: its entropy rate, the best n-gram predictors, and the
Bayes-optimal predictor on given windows.

The source is unifilar: a state and a character determine the next state (Shannon 1948, section 7). A belief, the
distribution over states given a context, is stored sparsely as (context, state, weight): of the many states few are
consistent with a context.
"""
import functools
from collections import defaultdict
from typing import Callable, Hashable

import numpy as np

ORDER = 6                               # of the n-grams, and of the contexts in the table

Transitions = Callable[[Hashable], list[tuple[str, float, Hashable]]]


class Source:
    """A finite-state source of characters as a table of edges.

    transitions(place) lists (words, probability, next place). The words of a place must be prefix-free, and start must
    be reachable from every place. The states are the places and the positions inside words. Edge e goes from state
    source[e] to state target[e] with the character char[e], an index into vocabulary, and probability p[e]; edges are
    sorted by state and character.
    """

    def __init__(self, start: Hashable, transitions: Transitions) -> None:
        number, places, self.n_states = {start: 0}, [start], 1
        edges: list[tuple[int, str, int]] = []
        p: list[float] = []
        for place in places:                    # grows as new places are found
            reached: dict[str, float] = defaultdict(float)      # prefix -> its probability in this place
            for words, probability, _ in transitions(place):
                for i in range(len(words) + 1):
                    reached[words[:i]] += probability
            states = {"": number[place]}
            for words, _, after in transitions(place):
                if after not in number:
                    number[after] = self.n_states
                    places.append(after)
                    self.n_states += 1
                for i, char in enumerate(words):
                    here, there = words[:i], words[:i + 1]
                    if there not in states:
                        states[there] = number[after] if there == words else self.n_states
                        self.n_states += there != words
                        edges.append((states[here], char, states[there]))
                        p.append(reached[there] / reached[here])
        self.vocabulary = "".join(sorted({char for _, char, _ in edges}))
        table = np.array([(source, self.vocabulary.index(char), target) for source, char, target in edges])
        order = np.lexsort((table[:, 1], table[:, 0]))
        self.source, self.char, self.target = table[order].T
        self.p = np.array(p)[order]
        self.first = np.searchsorted(self.source, np.arange(self.n_states + 1))     # of s: first[s] .. first[s + 1]
        self._edge = self.source * len(self.vocabulary) + self.char                 # sorted, for searchsorted

    @functools.cached_property
    def stationary(self) -> np.ndarray:
        """The stationary distribution over states (n_states,): the expected visits between two visits of start, divided
        by their sum."""
        mass = np.eye(1, self.n_states)[0]
        visits = np.zeros(self.n_states)
        while mass.sum() > 1e-20:
            visits += mass
            mass = np.bincount(self.target, mass[self.source] * self.p, minlength=self.n_states)
            mass[0] = 0.0                       # has returned to start
        return visits / visits.sum()

    def entropy_rate(self) -> float:
        """The entropy rate in nats per character: the loss of the optimal predictor with unlimited context."""
        return float(-(self.stationary[self.source] * self.p * np.log(self.p)).sum())

    @functools.cached_property
    def _contexts(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For n = 0 .. 6: the states consistent with each text of n characters, as arrays (code, state, weight) sorted
        by code, the number with the text's characters as digits; the weights of a text sum to its probability."""
        V = len(self.vocabulary)
        found = [(np.zeros(self.n_states, np.int64), np.arange(self.n_states), self.stationary)]
        for _ in range(ORDER):
            code, state, weight = found[-1]
            which, edge = _ranges(self.first[state], self.first[state + 1])
            pair = (code[which] * V + self.char[edge]) * self.n_states + self.target[edge]
            pairs, merged = np.unique(pair, return_inverse=True)
            found.append((pairs // self.n_states, pairs % self.n_states,
                          np.bincount(merged, weight[which] * self.p[edge])))
        return found

    def ngram_losses(self) -> list[float]:
        """For n = 1 .. 6: the expected loss of the best predictor that is given the n - 1 characters before, in nats
        per character. Differences of block entropies."""
        entropy = []
        for code, _, weight in self._contexts:
            p = np.add.reduceat(weight, np.flatnonzero(np.diff(code, prepend=-1)))
            entropy.append(float(-(p * np.log(p)).sum()))
        return list(np.diff(entropy))

    def bayes_losses(self, windows: np.ndarray) -> np.ndarray:
        """The loss in nats of the Bayes-optimal predictor for each character of windows (n, T + 1) but the first, given
        the characters before it in its window  ->  (n, T). The predictor knows the source and filters its belief about
        the state; a window may start anywhere. Infinite where the source cannot produce the text."""
        n, length = windows.shape
        V, known = len(self.vocabulary), min(ORDER, length)
        p = np.zeros((n, length))               # probability of each window's first i + 1 characters
        code = np.zeros(n, np.int64)
        for i in range(known):
            code = code * V + windows[:, i]
            codes, _, weights = self._contexts[i + 1]
            total = np.append(0.0, np.cumsum(weights))
            p[:, i] = total[np.searchsorted(codes, code, "right")] - total[np.searchsorted(codes, code)]
        codes, states, weights = self._contexts[known]
        window, fits = _ranges(np.searchsorted(codes, code), np.searchsorted(codes, code, "right"))
        state, weight = states[fits], weights[fits]
        for i in range(known, length):
            wanted = state * V + windows[window, i]
            edge = np.searchsorted(self._edge, wanted).clip(max=len(self._edge) - 1)
            possible = self._edge[edge] == wanted
            edge, window = edge[possible], window[possible]
            state, weight = self.target[edge], weight[possible] * self.p[edge]
            p[:, i] = np.bincount(window, weight, minlength=n)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(p[:, 1:] > 0.0, -np.diff(np.log(p), axis=1), np.inf)


def _ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges starts[i] .. ends[i] concatenated, as (i of each number's range, the numbers)."""
    counts = ends - starts
    which = np.repeat(np.arange(len(starts)), counts)
    return which, np.arange(len(which)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
