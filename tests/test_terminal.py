"""The stepper in a terminal: each command compared with the Record that it shows, wrong commands, heat maps."""
import io
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from minigrad import Tensor, functional as F
from minigrad.ops.op import OPS
from minigrad.step import examples, record
from minigrad.step.why import largest_entries
from minigrad.step.heatmap import MASK, heatmap, side_by_side, summary, visible_width
from minigrad.step.terminal import COMMANDS, Terminal, has_color


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


def close(a, b, digits=3e-4):
    return np.allclose(a, b, rtol=digits, atol=1e-12)


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
                assert f"d{x.name} {'x'.join(map(str, x.shape))}  {summary(x.gradient)}" in said
                assert f"to {x.label}" in said and f"✓ d{x.name}: " in said
                verdict = next(line for line in said.splitlines() if f"✓ d{x.name}: " in line)
                added = f"; added to an earlier gradient, {summary(x.earlier)}"
                assert verdict.endswith(added) == (x.earlier is not None)
        assert f"✓ identity verified, residual {v.identity.residual:.0e}: {v.identity.words}" in unwrapped(said)


def test_each_line_is_shown_with_the_values_that_it_computes(tiny):
    for v in tiny.views:
        said = walk(tiny, f"j {v.index}", *["l"] * len(v.backward.lines), "q").split("(step) ")[1:]
        for line, screen in zip(v.backward.lines, said):
            source = v.backward.source.splitlines()[line.first:line.last + 1]
            assert [row[2:] for row in screen.splitlines() if row.startswith("→ ")] == source
            for name, value in line.values.items():
                assert f"{name} {'x'.join(map(str, value.shape))}  {summary(value)}" in screen if np.ndim(value) else (
                    f"{name} = " in screen)
        assert "✓" in said[-2] and not any("✓" in screen for screen in said[:-2])


def test_after_the_last_line_comes_the_next_op(tiny):
    lines = len(tiny.views[0].backward.lines)
    assert "── step 1/6" in walk(tiny, *["l"] * (lines + 1), "q")
    assert "── step 1/6" not in walk(tiny, *["l"] * lines, "q")


def test_while_a_debugger_uses_the_tracer_an_op_is_one_screen():
    sys.settrace(lambda *_: None)
    try:
        it = examples.op("exp")
    finally:
        sys.settrace(None)
    said = walk(it, "j 1", "l", "q")
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
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        for color in (False, True):
            said = walk(tiny, "n", "l", "w", "why dw", "nudge w", "check", "o", "o w", "f", "h", "oops", "b", "q",
                        color=color)
            assert max(map(visible_width, said.splitlines())) <= columns


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
    assert "── step 2/2  sqrt" in said and "1 NaN or infinite!" in said and "!!" in said
    assert it.views[2].bad_origin and f"! {it.views[2].bad_origin}" in unwrapped(said)


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
    assert "is the sum of the gradients that the 2 uses of the output computed" in said
    assert "line 6" in said and "there is no element 1" not in said.split("p[")[0]


def test_nudge_shows_the_nudge_of_the_record(tiny):
    n = tiny.nudge("fc.weight", (1, 2), 0.01)
    said = walk(tiny, "nudge fc.weight[1,2] 0.01", "q")
    assert close(numbers(said.splitlines()[-2]), [n.delta, n.predicted, n.actual, n.actual / n.predicted], 1e-5)


def test_the_ratio_goes_to_1_as_nudges_shrink(tiny):
    said = walk(tiny, "j 5", "nudge w", "q").split("(step) ")[1]
    ratios = [float(line.split()[-1]) for line in said.splitlines()[3:]]
    assert len(ratios) == 5 and np.all(np.diff(np.abs(np.array(ratios) - 1.0)) <= 1e-6)


def test_check_lists_every_row(tiny):
    rows = tiny.views[1].report.rows
    said = walk(tiny, "j 1", "check", "check full", "q").split("(step) ")
    for row in rows:
        assert f"✓ {row.of:12} {row.check:20} {row.error:8.1e}" in said[1]
    assert said[2].count("✓") == len(rows)


