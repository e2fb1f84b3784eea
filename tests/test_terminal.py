"""The stepper in a terminal: each command compared with the Record that it shows, wrong commands, heat maps."""
import io
import re
import signal
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import gpt.step
from minigrad import Tensor, functional as F
from minigrad.ops.op import OPS
from minigrad.step import examples, record, replay
from minigrad.step.heatmap import LEGENDS, MASK, TALLEST, clipped, columns, heatmap, padded, side_by_side, summary
from minigrad.step.terminal import COMMANDS, Terminal, has_color
from minigrad.step.terminal_questions import target
from minigrad.step.why import largest_entries


@pytest.fixture(scope="module")
def tiny():
    return examples.tiny()


@pytest.fixture(autouse=True)
def a_terminal_of_100_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "50")


def walk(record, *commands, color=False, start=0):
    """What the terminal prints for these commands, without its first screen."""
    out = io.StringIO()
    terminal = Terminal(record, start, color, io.StringIO("".join(f"{c}\n" for c in commands)), out)
    terminal.cmdloop()
    return out.getvalue().split("(step) ", 1)[1]


def unwrapped(text):
    """The text without the line breaks that made it fit."""
    return re.sub(r"\n +", " ", text)


def numbers(text):
    return [float(x) for x in re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e[-+]\d+)?(?![\w.])", text)]


def captioned(name, array):
    return f"{name} {'x'.join(map(str, array.shape))}  {'all ' if (array == array.flat[0]).all() else summary(array)}"


def close(a, b, digits=3e-4):
    return np.allclose(a, b, rtol=digits, atol=1e-12)


