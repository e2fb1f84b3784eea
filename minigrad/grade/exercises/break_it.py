"""match_curves: which mistake each of six training curves has."""
import difflib
import hashlib
from typing import Any, Callable

from minigrad.grade.answer import call, refuse
from minigrad.grade.verdict import must

SEEN = {        # what is to be seen on the curve of each mistake
    "no-mask": "goes along with the curve of the whole run, and falls below the best possible loss late: what it "
               "should predict is somewhere in its view, and must first be found",
    "mask-ahead": "falls below the best possible loss early, and not at once: one place in its view is what it should "
                  "predict",
    "y-is-x": "begins below ln V, before anything is learned, and is at 0 after a few steps",
    "no-zero-grad": "falls like the others at first and then ever slower: old gradients outweigh the new one",
    "no-residual": "never passes the line of counting single characters: no context reaches the head",
    "no-layer-norm": "stays at ln V at first, falls later than the others, and gets far in the end",
}


def lettered() -> dict[str, str]:
    """The mistakes of the curves A to F, in an order that cannot be read off."""
    order = sorted(SEEN, key=lambda name: hashlib.sha256(name.encode()).digest())
    return dict(zip("ABCDEF", order))


def grade_curves(mine: Callable[..., Any]) -> None:
    """mine(): the name of the mistake of each curve, a dict with the keys "A" to "F"."""
    given, right = call(mine), lettered()
    if not isinstance(given, dict):
        refuse(given, "the result", 'should be a dict: {"A": "no-mask", "B": ...}')
    missing = [letter for letter in right if letter not in given]
    must(not missing, f"no mistake is given for {', '.join(missing)}")
    extra = [key for key in given if key not in right]
    must(not extra, f"there is no curve {extra[0]!r}: they are A to F" if extra else "")
    for letter in right:
        name = given[letter]
        near = difflib.get_close_matches(str(name), SEEN, 1)
        must(isinstance(name, str) and name in SEEN, f"{letter} is {name!r}, which is none of "
             f"{', '.join(SEEN)}" + (f"; did you mean {near[0]}?" if near else ""))
    for name in SEEN:
        same = [letter for letter in right if given[letter] == name]
        must(len(same) < 2, f"{' and '.join(same)} are both {name}: each mistake has one curve")
    wrong = [letter for letter in right if given[letter] != right[letter]]
    must(not wrong, f"{len(right) - len(wrong)} of {len(right)} are right; {wrong[0]} is not {given[wrong[0]]}: this "
         f"curve {SEEN[right[wrong[0]]]}" if wrong else "")


EXERCISES = {"match_curves": grade_curves}
