"""The fables and the exact losses of their best predictors, against brute force and against generated text."""
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minigrad as mg
from gpt.model import GPT, GPTConfig
from gpt.text import baselines, batches, fables
from gpt.text.entropy import Source
from gpt.text.tokenizer import CharTokenizer
from minigrad import functional as F, optim

FABLE = """ada the hare finds two small ripe plums.
'are the plums sweet, ada the hare?'
ada the hare shares the plums by the drums.

"""


@pytest.fixture(scope="module")
def source():
    return fables.source()


@pytest.fixture(scope="module")
def book():
    return fables.text(1_000_000, seed=3)


def tokens_of(source, text):
    return CharTokenizer(source.vocabulary).encode(text)


def rate_over_fables(text, values):
    """The mean of values (one per character of text) and its standard error: fables are independent and identically
    distributed, so it is a ratio of two means over fables."""
    ends = np.array([match.end() for match in re.finditer("\n\n", text)])
    sums, lengths = np.diff(np.append(0.0, np.cumsum(values))[ends]), np.diff(ends)
    rate = sums.sum() / lengths.sum()
    return rate, (sums - rate * lengths).std() / (lengths.mean() * np.sqrt(len(ends)))


# ---- the text ----

@given(st.integers(0, 40_000), st.integers(0, 40_000), st.integers(0, 2 ** 40))
@settings(max_examples=20, deadline=None)
def test_a_shorter_text_is_a_prefix_of_a_longer_one(n, m, seed):
    assert fables.text(max(n, m), seed)[:n] == fables.text(n, seed) and len(fables.text(n, seed)) == n


def test_the_text_depends_on_the_seed():
    assert fables.text(1000, 0) == fables.text(1000, 0) != fables.text(1000, 1)


def test_the_text_has_the_vocabulary_of_the_source_and_correct_articles_and_plurals(source, book):
    assert set(book) == set(source.vocabulary)
    assert not re.search(r"\ba [aeiou]", book) and re.search(r"\ba [a-z]", book)
    assert not re.search(r"\btwo [a-z ]*[^s]\.", book)
    assert max(map(len, book.split("\n"))) <= 80


def test_the_text_uses_every_word():
    words = set(re.findall("[a-z]+", fables.text(200_000, 0)))
    assert words >= {*fables.NAMES, *fables.ANIMALS, *fables.RHYMES, *fables.RHYMES.values(), *fables.ADJECTIVES,
                     *fables.FINDS, *fables.EATS}


# ---- grammar ----

def test_every_fable_of_a_text_is_grammatical(book):
    written = book[:200_000].split("\n\n")[:-1]
    assert len(written) > 1000 and all(fables.is_grammatical(fable + "\n\n") for fable in written)


def test_a_fable_with_one_replaced_word_is_grammatical_only_where_the_word_is_a_free_choice():
    """Each word of a fable replaced by each other word of the language: grammatical for another adjective, or another
    verb of the same line; not for a name, animal, number, thing, rhyme or form of "to be"."""
    words = set(re.findall("[a-z]+", fables.text(200_000, 0)))
    free = {"finds": fables.FINDS, "shares": fables.EATS} | dict.fromkeys(("small", "ripe", "sweet"), fables.ADJECTIVES)
    assert fables.is_grammatical(FABLE)
    for match in re.finditer("[a-z]+", FABLE):
        accepted = {word for word in words if fables.is_grammatical(FABLE[:match.start()] + word + FABLE[match.end():])}
        assert accepted == set(free.get(match[0], [match[0]])), match


@pytest.mark.parametrize("old, new", [
    ("'are", "'is"), ("two ", "a "), ("shares the plums", "shares the plum"), ("ada the hare?", "ada the wolf?"),
    ("\nada", "\nbela"), ("drums", "huts"), ("drums", "drum"), ("small ripe", "small ripe round"),
    (",", ""), ("sweet, ada", "sweet, bela"), ("\n\n", "\n"), ("\n\n", "\n\n\n"), ("\n\n", "\n\nada"),
    ("ada the hare f", "f"), (FABLE, ""), (FABLE, "\n\n"), (FABLE, FABLE + FABLE), (FABLE, FABLE.upper()),
])
def test_a_broken_fable_is_not_grammatical(old, new):
    assert old in FABLE and not fables.is_grammatical(FABLE.replace(old, new, 1))


def test_share_grammatical_counts_the_complete_fables_of_a_sample():
    broken = FABLE.replace("plums by", "plum by")
    assert fables.share_grammatical("ola.\n\n" + FABLE + broken + FABLE + "ada the ha") == (2, 3)
    assert fables.share_grammatical("ada the ha") == fables.share_grammatical("") == (0, 0)


# ---- the source and its text ----