def test_the_optimizers_step_is_the_sum_of_its_updates(tiny):
    said = walk(tiny, "o", "q").splitlines()
    assert close(numbers(said[-2])[-2:], [tiny.optimizer_step.predicted, tiny.optimizer_step.actual], 1e-3)
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

class Stream(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self.tty = tty

    def isatty(self):
        return self.tty


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


@given(finite, st.integers(20, 120), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_heat_map_fits_the_width_and_says_what_it_left_out(a, width, color):
    lines = heatmap(a, width, color).splitlines() or [""]
    assert max(visible_width(line) for line in lines if "sampled" not in line) <= width and len(lines) <= 17
    R, C = ((1,) + a.shape)[-2:]
    panels = a.size // (R * C)
    if R > 16 or C > width:
        assert f"of {R} x {C}" in lines[-1]
    elif "sampled" in lines[-1]:
        assert panels > 1 and f"of {panels} panels" in lines[-1]


@given(st.floats(-1.0, 1.0))
def test_characters_show_the_sign(x):
    drawn = heatmap(np.array([[x, 1.0, -1.0]]), 80, color=False)
    assert drawn.endswith("##%%")
    assert set(drawn[:-4]) <= set(" " if x == 0 else ".+*#" if x > 0 else ",-=%")


def test_shades_are_signed_square_roots():
    def shades(*values):
        return re.findall(r"48;2;(\d+);(\d+);(\d+)m", heatmap(np.array([values]), 80))
    zero, quarter, whole, down = (np.array(c, dtype=float) for c in shades(0.0, 0.25, 1.0, -1.0))
    assert np.abs((zero + whole) / 2 - quarter).max() <= 1
    assert whole[0] > whole[2] and down[2] > down[0]
    assert shades(0.0, 0.0) == [("255", "255", "255")] * 2


def test_nan_and_infinity_are_marked_and_masks_are_grey():
    a = np.array([[1.0, np.nan, np.inf, -1e30, -1.0]])
    assert heatmap(a, 80, color=False) == "##!!!!xx%%"
    assert heatmap(a, 80).count("!!") == 2
    assert summary(a) == "max 1, 1 masked, 2 NaN or infinite!" and MASK < 1e30


def test_an_axis_as_long_as_the_tokens_is_labelled_with_them():
    drawn = heatmap(np.eye(3), 80, color=False, tokens=["fox", "a", "\\n"]).splitlines()
    assert drawn == ["    foa \\n", "fox ##", "  a   ##", " \\n     ##"]
    assert heatmap(np.ones((3, 2)), 80, color=False, tokens=list("abc")).splitlines() == ["a ####", "b ####", "c ####"]
    assert heatmap(np.ones(3), 80, color=False, tokens=list("abc")).splitlines() == ["a b c", "######"]
    multiple = heatmap(np.ones((2, 3, 3)), 12, color=False, tokens=list("abc")).splitlines()
    assert multiple == ["  abc  abc", "a ###  ###", "b ###  ###", "c ###  ###"]


def test_more_than_two_axes_make_panels_side_by_side():
    assert heatmap(np.ones((2, 2, 3)), 80, color=False).splitlines() == ["######  ######"] * 2
    assert heatmap(np.ones((40, 2, 3)), 20, color=False).splitlines()[-1] == "sampled 4 of 40 panels"
    assert heatmap(np.ones((384, 1536)), 60, color=False).splitlines()[-1] == "sampled 16 x 60 of 384 x 1536"


@pytest.mark.parametrize("array, drawn", [(np.float64(2.5), "2.5"), (np.array(7), "7"), (np.zeros((0, 3)), "(empty)"),
                                          (np.array([True, False]), "##")])
def test_scalars_empty_arrays_and_booleans_are_drawn(array, drawn):
    assert heatmap(array, 80, color=False) == drawn


@given(st.lists(st.lists(st.text("ab", max_size=30), min_size=1, max_size=4), min_size=1, max_size=6))
def test_blocks_side_by_side_keep_all_their_lines(blocks):
    lines = side_by_side(blocks, 40)
    assert max(map(len, lines)) <= 40
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join("".join(block) for block in blocks))
