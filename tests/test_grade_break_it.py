"""The exercise match_curves."""
import pytest

from gpt import lab
from minigrad.grade import check
from minigrad.grade.exercises.break_it import SEEN, lettered

RIGHT = lettered()
SWAPPED = {letter: name for letter, name in zip(RIGHT, [*RIGHT.values()][1:] + [*RIGHT.values()][:1])}


def test_the_right_names_are_right():
    assert check("match_curves", lambda: dict(RIGHT))
    assert check("match_curves", lambda: dict(reversed(RIGHT.items())))


def test_the_curves_are_of_mistakes_of_the_lab_in_another_order():
    assert SEEN.keys() <= lab.BREAKS.keys() and len(SEEN) == 6
    assert sorted(RIGHT.values()) == sorted(SEEN) and [*RIGHT.values()] != [*SEEN]


@pytest.mark.parametrize("letter", RIGHT)
def test_a_wrong_name_is_answered_by_what_is_to_be_seen_on_its_curve(letter):
    """Not by its name."""
    other = next(key for key in reversed(RIGHT) if key != letter)
    swapped = RIGHT | {letter: RIGHT[other], other: RIGHT[letter]}
    first = min(letter, other)
    verdict = check("match_curves", lambda: swapped)
    assert verdict.verdict == "wrong" and "4 of 6 are right" in verdict.explanation
    assert f"{first} is not {swapped[first]}: this curve {SEEN[RIGHT[first]]}" in verdict.explanation
    assert RIGHT[first] not in verdict.explanation


@pytest.mark.parametrize("given, words", [
    (SWAPPED, "0 of 6 are right"),
    (None, "is a `return` missing?"),
    ([*RIGHT.values()], "the result is a list, should be a dict"),
    ("no-mask", "the result is a str"),
    ({}, "no mistake is given for A, B, C, D, E, F"),
    (RIGHT | {"G": "no-mask"}, "there is no curve 'G'"),
    (RIGHT | {"A": "no-masc"}, "did you mean no-mask?"),
    (RIGHT | {"A": 3}, "A is 3, which is none of no-mask"),
    (RIGHT | {"A": ["no-mask"]}, "which is none of"),
    (dict.fromkeys(RIGHT, "no-mask"), "are both no-mask: each mistake has one curve"),
])
def test_an_answer_that_cannot_be_right_gets_a_sentence(given, words):
    verdict = check("match_curves", lambda: given)
    assert verdict.verdict == "wrong" and words in verdict.explanation