def test_probabilities_of_each_state_sum_to_1_and_a_character_determines_the_next_state(source):
    assert np.allclose(np.bincount(source.source, source.p, minlength=source.n_states), 1.0, atol=1e-12)
    assert (source.p > 0.0).all() and len(set(zip(source.source, source.char))) == len(source.p)
    assert np.array_equal(np.lexsort((source.char, source.source)), np.arange(len(source.p)))


def test_the_stationary_distribution_is_invariant_under_a_transition(source):
    pi = source.stationary
    after = np.bincount(source.target, pi[source.source] * source.p, minlength=source.n_states)
    assert pi.sum() == pytest.approx(1.0, abs=1e-12) and (pi > 0.0).all() and np.abs(after - pi).max() < 1e-14


def test_frequencies_of_characters_agree_with_the_stationary_distribution(source, book):
    expected = np.bincount(source.char, source.stationary[source.source] * source.p)
    tokens = tokens_of(source, book)
    for char, p in enumerate(expected):
        found, error = rate_over_fables(book, tokens == char)
        assert abs(found - p) < 4 * error, source.vocabulary[char]


def test_the_loss_given_the_state_is_the_entropy_rate(source, book):
    text = book[:500_000]
    edges = dict(zip(zip(source.source.tolist(), source.char.tolist()), zip(source.target.tolist(), source.p.tolist())))
    state, p = 0, []
    for char in tokens_of(source, text).tolist():
        state, probability = edges[state, char]
        p.append(probability)
    found, error = rate_over_fables(text, -np.log(p))
    assert abs(found - source.entropy_rate()) < 4 * error < 0.01 * found