class Stream(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self.tty = tty

    def isatty(self):
        return self.tty


# ---- one screen ----

def test_a_screen_shows_the_step_of_the_record(tiny):
    for v in tiny.views:
        said = walk(tiny, f"j {v.index}", "q")
        head = next(line for line in said.splitlines() if line.startswith("── step"))
        assert f"step {v.index}/{len(tiny.views) - 1}" in head and v.op in head and v.name in head
        assert v.created_at in head
        assert all(line in said for line in v.backward.source.splitlines())
        assert all(f"{name} {'x'.join(map(str, a.shape))}" in said for name, a in v.saved.items() if np.ndim(a))
        for x in v.inputs:
            if x.gradient is not None:
                assert captioned(f"d{x.name}", x.gradient) in said
                assert f"to {x.label}" in said and f"✓ d{x.name}: " in said
                verdict = next(line for line in said.splitlines() if f"✓ d{x.name}: " in line)
                assert ("; added to an earlier gradient" in verdict) == (x.earlier is not None)
                assert x.earlier is None or verdict.endswith(summary(x.earlier))
        assert f"✓ identity verified, residual {v.identity.residual:.0e}: {v.identity.words}" in unwrapped(said)


def test_each_line_is_shown_with_the_values_that_it_computes(tiny):
    for v in tiny.views:
        said = walk(tiny, f"j {v.index}", *["l"] * len(v.backward.lines), "q").split("(step) ")[1:]
        for line, screen in zip(v.backward.lines, said):
            source = v.backward.source.splitlines()[line.first:line.last + 1]
            shown = [row for row in screen.splitlines() if row.startswith("→ ")]
            assert [row[5:] for row in shown] == source and int(shown[0][1:4]) == v.backward.lines.index(line) + 1
            for name, value in line.values.items():
                assert captioned(name, value) in screen if np.ndim(value) else f"{name} = " in screen
        assert "✓" in said[-2] and not any("✓" in screen for screen in said[:-2])


def test_after_the_last_line_comes_the_next_op(tiny):
    lines = len(tiny.views[0].backward.lines)
    assert "── step 1/6" in walk(tiny, *["l"] * (lines + 1), "q")
    assert "── step 1/6" not in walk(tiny, *["l"] * lines, "q")


def test_while_a_debugger_uses_the_tracer_an_op_is_one_screen():
    sys.settrace(lambda *_: None)
    try:
        said = walk(examples.op("exp"), "j 1", "l", "q")
    finally:
        sys.settrace(None)
    assert "! a debugger or a coverage tool uses" in said and "── step 2/2  exp" in said and "✓ dx: " in said


def test_the_gradient_of_an_output_that_nothing_used_comes_from_no_step():
    x = Tensor(np.arange(6.0), requires_grad=True)
    said = walk(record((F.split(x, 2)[0] * 3.0).sum(), names={"x": x}), "j split", "q")
    assert "of an output that nothing used" in said and "from step 1" in said


def test_the_kernel_that_ran_is_named(tiny):
    it = examples.op("exp")
    it.views[2].kernel, it.views[2].difference = "kernels.Exp", 3e-7
    note = "! the fast kernel kernels.Exp ran; this reference code gives the same to 3.0e-07"
    assert note in walk(it, "j exp", "q")


def test_an_empty_line_repeats_the_last_command(tiny):
    assert [f"step {k}/6" in walk(tiny, "n", "", "", "q") for k in (1, 2, 3, 4)] == [True, True, True, False]


def test_forward_shows_the_forward_and_reverses_the_direction(tiny):
    v = tiny.views[4]
    screens = walk(tiny, "j 4", "f", *["l"] * len(v.forward.lines), "l", "f", "n", "q").split("(step) ")
    assert all(line in screens[1] for line in v.forward.source.splitlines()) and "── step 4/6" in screens[1]
    assert f"y {'x'.join(map(str, v.outputs['y'].shape))}  {summary(v.outputs['y'])}" in screens[1]
    assert "── step 3/6" in screens[-4] and "forward ─" in screens[-4]      # after the last line: towards the loss
    assert "── step 3/6" in screens[-3] and "forward ─" not in screens[-3]
    assert "── step 4/6" in screens[-2]


@pytest.mark.parametrize("command, text", [
    ("p", "there is no op beyond the loss"), ("j 6\nn", "there is no op beyond the first op")])
def test_moving_beyond_an_end_is_refused(tiny, command, text):
    assert text in walk(tiny, command, "q")


def test_no_line_is_wider_than_the_terminal(tiny, monkeypatch):
    for width in (40, 60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        for color in (False, True):
            said = walk(tiny, "n", "l", "w", "show", "show w", "why dw", "nudge w", "check", "o", "o w", "f", "h",
                        "oops", "b", "q", color=color)
            assert max(map(columns, said.splitlines())) <= width


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_can_be_walked(name):
    it = examples.op(name)
    v = it.views[-1]
    assert v.op == name and v.report.ok
    lines = len(v.backward.lines) + len(v.forward.lines)
    first = next(x for x in v.inputs if x.gradient is not None)
    said = walk(it, *["l"] * len(v.backward.lines), "f", *["l"] * len(v.forward.lines), f"why d{first.name}",
                f"nudge {first.name}", "check full", "w", "q", start=len(it.views) - 1)
    assert said.count(f"  {name}  minigrad/") == lines + 1
    assert "✗" not in said and "cannot" not in said and "ratio" in said


# ---- arrays by name ----

def test_show_draws_any_array_of_the_step(tiny):
    v = tiny.views[3]
    every = {"w": v.inputs[1].value, "y": v.outputs["y"], "x2": v.saved["x2"], "dy": v.dys["dy"],
             "dw": v.inputs[1].gradient, "proj.weight": v.inputs[1].value}
    for name, array in every.items():
        said = walk(tiny, "j 3", f"show {name}", "q").split("(step) ")[1]
        assert captioned(name, array) in said
        cells = [line.split()[-array.shape[1]:] for line in said.splitlines()[4:4 + len(array)]]
        assert np.abs(np.array(cells, dtype=float) - array).max() <= 0.01 * np.abs(array).max()


def test_show_takes_the_first_indices_of_an_array():
    it = gpt.step.example()
    i = next(v.index for v in it.views if v.op == "attention")
    P = it.views[i].saved["P"]
    T = P.shape[-1]
    for command in ("show P 0 2", "show P[0, 2]", "show P 0 -2"):
        said = walk(it, f"j {i}", command, "q").split("(step) ")[1]
        assert re.search(rf"P\[0,-?2\] {T}x{T}  max 1", said)
        rows = [line.rstrip() for line in said.splitlines() if re.match(r"  [ \d]\d .. [^ ]", line)]
        rows = [row[8:] for row in rows]
        assert [len(row) for row in rows] == [2 * (k + 1) for k in range(T)]                # causal
    assert f"P[0,2,3,1] = {P[0, 2, 3, 1]:.4g}" in walk(it, f"j {i}", "show P 0 2 3 1", "q")


def test_show_without_a_name_lists_all_arrays_with_their_origin(tiny):
    said = walk(tiny, "j 3", "l", "l", "show", "q").split("(step) ")[3]
    assert re.search(r"^  dx +5x7 .* computed by line 2$", said, re.MULTILINE)
    assert re.search(r"^  w +7x4 .* saved by the forward$", said, re.MULTILINE)
    assert re.search(r"^  dw +7x4 .* gradient of proj.weight$", said, re.MULTILINE)


def test_a_line_is_shown_with_the_arrays_that_it_reads(tiny):
    screen = walk(tiny, "j 3", "l", "l", "q").split("(step) ")[2]
    assert re.search(r"  dx 5x7  max .* dy 5x4  max .* w 7x4  max", screen, re.DOTALL)


# ---- a screen that is redrawn ----

@pytest.fixture(scope="module")
def small_gpt():
    return gpt.step.example()


def screens(record, *commands, size=(80, 24), monkeypatch, color=False, start=0):
    """The screens of an interactive terminal, each as a list of lines, the prompt last."""
    monkeypatch.setenv("COLUMNS", str(size[0]))
    monkeypatch.setenv("LINES", str(size[1]))
    out = io.StringIO()
    terminal = Terminal(record, start, color, io.StringIO("".join(f"{c}\n" for c in (*commands, "q"))), out)
    terminal.redraws = True
    terminal.cmdloop()
    return [re.sub(r"\x1b\[[KJ]", "", screen).split("\n") for screen in out.getvalue().split("\x1b[H")[1:]]


@pytest.mark.parametrize("example, size, color", [
    ("tiny", (80, 24), False), ("tiny", (80, 24), True), ("tiny", (120, 40), False), ("tiny", (40, 24), False),
    ("tiny", (80, 10), False), ("tiny", (40, 8), True), ("small_gpt", (80, 24), False), ("small_gpt", (40, 8), True)])
def test_every_screen_of_every_line_fits_and_shows_the_current_line(example, size, color, request, monkeypatch):
    record = request.getfixturevalue(example)
    steps = record.views if size == (80, 24) else record.views[::3]
    for direction in ("backward", "forward"):
        commands, expected = ["f"] * (direction == "forward"), [None] * (1 + (direction == "forward"))
        for v in steps:
            listing = getattr(v, direction)
            commands += [f"j {v.index}", *["l"] * len(listing.lines)]
            expected += [None, *((i, listing.source.splitlines()[x.first]) for i, x in enumerate(listing.lines, 1))]
        drawn = screens(record, *commands, size=size, monkeypatch=monkeypatch, color=color)
        for screen, line in zip(drawn, expected, strict=True):
            assert len(screen) == size[1] and max(map(columns, screen)) <= size[0]
            assert screen[-1] == "(step) " or screen is drawn[0]
            if line:
                plain = (re.sub("\x1b\\[[^m]*m", "", row) for row in screen)
                shown = next(row for row in plain if row.startswith("→"))
                assert int(shown[1:4]) == line[0] and shown[5:].strip()
                assert "".join(line[1].split()).startswith("".join(shown[5:].split()))


def test_the_source_stands_at_the_same_place_while_its_lines_are_walked(small_gpt, monkeypatch):
    drawn = screens(small_gpt, "j attention", *["l"] * 8, monkeypatch=monkeypatch)[2:]
    gutters = [[line[1:5] for line in screen[1:10]] for screen in drawn]
    first = [next(i for i, line in enumerate(screen) if re.match(r"[→⋮ ] +\d", line)) for screen in drawn]
    assert len(gutters) == 8 and max(first) - min(first) <= 1


def test_of_a_long_formula_the_equations_of_the_current_line_are_shown(monkeypatch):
    record = examples.op("adamw")
    lines = record.views[-1].forward.lines
    drawn = screens(record, "f", *["l"] * len(lines), size=(80, 12), monkeypatch=monkeypatch, start=8)[2:]
    for line, screen in zip(lines, drawn, strict=True):
        for name in {"m_new", "v_new", "r", "u"} & set(line.values):
            assert f"{name} = " in screen[1]


def test_more_is_shown_on_a_larger_screen(small_gpt, monkeypatch):
    commands = ["j attention", *["l"] * 5]
    small, large = (screens(small_gpt, *commands, size=size, monkeypatch=monkeypatch)[-1]
                    for size in ((80, 24), (200, 60)))
    assert "of 4 panels" in "".join(small) or "1/4" in "".join(small)
    assert "of 4 panels" not in "".join(large) and "1/4" not in "".join(large)
    assert all(line in "\n".join(large) for line in next(
        v for v in small_gpt.views if v.op == "attention").backward.source.splitlines())


@pytest.mark.parametrize("color", [False, True])
def test_the_legend_stands_above_the_prompt(tiny, monkeypatch, color):
    for screen in screens(tiny, "l", "h", "w", "oops", monkeypatch=monkeypatch, color=color):
        assert LEGENDS[color] in screen[-2]


def test_short_answers_stand_below_the_arrays_and_long_ones_in_their_place(tiny, monkeypatch):
    _, wrong, terms = screens(tiny, "oops", "j 3\nwhy dw 0 0", monkeypatch=monkeypatch)[:3]
    assert "no command 'oops'" in wrong[-3] and any("dlogits 5x3" in line for line in wrong)
    last = screens(tiny, "j 3", "l", "check", monkeypatch=monkeypatch)[-1]
    assert any(line.startswith("→  1") for line in last) and any("finite differences" in line for line in last)


def test_an_answer_longer_than_the_screen_is_shown_in_pages(tiny, monkeypatch):
    text = [line for line in walk(tiny, "h", "q").split("(step) ")[0].splitlines()[1:-2]]
    drawn = screens(tiny, "h", "", "", "", "", "", size=(100, 10), monkeypatch=monkeypatch)
    pages = []
    for screen in drawn[1:]:
        pages += [line for line in screen[1:-1] if line]
        if screen[-1] == "(step) ":
            break
        assert screen[-1] == "(more: Enter) "
    assert pages == text
    assert screens(tiny, "h", "n", size=(100, 10), monkeypatch=monkeypatch)[-1][0].startswith("── step 1/6")


def test_help_fits_a_screen(tiny, monkeypatch):
    assert screens(tiny, "h", monkeypatch=monkeypatch)[-1][-1] == "(step) "


def test_nothing_but_ascii_is_written_where_the_encoding_has_nothing_else(small_gpt, tmp_path):
    for color in (False, True):
        path = tmp_path / f"{color}.txt"
        with open(path, "w", encoding="ascii") as out:
            commands = "j attention\nl\nl\nw\nshow\nshow P\nwhy dq\no\nnudge wpe.weight\nh\nj ln_f\nq\n"
            Terminal(small_gpt, 0, color, io.StringIO(commands), out).cmdloop()
        said = path.read_text()
        assert "ok dq: gradient check passed" in said
        assert "dS = P * (dP - sum_key(dP * P)) / sqrt(D)" in said


@pytest.mark.parametrize("stdin, stdout, term, redraws", [
    (True, True, "xterm", True), (True, True, "dumb", False), (False, True, "xterm", False),
    (True, False, "xterm", False)])
def test_the_screen_is_redrawn_in_interactive_terminals_that_can_move_the_cursor(
        tiny, monkeypatch, stdin, stdout, term, redraws):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdin", Stream(stdin))
    assert Terminal(tiny, stdout=Stream(stdout)).redraws is redraws


def test_ctrl_c_leads_back_to_the_prompt_and_ctrl_d_leaves_the_last_screen(tiny, monkeypatch):
    typed = iter(["n", KeyboardInterrupt, "h", KeyboardInterrupt, "l", EOFError])

    def type_next(prompt):
        key = next(typed)
        if isinstance(key, str):
            return key
        raise key

    monkeypatch.setattr("builtins.input", type_next)
    handler = signal.getsignal(signal.SIGINT)
    terminal = Terminal(tiny, 0, False, io.StringIO(), io.StringIO())
    terminal.use_rawinput, terminal.redraws, terminal.completekey = True, True, None
    terminal.cmdloop()
    _, on_screen, left = re.split(r"\x1b\[\?1049[hl]", terminal.stdout.getvalue())
    drawn = on_screen.split("\x1b[H")[1:]
    assert len(drawn) == 6 and "── step 1/6" in drawn[2] and "n             the next op" not in drawn[4]
    assert left.splitlines() == terminal.screen and any(line.startswith("→  1") for line in terminal.screen)
    assert signal.getsignal(signal.SIGINT) is handler


# ---- the keys ----

def test_tab_completes_commands_arrays_steps_and_leaves(tiny):
    terminal = Terminal(tiny, 3, False, io.StringIO(), io.StringIO())
    complete = lambda text, line: terminal.completedefault(text, line, 0, 0)
    assert terminal.completenames("n") == ["next ", "nudge "] and len(terminal.completenames("")) == len(COMMANDS)
    assert complete("d", "show d") == ["db", "dw", "dx", "dy"] == complete("d", "s d")
    assert complete("fc", "j fc") == ["fc", "fc.bias", "fc.weight"] and complete("ba", "break ba") == ["bad"]
    assert complete("proj.w", "nudge proj.w") == ["proj.weight"] and complete("", "check ") == ["full"]
    assert complete("", "quit ") == []


@pytest.mark.parametrize("text, found", [
    ("w[0,2]", ("w", (0, 2), None)), ("w 0 2", ("w", (0, 2), None)), ("w 0, 2", ("w", (0, 2), None)),
    ("w [0, 2] 0.1", ("w", (0, 2), 0.1)), ("w 0 2 0.1", ("w", (0, 2), 0.1)), ("w[0,2] 1", ("w", (0, 2), 1.0)),
    ("w 0 -1 -1e-3", ("w", (0, -1), -1e-3)), ("w", ("w", None, None)), ("w 0.5", ("w", None, 0.5)),
    ("earlier dw 1", ("earlier dw", (1,), None)), ("", ("", None, None))])
def test_an_index_is_read_in_brackets_and_without_them(text, found):
    assert target(text) == found


# ---- moving ----

def test_breakpoints_can_be_set_listed_reached_and_cleared(tiny):
    linear = [v.index for v in tiny.views if v.op == "linear"]
    said = walk(tiny, "b linear", "c", "c", "c", "b wte.weight", "c", "b clear linear", "b", "b clear", "b",
                "q").split("(step) ")
    assert f"linear: step {', '.join(map(str, linear))}" in said[0]
    assert [f"── step {k}/" in screen for k, screen in zip(linear, said[1:])] == [True] * 3
    assert "── step 6/6" in said[5] and "wte.weight: step 6" in said[6] and "linear" not in said[7]
    assert "no breakpoints" in said[9]


def test_continue_without_a_breakpoint_goes_to_the_end(tiny):
    assert "── step 6/6" in walk(tiny, "c", "q") and "stops at none" in walk(tiny, "c bad", "q")


def test_a_breakpoint_may_be_a_norm_a_module_or_a_parameter(tiny):
    norms = {v.index: max(np.linalg.norm(x.gradient) for x in v.inputs if x.gradient is not None) for v in tiny.views}
    bound = sorted(norms.values())[-2]
    assert f"norm > {bound}: step {max(norms, key=norms.get)}\n" in walk(tiny, f"b norm > {bound}", "q")
    assert "fc: step 5\n" in walk(tiny, "b fc", "q") and "fc.bias: step 5\n" in walk(tiny, "b fc.bias", "q")


def test_bad_stops_at_the_op_whose_gradient_is_wrong():
    x = Tensor(np.arange(1.0, 6.0).reshape(1, 5), requires_grad=True)
    it = record(F.tanh(F.exp(x * 0.1)).sum(), names={"x": x})
    it.views[1].report.rows[0] = it.views[1].report.rows[0]._replace(detail="half of what it should be")
    said = walk(it, "c bad", "w", "q")
    assert f"── step 1/3  {it.views[1].op}" in said and "✗ dx: half of what it should be" in said


def test_nan_leads_to_the_line_that_made_it():
    x = Tensor([1.0, 0.0, 4.0], requires_grad=True)
    with np.errstate(all="ignore"):
        it = record((F.sqrt(x) * 2.0).sum(), names={"x": x})
    said = walk(it, "c nan", "q")
    assert "── step 2/2  sqrt" in said and "1 NaN or infinite!" in said and " inf!" in said
    assert it.views[2].bad_origin and f"! {it.views[2].bad_origin}" in unwrapped(said)


def test_why_shows_the_term_that_makes_a_sum_nan_first_and_marks_it_alone():
    x, w = Tensor([[1.0, np.nan], [2.0, 3.0]]), Tensor(np.ones((2, 1)), requires_grad=True)
    said = walk(record((x @ w).sum(), names={"w": w}), "n", "why db 1 0", "q")
    rows = [line.strip() for line in said.splitlines() if "dy[0,0]" in line or "dy[1,0]" in line]
    assert "nan" in rows[-2] and "a[0,1]" in rows[-2] and rows[-2].endswith("█" * 10)
    assert "a[1,1]" in rows[-1] and "█" not in rows[-1]
    assert "✓ all 2 terms sum to nan, recorded nan" in said


def test_jump_takes_numbers_and_names(tiny):
    said = walk(tiny, "j 4", "j fc", "j linear", "q").split("(step) ")
    assert ["── step 4/6" in said[0], "── step 5/6" in said[1], "── step 1/6" in said[2]] == [True] * 3


def test_where_lists_the_steps_and_where_they_send_gradients(tiny):
    said = walk(tiny, "j 5", "w", "q").split("(step) ")[1]
    rows = [line for line in said.splitlines() if re.match(r"[ ✓→] +\d", line)]
    assert [row[0] for row in rows] == ["✓"] * 5 + ["→", " "]
    assert all(v.op in row and v.name in row for v, row in zip(tiny.views, rows))
    assert rows[2].endswith("to step 6, step 3") and rows[5].endswith("to step 6, weight, bias")


# ---- questions ----

def test_why_gives_the_terms_of_the_record(tiny):
    why = tiny.why(3, "dw", (2, 1))
    said = walk(tiny, "j 3", "why dw 2 1", "q").split("(step) ")[1]
    assert said == walk(tiny, "j 3", "why dw[2,1]", "q").split("(step) ")[1].replace("[2,1]", " 2 1", 1)
    assert why.equation in said and f"dw[2,1] = {why.value:.6g}" in said
    for term in why.terms:
        row = next(line for line in said.splitlines() if f"{term.factors[0].text} {term.factors[0].value:.4g}" in line)
        assert close(numbers(row)[-1:], [term.product])
    assert close(numbers(next(line for line in said.splitlines() if "✓" in line))[-2:], [why.total, why.value], 1e-5)


def test_why_without_an_index_explains_the_largest_entry_of_an_array_or_of_a_parameters_gradient(tiny):
    at = largest_entries(tiny.views[3].inputs[1].gradient, 1)[0]
    for name in ("dw", "proj.weight"):
        assert f"dw[{at[0]},{at[1]}] = " in walk(tiny, "j 3", f"why {name}", "q")
    at = largest_entries(tiny.views[3].saved["w"], 1)[0]
    assert f"w[{at[0]},{at[1]}] = " in walk(tiny, "j 3", "why w", "q")


def test_why_follows_the_elements_of_an_answer_to_the_loss(tiny):
    said = walk(tiny, "j 6", "why dw 1 0", *["why 1"] * 30, "q")
    asked = [int(k) for k in re.findall(r"in the backward of step (\d+),", said)]
    assert asked[0] == 6 and asked[-1] == 0 and asked == sorted(asked, reverse=True)
    assert "is the sum of the gradients from the 2 uses of the output" in said
    assert "line 6" in said and "there is no element 1" not in said.split("p[")[0]


def test_nudge_shows_the_nudge_of_the_record(tiny):
    n = tiny.nudge("fc.weight", (1, 2), 0.01)
    said = walk(tiny, "nudge fc.weight[1,2] 0.01", "q")
    assert close(numbers(said.splitlines()[-2]), [n.delta, n.predicted, n.actual, n.actual / n.predicted], 1e-5)


def test_the_ratio_goes_to_1_as_nudges_shrink(tiny):
    said = walk(tiny, "j 5", "nudge w", "q").split("(step) ")[1]
    ratios = [float(line.split()[-1]) for line in said.splitlines()[3:8]]
    assert len(ratios) == 5 and np.all(np.diff(np.abs(np.array(ratios) - 1.0)) <= 1e-6)


def test_check_lists_every_row(tiny):
    rows = tiny.views[1].report.rows
    said = walk(tiny, "j 1", "check", "check full", "q").split("(step) ")
    for row in rows:
        assert f"✓ {row.of:12} {row.check:20} {row.error:8.1e}" in said[1]
    assert said[2].count("✓") == len(rows)


def test_the_optimizer_of_a_very_large_model_is_shown_without_the_change_of_the_loss(monkeypatch):
    monkeypatch.setattr(replay, "MOST_RERUN", 100)
    said = walk(examples.example("gpt"), "o", "o wte.weight[1,2]", "q")
    assert re.search(r"wte.weight +\S+ +\S+ +-\n", said) and "not computed again with other weights" in unwrapped(said)
    assert "wte.weight[1,2] moves by" in said and "m_new = " in said and "g stays as recorded" in said


def test_the_optimizers_step_is_the_sum_of_its_updates(tiny):
    said = walk(tiny, "o", "q").splitlines()
    total = next(line for line in said if "all at once" in line)
    assert close(numbers(total)[-2:], [tiny.optimizer_step.predicted, tiny.optimizer_step.actual], 1e-3)
    for u, line in zip(tiny.optimizer_step.updates, said[2:]):
        assert u.leaf in line and close(numbers(line)[-2:], [u.predicted, u.actual], 1e-3)


def test_the_update_of_one_weight_shows_the_arithmetic_of_adamw(tiny):
    u = next(u for u in tiny.optimizer_step.updates if u.leaf == "fc.weight")
    said = walk(tiny, "o fc.weight[1,2]", "q")
    found = {name: float(x) for name, x in re.findall(r"(\w+) = (-?[\d.]+(?:e-?\d+)?)(?=[\s,]|$)", said)}
    p, g, m, v, lr, beta1, beta2, eps, decay, t = (
        float(np.asarray(u.given[k])[1, 2] if np.ndim(u.given[k]) else u.given[k]) for k in
        ("p", "g", "m", "v", "lr", "beta1", "beta2", "eps", "weight_decay", "t"))
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    step = lr * (m / (1 - beta1 ** t) / (np.sqrt(v / (1 - beta2 ** t)) + eps) + decay * p)
    assert close([found["m_new"], found["v_new"], found["p_new"]], [m, v, p - step], 1e-5)
    assert f"moves by {-step:.6g}" in said


def test_help_names_every_command(tiny):
    said = walk(tiny, "h", "q")
    assert all(re.search(rf"^  {command[0]}", said, re.MULTILINE) for command in COMMANDS)


def test_any_prefix_of_a_command_is_that_command(tiny):
    screens = {walk(tiny, word, "q").split("\n", 1)[1] for word in ("n", "ne", "next")}
    assert len(screens) == 1 and "── step 1/6" in screens.pop()


def test_the_terminal_ends_with_its_input(tiny):
    assert walk(tiny, "n").endswith("(step) \n")


@pytest.mark.parametrize("command, answer", [
    ("foo", "no command 'foo'"),
    ("nezt", "no command 'nezt'; nearest: next"),
    ("j 7", "there is no step 7: they are 0 to 6"),
    ("j -1", "there is no step -1"),
    ("j fx", "nothing here is called 'fx'; nearest: fc"),
    ("j", "nothing here is called ''"),
    ("b nrm > 3", "nothing here is called 'nrm > 3'"),
    ("b norm > much", "'much' is not a number"),
    ("b clear it", "no breakpoint 'it'"),
    ("c cross", "nearest: cross_entropy"),
    ("why", "'' is no array of this step"),
    ("why dlogit", "'dlogit' is no array of this step; nearest: dlogits"),
    ("why dlogits[9,9]", "dlogits has shape (5, 3): [9, 9] is not in it"),
    ("why dlogits[1]", "dlogits has shape (5, 3): [1] is not in it"),
    ("why dlogits[a,b]", "'[a,b]' is no index: write why dlogits 0 2"),
    ("why 1", "there is no element 1: first name an array"),
    ("why dlogits\nwhy 9", "there is no element 9: they are 1 to 2"),
    ("nudge fc.weigth", "no parameter is called 'fc.weigth'; nearest: fc.weight"),
    ("nudge", "no parameter is called ''"),
    ("nudge fc.weight[4,0]", "fc.weight has shape (4, 7): [4, 0] is not in it"),
    ("nudge fc.weight[0,0] much", "cannot be read"),
    ("o fc", "no parameter is called 'fc'; nearest: fc."),
    ("o fc.weight[0]", "fc.weight has shape (4, 7): [0] is not in it"),
    ("o fc.weight[5,0]", "is not in it"),
    ("show dlogit", "'dlogit' is no array of this step; nearest: dlogits"),
    ("show dlogits 5", "dlogits has shape (5, 3): [5] is not in it"),
    ("show dlogits 0 0 0", "dlogits has shape (5, 3): [0, 0, 0] is not in it"),
    ("show dlogits 0 0.5", "'dlogits 0 0.5' is no array of this step"),
    ("check all", "write check or check full, not 'all'"),
    ("page", "page needs a file"),
    ("page nowhere/there/step.html", "No such file or directory"),
])
def test_a_wrong_command_gets_one_line_that_says_what_is_possible(tiny, command, answer):
    said = walk(tiny, command, "q").split("(step) ")[-2]
    assert answer in unwrapped(said) and "Traceback" not in said and len(said.splitlines()) <= 3


def test_without_an_optimizer_the_answer_says_how_to_record_one():
    assert "record(loss, optimizer=...)" in walk(examples.op("exp"), "o", "q")


def test_page_writes_the_page(tiny, tmp_path):
    said = walk(tiny, f"page {tmp_path / 'step.html'}", "q")
    assert "wrote" in said and (tmp_path / "step.html").stat().st_size > 10_000


# ---- colour ----

@pytest.mark.parametrize("tty, environment, wanted", [
    (True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"NO_COLOR": ""}, False),
    (True, {"TERM": "dumb"}, False)])
def test_colour_is_used_in_terminals_that_have_it_unless_NO_COLOR_is_set(monkeypatch, tty, environment, wanted):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_color(Stream(tty)) is wanted


def test_colour_changes_no_words(tiny):
    plain, colored = (walk(tiny, "n", "why dw", "nudge w", "check", "o", "q", color=color) for color in (False, True))
    words = lambda text: [w for w in re.sub("\x1b\\[[^m]*m", "", text).split() if re.search(r"\w|✓", w)]
    assert "\x1b[" not in plain and "\x1b[48;2;" in colored
    assert words(plain) == words(colored)


# ---- heat maps ----

finite = hnp.arrays(np.float64, hnp.array_shapes(max_dims=4, max_side=40), elements=st.floats(-1e9, 1e9))


def drawn(array, width=80, color=False, **options):
    """The lines of a heat map below the one that names the axes."""
    return heatmap(array, width, color, **options)[1:]


@given(finite | hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, max_side=40)), st.integers(30, 120), st.booleans(),
       st.integers(1, TALLEST))
