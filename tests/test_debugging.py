"""The puzzles of docs/debugging.md: commands of the terminal that end at each bug, and the grader of the answers."""
import io
import re

import numpy as np
import pytest

from minigrad.grade import check
from minigrad.step.compare_gradients import compare
from minigrad.step.puzzles import PUZZLES, puzzle, small_gpt
from minigrad.step.terminal import Terminal

ANSWERS = {"bug1": ("h.1.ln_2", "shift"), "bug2": ("h.0.attn", "dk"), "bug3": ("h.1.attn", "P")}


@pytest.fixture(scope="module")
def puzzles():
    return {name: puzzle(name) for name in PUZZLES}


@pytest.fixture(autouse=True)
def a_terminal_of_100_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "50")


# ---- a reader who has only README and the book, at the terminal ----

TRANSCRIPTS = {     # the commands, and what each shows, as a pattern
    "bug1": [("c bad", r"── step \d+/\d+  layer_norm → h\.1\.ln_2 (.|\n)*shift = mean_feature\(dx̂\)"
                       r"(.|\n)*✗ dx: .* a term constant along axis 2(.|\n)*✗ identity violated"),
             ("why shift 0 0 0", r"shift\[0,0,0\] = .*dy\[0,0,"),       # of dy, where the formula has dxhat
             ("c bad", "bad stops at none of the remaining steps"),
             ("q", "")],
    "bug2": [("c bad", r"attention → h\.0\.attn (.|\n)*dk = dSᵀ q(.|\n)*dk = dS @ q(.|\n)*"
                       r"✓ dq(.|\n)*✗ dk: (.|\n)*✓ dv"),
             ("c bad", "bad stops at none of the remaining steps"),
             ("q", "")],
    "bug3": [("c bad", "bad stops at none of the remaining steps"),     # each backward is right for its forward
             ("j attention", r"attention → h\.1\.attn"),
             ("show P 0 0", r"0 a  0\.\d+ 0\.\d+ +0 +0 "),             # the first token sees the second
             ("j attention", r"attention → h\.0\.attn"),
             ("show P 0 0", r"0 a  1\.00? +0 +0 +0 "),
             ("f", r"S = −∞ where the key comes after the query"),
             ("q", "")],
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_these_commands_find_the_bug(name, puzzles):
    commands = [command for command, _ in TRANSCRIPTS[name]]
    assert len(commands) <= 12
    out = io.StringIO()
    Terminal(puzzles[name], 0, False, io.StringIO("".join(f"{c}\n" for c in commands)), out).cmdloop()
    screens = out.getvalue().split("(step) ")[1:]
    assert len(screens) == len(commands)
    for (command, pattern), screen in zip(TRANSCRIPTS[name], screens):
        assert screen.startswith(f"{command}\n") and re.search(pattern, screen), f"{command}: {screen}"


def test_one_step_fails_its_check_while_many_parameters_are_wrong(puzzles):
    for name in ("bug1", "bug2"):
        failing = [view.step.node.module for view in puzzles[name].views if not view.report.ok]
        wrong = [found.leaf for found in compare(puzzles[name]) if not found.right.all()]
        assert failing == [PUZZLES[name].module] and len(wrong) > 5


def test_a_later_token_changes_the_logits_of_an_earlier_one_only_in_bug3(puzzles):
    def leaks(planted):
        model, x, y, letters = small_gpt(planted)
        targets = np.where(np.arange(y.shape[1]) < 2, y, -100)          # the losses of the first two positions
        changed = np.where(np.arange(x.shape[1]) == 2, (x + 1) % len(letters), x)
        return model(x, targets).item() != model(changed, targets).item()

    assert not leaks(None)
    assert {name: leaks({p.module: p.op_class}) for name, p in PUZZLES.items()} == {
        "bug1": False, "bug2": False, "bug3": True}


def test_no_line_of_the_call_tells_a_planted_module_from_a_right_one(puzzles):
    for record in puzzles.values():
        for op in ("layer_norm", "attention"):
            assert len({view.created_at for view in record.views if view.op == op}) == 1
        assert not any(name.lower() in view.op for view in record.views for name in PUZZLES)


# ---- the exercise ----

def said(answer):
    verdict = check("bugs", lambda: answer)
    assert verdict.verdict == "wrong"
    return verdict.explanation


def test_the_modules_and_arrays_that_the_transcripts_end_at_are_right():
    assert check("bugs", lambda: ANSWERS)
    assert check("bugs", lambda: ANSWERS | {"bug3": ["h.1.attn", "S"]})


@pytest.mark.parametrize("wrong, words", [
    ({"bug1": ("h.0.ln_1", "dx")}, "bug1: not in h.0.ln_1: its own check passes"),
    ({"bug1": ("h.1.ln_2", "dx")}, "the first wrong array is not dx: compare each line with the formula"),
    ({"bug1": ("h.1.ln_2", "gamma")}, "no line of its backward computes 'gamma'"),
    ({"bug2": ("attn", "dk")}, "no step belongs to a module 'attn'"),
    ({"bug2": ("h.1.attn", "dk")}, "`c bad` goes on to a step that fails its own check"),
    ({"bug3": ("h.0.attn", "P")}, "no step fails its check, so every backward is right for its forward"),
    ({"bug3": ("h.1.attn", "q")}, "q is as it should be: which array of its forward is not?"),
    ({"bug2": None}, "bug2: not found yet: python -m minigrad.step --example bug2"),
])
def test_an_answer_that_is_wrong_in_one_bug_is_told_what_to_do_next(wrong, words):
    explanation = said(ANSWERS | wrong)
    assert explanation.startswith("  2 of 3 bugs found") and words in explanation


@pytest.mark.parametrize("answer, words", [
    (None, "the result is None: is a `return` missing?"), ([], "the result is a list, should be a dict"),
    ({}, "0 of 3 bugs found"), ({"bug1": "dx"}, "bug1's module"), ({"bug1": ("h.1.ln_2",)}, "it returns 1 value"),
    ({"bug1": (1, 2)}, "an int, should be two strings"), ({"bug1": float("nan")}, "the result is a float"),
])
def test_an_answer_of_another_form_is_told_its_form(answer, words):
    assert words in said(answer)
