"""bugs: where the mistakes of minigrad/step/puzzles.py are."""
import functools
from typing import Any, Callable

from minigrad.grade.answer import call, refuse, results
from minigrad.grade.verdict import Wrong
from minigrad.step.puzzles import PUZZLES, Puzzle, puzzle
from minigrad.words import plural

record_of = functools.cache(puzzle)


def grade_bugs(mine: Callable[..., Any]) -> None:
    """mine(): for each puzzle the module, and the first array in it that is computed wrongly."""
    found = call(mine)
    if not isinstance(found, dict):
        refuse(found, "the result", f"should be a dict with {', '.join(PUZZLES)}")
    open_ones = [f"  {name}: {says}" for name, planted in PUZZLES.items()
                 if (says := _mistake(name, planted, found.get(name)))]
    if open_ones:
        solved = len(PUZZLES) - len(open_ones)
        raise Wrong("\n".join([f"  {solved} of {plural(len(PUZZLES), 'bug')} found", *open_ones]))


def _mistake(name: str, planted: Puzzle, answer: Any) -> str:
    """What to do next about an answer; "" if it is right."""
    if answer is None:
        return f"not found yet: python -m minigrad.step --example {name}"
    module, array = results(answer, f"{name}'s module", "its array")
    if not isinstance(module, str) or not isinstance(array, str):
        refuse(module if not isinstance(module, str) else array, f"the answer of {name}", "should be two strings")
    record = record_of(name)
    views = [view for view in record.views if view.step.node.module == module]
    if not views:
        return f"no step belongs to a module {module!r}; the first line of a screen names it, h.0.mlp for example"
    failing = [view for view in record.views if not view.report.ok]
    if module != planted.module:
        advice = ("no step fails its check, so every backward is right for its forward: look at what the forward "
                  "computes, `show NAME`, in each module" if not failing else
                  "its own check passes. A gradient that comes in is wrong as soon as one step before it was: `c bad` "
                  "goes on to a step that fails its own check")
        return f"not in {module}: {advice}"
    if array in planted.arrays:
        return ""
    if not failing:
        return f"{module} is the place, but {array} is as it should be: which array of its forward is not?"
    names = {name for view in views for line in view.backward.lines for name in line.values}
    if array not in names:
        return f"{module} is the place, but no line of its backward computes {array!r}: which is wrong first?"
    return f"{module} is the place, but the first wrong array is not {array}: compare each line with the formula"


EXERCISES = {"bugs": grade_bugs}