@settings(max_examples=100, deadline=None)
def test_a_heat_map_fits_the_width_and_the_height_and_says_what_it_left_out(a, width, color, height):
    lines = heatmap(a, width, color, height=height)
    assert max(map(columns, lines)) <= width and len(lines) <= height
    R, C = ((1,) + a.shape)[-2:]
    if height > 4 and not (a == a.flat[0]).all():
        for n, what, most in ((R, "rows", 2 * height), (C, "columns", width), (a.size // (R * C), "panels", width)):
            assert n <= most or re.search(rf"of {n} {what}|/{n}", lines[-1])


@given(st.floats(-1.0, 1.0))
def test_characters_show_the_sign(x):
    row = drawn(np.array([[x, 1.0, -1.0] + [0.0] * 6]))[-1]
    assert row.startswith("0 ") and row.endswith("##%%")
    assert set(row[2:-4]) <= set(" " if x == 0 else ".+*#" if x > 0 else ",-=%")


def test_shades_are_signed_square_roots():
    def shades(*values):
        return re.findall(r"48;2;(\d+);(\d+);(\d+)m", "".join(heatmap(np.array([values]), 80)))
    zero, quarter, whole, down = (np.array(c, dtype=float) for c in shades(0.0, 0.25, 1.0, -1.0))
    assert np.abs((zero + whole) / 2 - quarter).max() <= 1
    assert whole[0] > whole[2] and down[2] > down[0]


def test_nan_and_infinity_are_marked_and_masks_are_grey():
    a = np.array([[1.0, np.nan, np.inf, -1e30, -1.0]])
    assert drawn(a)[-1].split() == ["0", "1.00", "nan!", "inf!", "masked", "-1.00"]
    assert drawn(np.tile(a, 2))[-1] == "0 ##!!!!xx%%##!!!!xx%%"
    assert drawn(np.tile(a, 2), color=True)[-1].count("!!") == 4
    assert summary(a) == "max 1, 1 masked, 2 NaN or infinite!" and MASK < 1e30


def test_small_arrays_show_their_numbers_with_three_digits_of_the_largest():
    a = np.array([[0.0332, -0.5, 0.0], [1.0 / 3.0, 12.34, -1.0]])
    assert drawn(a) == ["      0    1    2", "0   0.0 -0.5    0", "1   0.3 12.3 -1.0"]
    assert drawn(a * 1e-9)[-1].split() == ["1", "3.33e-10", "1.23e-08", "-1.00e-09"]
    in_color = drawn(a, color=True)
    assert [re.sub("\x1b\\[[^m]*m", "", line) for line in in_color] == drawn(a) and "48;2;" in in_color[-1]


@settings(deadline=None)
@given(hnp.arrays(np.float64, (5, 4), elements=st.floats(-1e4, 1e4)).filter(lambda a: not (a == a[0, 0]).all()))
@example(np.array([[0.0, -1e4]]))
def test_the_numbers_in_the_cells_are_those_of_the_array(a):
    cells = np.array([line.split()[1:] for line in drawn(a)[1:]], dtype=float)
    assert np.abs(cells - a).max() <= 0.5001 * np.abs(a).max() * 0.01


def test_integers_and_booleans_are_printed_without_colour():
    assert heatmap(np.array([3, 10, -2]), 80) == ["axis 0 →", "  0  1  2", "  3 10 -2"]
    assert drawn(np.eye(2, dtype=bool), color=True) == ["   0 1", "0  1 0", "1  0 1"]
    assert drawn(np.arange(100), 32)[-1] == "shown: 10 of 100 columns"


@pytest.mark.parametrize("array, line", [
    (np.float64(2.5), "2.5"), (np.array(7), "7"), (np.zeros((0, 3)), "(empty)"), (np.full((4, 5), 0.125), "all 0.125"),
    (np.zeros(9), "all 0.0"), (np.ones(3, dtype=bool), "all True"), (np.array([[1.5]]), "1.5")])
def test_scalars_constants_and_empty_arrays_are_one_line(array, line):
    assert heatmap(array, 80, color=False) == [line.replace("0.0", "0")]


def test_the_first_line_names_the_axes_that_run_down_and_across():
    a = np.arange(24.0).reshape(2, 3, 4)
    assert heatmap(a, 80, False, ["head", "query", "key"], note="saved")[0] == "query ↓ key →  saved"
    assert heatmap(a, 80, False, note="saved")[0] == "saved  axis 1 ↓ axis 2 →"
    assert heatmap(a[0, 0], 80, False, ["feature"])[0] == "feature →"


def test_panels_stand_side_by_side_below_their_names():
    a = np.arange(162.0).reshape(1, 6, 9, 3) / 10
    axes = ["batch", "head", "query", "feature"]
    lines = heatmap(a, 50, False, axes)
    assert lines[1].split() == ["head", "0", "head", "1", "head", "2", "head", "3", "head", "4", "head", "5"]
    assert lines[1].index("head 1") == lines[2].index("0", 10) == len("0 ######  ") and "shown" not in lines[-1]
    one = heatmap(a[..., :2], 7, False, axes)
    assert one[0] == "head 0" and one[-1] == "1/6"
    unnamed = heatmap(np.arange(162.0).reshape(2, 9, 9), 50, False)
    assert re.findall(r"axis 0: \d", unnamed[1]) == ["axis 0: 0", "axis 0: 1"]


def test_an_axis_is_labelled_with_its_labels_and_otherwise_with_indices():
    a = np.eye(9)[:, :3]
    lines = drawn(a, axes=["token", "feature"], labels={"token": list("abcdefghi"), "feature": ["x"]})
    assert lines[0] == "  0 1 2" and [line[0] for line in lines[1:]] == list("abcdefghi")
    lines = drawn(np.eye(9), axes=["query", "key"], labels={"query": list("abcdefghi"), "key": list("abcdefghi")})
    assert lines[0] == "  a b c d e f g h i"
    numbers = drawn(np.array([[0.5, 1.0]]), axes=["token", "vocabulary"], labels={"vocabulary": ["\n", "the cat"]})
    assert numbers[0] == "     \\n the␣" and numbers[1] == "0  0.50 1.00"


def test_indices_stand_beside_labels_where_they_are_wanted():
    labels = {"query": list("abcdefghijk"), "key": list("abcdefghijk")}
    lines = drawn(np.eye(11), axes=["query", "key"], labels=labels, indices=True)
    assert lines[0] == "     0   2   4   6   8   10" and lines[1] == "     a b c d e f g h i j k"
    assert lines[2].startswith(" 0 a ") and lines[12].startswith("10 k ")
    assert drawn(np.eye(11), indices=True) == drawn(np.eye(11))


def test_an_axis_of_another_length_than_its_labels_has_indices():
    lines = drawn(np.eye(12), axes=["query", "key"], labels={"query": list("ab"), "key": list("ab")})
    assert lines[0] == "   0   2   4   6   8   10" and lines[12].startswith("11 ")


def test_labels_of_wide_characters_keep_the_columns_aligned():
    labels = ["日", "🙂", "e\u0301", "a"]
    lines = drawn(np.eye(4)[:, :3], axes=["token", "feature"], labels={"token": labels})
    assert {columns(line) for line in lines[1:]} == {columns(lines[1])}
    assert columns("日🙂e\u0301a") == 6 and padded("日本", 3) == "日 "
    assert clipped("\x1b[1mab\x1b[0m", 1) == "\x1b[1ma\x1b[0m"


@given(st.lists(st.lists(st.text("ab", max_size=30), min_size=1, max_size=4), min_size=1, max_size=6))
def test_blocks_side_by_side_keep_all_their_lines(blocks):
    lines = side_by_side(blocks, 40)
    assert max(map(len, lines)) <= 40
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join("".join(block) for block in blocks))