def test_ngram_losses_decrease_and_agree_with_counts(source, book):
    """Counts in a long text estimate the exact loss with a negative bias of at most (number of n-grams) / (length)."""
    exact = source.ngram_losses()
    assert all(np.diff(exact) < 0.0) and exact[-1] > source.entropy_rate()
    tokens, V = tokens_of(source, book).astype(np.int64), len(source.vocabulary)
    for n in (1, 2, 3):
        grams = sum(tokens[i:len(tokens) - n + 1 + i] * V ** (n - 1 - i) for i in range(n))
        kinds, which, counts = np.unique(grams, return_inverse=True, return_counts=True)
        _, context = np.unique(kinds // V, return_inverse=True)
        contexts = np.bincount(context, counts)
        losses = -np.log(counts / contexts[context])[which]
        found, error = rate_over_fables(book, np.append(np.zeros(n - 1), losses))
        assert abs(found - exact[n - 1]) < 4 * error + len(kinds) / len(tokens)
        assert error < 0.005


# ---- the best possible loss ----

@pytest.fixture(scope="module")
def fresh(source):
    """Windows (n, 65) of a text other than the book."""
    return batches.windows(tokens_of(source, fables.text(100_000, seed=4)), block_size=64)


def test_the_best_possible_loss_is_a_tenth_of_a_nat_below_the_best_ngram_loss(source, fresh):
    best = source.bayes_losses(fresh).mean()
    assert source.entropy_rate() + 0.05 < best < source.ngram_losses()[-1] - 0.1


def test_the_loss_of_counted_ngrams_is_above_the_best_possible_loss(source, fresh, book):
    counted = baselines.ngram_losses(tokens_of(source, book), fresh, len(source.vocabulary), max_order=5)
    assert min(counted) > source.bayes_losses(fresh).mean()


def test_the_best_possible_loss_falls_to_the_entropy_rate_along_a_window(source):
    losses = source.bayes_losses(batches.windows(tokens_of(source, fables.text(300_000, seed=5)), block_size=400))
    late = losses[:, 300:].mean(axis=1)                     # after two fables or more the state is almost certain
    assert abs(late.mean() - source.entropy_rate()) < 4 * late.std() / np.sqrt(len(late))
    assert losses[:, :16].mean() > losses[:, 16:64].mean() > losses[:, 64:256].mean()


# ---- small sources, against dense matrices ----

def rain(place):
    """A source of a dozen states, with words that share prefixes and a place that may follow itself."""
    return {
        "day": [("sun ", 0.5, "day"), ("snow ", 0.125, "cold"), ("rain ", 0.375, "wet")],
        "wet": [("and ", 0.7, "wet"), ("so.", 0.3, "day")],
        "cold": [("s", 0.25, "day"), ("an ", 0.75, "wet")],
    }[place]


def coin(place):
    """The golden mean: no two b in a row."""
    return {"any": [("a", 0.6, "any"), ("b", 0.4, "a")], "a": [("a", 1.0, "any")]}[place]


def dense(source):
    """Transition matrices of each character (V, S, S), and the stationary distribution (S,) from a linear solve."""
    step = np.zeros((len(source.vocabulary), source.n_states, source.n_states))
    step[source.char, source.source, source.target] = source.p
    flow = step.sum(axis=0).T - np.eye(source.n_states)
    flow[0] = 1.0
    return step, np.linalg.solve(flow, np.eye(source.n_states)[0])


SMALL = pytest.mark.parametrize("start, transitions", [("day", rain), ("any", coin)])


@SMALL
def test_the_stationary_distribution_and_the_entropy_rate_of_a_small_source(start, transitions):
    source = Source(start, transitions)
    step, pi = dense(source)
    assert np.abs(source.stationary - pi).max() < 1e-12
    rate = -sum(pi[s] * p * np.log(p) for s, p in zip(source.source, source.p))
    assert source.entropy_rate() == pytest.approx(rate, abs=1e-12)


def test_the_golden_mean_source_has_losses_computed_by_hand():
    """The state "any" has probability 5/7: the entropy rate is 5/7 H(0.4); b has probability 2/7."""
    source = Source("any", coin)
    H = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert source.vocabulary == "ab" and source.n_states == 2
    assert source.entropy_rate() == pytest.approx(5 / 7 * H(0.4), abs=1e-12)
    assert source.ngram_losses() == pytest.approx([H(2 / 7)] + 5 * [source.entropy_rate()], abs=1e-12)


@SMALL
def test_ngram_losses_are_differences_of_block_entropies(start, transitions):
    source = Source(start, transitions)
    step, pi = dense(source)
    beliefs, entropy = [pi], [0.0]
    for _ in range(6):
        beliefs = [b @ step[c] for b in beliefs for c in range(len(step)) if (b @ step[c]).any()]
        p = np.array([b.sum() for b in beliefs])
        entropy.append(-(p * np.log(p)).sum())
    assert np.allclose(source.ngram_losses(), np.diff(entropy), rtol=0, atol=1e-12)


@SMALL
@pytest.mark.parametrize("length", [2, 5, 6, 7, 8, 20])
def test_bayes_losses_equal_those_of_a_dense_forward_filter(start, transitions, length):
    """For windows that the source can produce, and others: infinite from the first impossible character."""
    source = Source(start, transitions)
    step, pi = dense(source)
    rng = np.random.default_rng(0)
    windows = rng.integers(0, len(step), (40, length))
    for window in windows[:30]:
        state = rng.choice(source.n_states, p=pi)
        for i in range(length):
            edge = rng.choice(np.flatnonzero(source.source == state), p=source.p[source.source == state])
            window[i], state = source.char[edge], source.target[edge]
    losses = source.bayes_losses(windows)
    assert losses.shape == (40, length - 1) and np.isfinite(losses[:30]).all()
    for window, found in zip(windows, losses):
        belief = pi
        for i, char in enumerate(window):
            after = belief @ step[char]
            if i:
                expected = -np.log(after.sum() / belief.sum()) if after.any() else np.inf
                assert found[i - 1] == pytest.approx(expected, abs=1e-12)
            belief = after
            if not after.any():
                assert np.isinf(found[i:]).all()
                break


def test_a_trained_model_is_not_below_the_best_possible_loss(source):
    """On new text, within 4 standard errors over windows. A model that is given its targets is below."""
    train, val = (tokens_of(source, fables.text(100_000, seed)) for seed in (1, 2))
    windows = batches.windows(val, 32, 400)
    best = source.bayes_losses(windows).mean(axis=1)

    def distance(view):
        """Mean of loss - best over the windows, in standard errors, after a short training on view(x, y)."""
        model = GPT(GPTConfig(32, len(source.vocabulary), n_layer=1, n_head=2, n_embd=32))
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(150):
            model.loss(*view(*batches.batch(train, 32, 16, 0, step))).backward()
            optimizer.step()
            optimizer.zero_grad()
        x, y = view(windows[:, :-1], windows[:, 1:])
        with mg.no_grad():
            losses = F.cross_entropy(model(x)[0], y, reduction="none").numpy().mean(axis=1)
        above = losses - best
        return above.mean() / (above.std() / np.sqrt(len(above)))

    assert distance(lambda x, y: (x, y)) > -4.0
    assert distance(lambda x, y: (y, y)) < -4.0


def test_the_lines_of_a_fable_count_as_grammatical_up_to_the_first_that_does_not_fit():
    fable = next(fable for fable in fables.text(4000, 3).split("\n\n") if fable.count("\n") == 2)
    first, second, third = fable.split("\n")
    assert fables.grammatical_lines(f"{first}\n{second}\n{third}\n\n") == 4         # the empty line counts
    assert fables.grammatical_lines(f"{first}\n{first}\n{third}\n\n") == 1
    assert fables.grammatical_lines(f"x{first}\n") == fables.grammatical_lines("") == 0
