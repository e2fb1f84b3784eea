"""The quiz, and the page's pictures of other values: a weight that is nudged, an optimizer over time."""
import base64
import functools
import inspect
import json
import re
import textwrap

import numpy as np
import pytest

from gpt.step import example
from minigrad import Tensor, functional as F, gradcheck, optim
from minigrad.ops.op import OPS
from minigrad.step import page, quiz, record, replay
from minigrad.step.examples import tiny
from minigrad.words import index
from faulty_ops import SoftmaxDiagonal
from locate_mistakes import with_mistake
from test_page import browse, data_of

GPT_OPS = "linear", "matmul", "softmax", "layer_norm", "gelu", "attention", "cross_entropy", "embedding", "mul", "add"


@functools.cache
def shown():
    """The tiny example, and its page."""
    seen = tiny()
    return seen, page.html(seen)


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def number(text):
    return float(text.replace("−", "-"))


# ---- the questions --------------------------------------------------------------------------------------------------

def test_every_op_of_a_gpt_has_a_question_about_its_lines_with_two_or_three_wrong_ones():
    assert set(quiz.LINES) == set(GPT_OPS)
    assert all(len(wrong) in (2, 3) for starts in quiz.LINES.values() for wrong in starts.values())


@pytest.mark.parametrize("op, start", [(op, start) for op, starts in quiz.LINES.items() for start in starts])
def test_a_wrong_line_in_the_backward_fails_the_gradient_check_with_the_diagnosis_of_the_quiz(op, start):
    def report(line):
        faulty = quiz.with_line(OPS[op], start, line)
        return gradcheck.Report(
            row for sample in OPS[op].samples for row in gradcheck.check_sample(faulty, sample).rows)

    for line, words, says in quiz.diagnosed(op, start):
        first = report(line).failures[0]
        assert says == f"The gradient check of {first.what} says: {first.detail}"
        assert words and not words.endswith(".")
    _, right = quiz.right_line(textwrap.dedent(inspect.getsource(OPS[op].backward)), start)
    assert report(right).ok


def test_every_question_has_one_right_answer_and_a_reason_for_it():
    for seen in (tiny(), example()):
        asked = quiz.questions(seen.views)
        assert len(asked) == len(seen.views)
        for v, own in zip(seen.views, asked):
            kinds = [q.kind for q in own]
            assert kinds == ["shape", "sign", "contributor", *(["line"] if v.op in GPT_OPS else [])]
            for q in own:
                assert 2 <= len(q.options) == len(set(q.options)) == len(q.reasons) <= 4
                assert q.reasons[q.right]


def key(x):
    """What tells Tensors of a graph apart."""
    return id(x) if x.node is None else (x.node.seq, x.out)


def test_the_right_answers_are_those_of_the_record():
    seen = example()
    for k, (v, own) in enumerate(zip(seen.views, quiz.questions(seen.views))):
        by_kind = {q.kind: q for q in own}
        answer = {kind: q.options[q.right] for kind, q in by_kind.items()}
        name = by_kind["shape"].text.removeprefix("What is the shape of d").removesuffix("?")
        x = next(x for x in v.inputs if x.name == name)
        assert answer["shape"] == " × ".join(map(str, x.shape))
        at = by_kind["sign"].text.partition("[")[2].partition("]")[0]
        value = x.gradient[tuple(int(i) for i in at.split(","))]
        assert answer["sign"] == ("+" if value > 0 else "−")
        own_key = key(v.step.inputs[v.inputs.index(x)])
        users = [n for n, w in enumerate(seen.views) if n != k and any(
            key(t) == own_key for t, y in zip(w.step.inputs, w.inputs) if y.gradient is not None)]
        assert answer["contributor"].startswith(f"step {users[0]}: " if users else "none: this is the whole gradient")
        if "line" in answer:
            row = v.backward.source.splitlines()[by_kind["line"].row]
            assert row.strip().startswith(answer["line"])


def test_wrong_answers_about_shape_sign_and_contributor_are_explained_by_numbers_and_steps():
    x = Tensor(np.array([[1.0, -2.0], [0.5, 1.0]]), requires_grad=True)
    w = Tensor(np.array([[0.5, 1.0, -1.0], [0.2, -0.3, 0.4]]), requires_grad=True)
    y = x @ w                                                       # used by two steps
    seen = record((y * y).sum() + F.exp(y).sum(), names={"x": x, "w": w})
    product = next(k for k, v in enumerate(seen.views) if v.op == "matmul")
    shape, sign, contributor, _ = quiz.questions(seen.views)[product]
    assert shape.reasons[shape.right].startswith("a gradient has the shape of its input: ")
    assert any(reason.startswith("that is the shape of ") for reason in shape.reasons)
    assert " × " in sign.reasons[sign.right] and "all 2 terms sum to" in sign.reasons[sign.right]
    assert "is used by step" in contributor.reasons[contributor.right]
    user = next(k for k, v in enumerate(seen.views) if v.op == "exp")
    question = quiz.questions(seen.views)[user][2]
    assert question.reasons[question.right].endswith("their gradients add up")


def test_an_op_that_uses_another_output_of_the_same_op_does_not_add_to_the_gradient():
    x = Tensor(np.arange(4.0), requires_grad=True)
    a, b = F.split(x, 2, axis=0)
    seen = record((F.exp(a) + F.tanh(b) + a * 2.0).sum(), names={"x": x})
    asked = {v.op: own[2] for v, own in zip(seen.views, quiz.questions(seen.views))}
    assert asked["tanh"].options[asked["tanh"].right] == "none: this is the whole gradient"
    assert "mul" in asked["exp"].options[asked["exp"].right]


def test_an_op_of_the_readers_own_has_no_question_about_its_lines():
    x = Tensor(np.array([[1.0, -2.0, 3.0]]), requires_grad=True)
    with with_mistake(SoftmaxDiagonal):
        seen = record((F.softmax(x) ** 2).sum())
    own = quiz.questions(seen.views)[-1]
    assert seen.views[-1].op == "softmax" and [q.kind for q in own] == ["shape", "sign", "contributor"]


def test_a_line_that_the_source_lacks_is_an_error():
    with pytest.raises(ValueError, match="no line of this backward begins with 'dk ='"):
        quiz.right_line("def backward(self, dy):\n    return dy", "dk =")


# ---- the data of the page -------------------------------------------------------------------------------------------

def test_the_page_holds_the_curves_the_steps_over_time_and_the_questions_of_the_record():
    seen, text = shown()
    data = data_of(text)
    for n in data["nudges"]:
        curve = seen.nudge_curve(n["leaf"], tuple(n["at"]))
        np.testing.assert_allclose(floats(n["changes"]), curve.changes, rtol=1e-6)
        assert (n["value"], n["reach"]) == (pytest.approx(curve.value), pytest.approx(curve.deltas[-1]))
    for u, update in zip(data["optimizer"]["updates"], seen.optimizer_step.updates):
        [over_time] = seen.over_time({update.leaf: update.picks[:1]})
        assert list(u["overTime"]) == list(over_time.columns)
        for name, column in over_time.columns.items():
            np.testing.assert_allclose(floats(u["overTime"][name]), column, rtol=1e-6)
        assert u["secondOrder"] == pytest.approx(update.second_order)
    assert [[data["questions"][n]["text"] for n in own] for own in data["quiz"]] == [
        [q.text for q in own] for own in quiz.questions(seen.views)]


def test_the_page_of_a_large_model_has_no_curves_and_no_curvature_of_single_tensors(monkeypatch):
    monkeypatch.setattr(replay, "MOST_PARAMETERS", 0)
    data = data_of(page.html(tiny()))
    assert not any("changes" in n for n in data["nudges"]) and len(data["nudges"]) == 21
    assert all(u["secondOrder"] is None and u["overTime"] for u in data["optimizer"]["updates"])
    assert data["optimizer"]["secondOrder"] and "g stays as recorded" in data["optimizer"]["overTime"]


def test_these_data_take_less_than_60_kb_of_the_tiny_example():
    data = data_of(shown()[1])
    own = [data["nudges"], data["questions"], data["quiz"], [u["overTime"] for u in data["optimizer"]["updates"]]]
    assert len(json.dumps(own, ensure_ascii=False).encode()) < 60e3


# ---- in a browser ---------------------------------------------------------------------------------------------------

def test_a_weight_is_picked_and_nudged_by_slider_and_the_page_shows_tangent_and_loss(tmp_path):
    seen, text = shown()
    n = len(seen.nudges()) - 2
    found = browse(tmp_path, text, f"const pick = {n};" + """
      goTo("n", 0);
      all("button.pick")[pick].click();
      seen.picked = text("#left h2");
      seen.hash = location.hash;
      const slider = document.querySelector("#right input");
      seen.focused = document.activeElement === slider;
      seen.values = [];
      for (const k of [0, 10, 20]) {
        slider.value = k;
        slider.oninput();
        seen.values.push([slider.getAttribute("aria-valuetext"), ...all(".readout b").map(b => b.textContent)]);
      }
      seen.name = slider.getAttribute("aria-label");
      seen.label = document.querySelector("#right .chart").getAttribute("aria-label");
      press("ArrowLeft");
      seen.stayed = location.hash;
      seen.points = document.querySelector("#right path.actual").getAttribute("d").split(/[ML]/).length - 1;
    """)
    nudge = seen.nudges()[n]
    curve = seen.nudge_curve(nudge.leaf, nudge.at)
    assert found.picked == f"Nudge → {nudge.leaf}{index(nudge.at)}" and found.hash == found.stayed == f"#n0.0.{n}"
    assert found.focused and found.name == f"value of {nudge.leaf}{index(nudge.at)}" and curve.name in found.label
    for k, (spoken, value, tangent, loss, difference, _) in zip((0, 10, 20), found.values):
        predicted = curve.loss + curve.gradient * curve.deltas[k]
        assert number(value) == pytest.approx(curve.value + curve.deltas[k], rel=1e-3)
        assert number(tangent) == pytest.approx(predicted, rel=1e-4)
        assert number(loss) == pytest.approx(curve.loss + curve.changes[k], rel=1e-4)
        assert number(difference) == pytest.approx(curve.loss + curve.changes[k] - predicted, rel=1e-2, abs=1e-6)
        spoken = [number(x) for x in re.findall(r"[−\d][\d.e−]*", spoken)]
        assert spoken[1:] == pytest.approx([predicted, curve.loss + curve.changes[k]], rel=1e-4)
    assert found.points == len(curve.deltas)


def test_a_record_of_nan_has_a_table_of_nudges_and_no_curve(tmp_path):
    x = Tensor(np.array([-1.0, 2.0]), requires_grad=True)
    with np.errstate(all="ignore"):
        text = page.html(record(F.log(x).sum(), names={"x": x}, optimizer=optim.AdamW([x], lr=0.1)))
    found = browse(tmp_path, text, """
      goTo("n", 0);
      seen.said = text("#right");
      seen.rows = all("button.pick").length;
      goTo("u", 0);
      seen.bars = all("#left .bars i").map(bar => bar.style.width);
    """)
    assert found.bars[1] == "1%"                  # the actual change is NaN
    assert found.rows == 2 and found.said == "No curve: the number or the loss is NaN or infinite."


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (390, 844)])
def test_charts_grow_with_big_type_and_the_slider_lies_under_its_chart(tmp_path, size):
    _, text = shown()
    found = browse(tmp_path, text, """
      const pixels = words => parseFloat(getComputedStyle(words).fontSize) * words.getScreenCTM().a;
      const least = () => Math.min(...all("#right svg text:not([transform])").map(pixels));
      seen.sizes = ["usual", "big"].map(type => {
        look("type", type);
        return "nuc".split("").map(kind => { tab(kind); draw(); return least(); });
      });
      seen.off = ["usual", "big"].map(type => {
        look("type", type);
        goTo("n", 0);
        const chart = document.querySelector("#right > .chart"), slider = document.querySelector("#right .slide");
        slider.value = Number(slider.max) / 2;              // the recorded value
        const recorded = document.querySelector("#right .recorded").getBoundingClientRect();
        const {left, width} = slider.getBoundingClientRect();
        return Math.abs(left + width / 2 - recorded.left - recorded.width / 2);
      });
      look("type", "big");
      goTo("n", 0);
      seen.wide = $("arrays").scrollWidth - $("arrays").clientWidth;
    """, size)
    usual, big = found.sizes
    assert min(usual) >= 12 and min(big) >= (16.5 if size[0] > 700 else 14)
    assert max(found.off) < 3 and found.wide == 0


def test_the_update_shows_the_steps_over_time_of_adamw_and_of_sgd(tmp_path):
    seen, text = shown()
    x = Tensor(np.array([1.0, -2.0]), requires_grad=True)
    sgd = page.html(record((x * x).sum(), names={"x": x}, optimizer=optim.SGD([x], lr=0.1, momentum=0.9)))
    script = """
      goTo("u", 0);
      seen.table = all(".picker tr").map(row => [...row.children].map(cell => cell.textContent));
      seen.charts = all(".multiple").map(
        box => [...box.querySelectorAll(".key")].map(key => key.parentElement.textContent));
      seen.said = text("#left") + text("#right");
    """
    found = browse(tmp_path, text, script)
    [over_time] = seen.over_time({seen.optimizer_step.updates[0].leaf: seen.optimizer_step.updates[0].picks[:1]})
    head, *rows = found.table
    assert head == ["t", "g", "m", "v", "m̂", "v̂", "step", "uncorrected"] and len(rows) == 30
    for t, row in enumerate(rows):
        for value, column in zip(row[1:], over_time.columns.values()):
            assert number(value) == pytest.approx(column[t], rel=1e-2)
    assert found.charts == [["g"], ["m", "m̂"], ["v", "v̂"], ["step", "uncorrected"]]
    assert seen.optimizer_step.why_not_as_predicted.replace("-", "−") in found.said
    found = browse(tmp_path, sgd, script)
    assert found.table[0] == ["t", "g", "m", "step"] and found.charts == [["g"], ["m"], ["step"]]


def test_the_quiz_hides_the_answers_explains_a_wrong_one_and_prints_the_score(tmp_path):
    seen, text = shown()
    linear = next(k for k, v in enumerate(seen.views) if v.op == "linear")
    asked = quiz.questions(seen.views)[linear]
    found = browse(tmp_path, text, f"const k = {linear};" + """
      window.print = () => { seen.printed = text("#overlay .sheet"); };
      goTo("b", k);
      press("q");
      seen.hidden = !text("#right").includes("gradients with respect to the inputs");
      seen.source = text("#left pre");
      seen.formula = document.querySelector("#left .formula") !== null;
      const pressButton = (where, words) => all(where).find(b => b.textContent === words).click();
      const questions = questionsOf(k), choose = option => pressButton(".answers button", option);
      questions.forEach((q, n) => choose(q.options[n < 3 ? q.right : (q.right + 1) % q.options.length]));
      seen.verdicts = all(".question").at(-1).textContent;
      seen.shown = text("#right").includes("gradients with respect to the inputs");
      seen.after = text("#left pre");
      showScore();
      seen.heading = text("#overlay h2");
      seen.rows = all("#overlay tr").slice(1).map(row => [...row.children].map(cell => cell.textContent));
      seen.score = JSON.parse(document.querySelector("textarea").value);
      pressButton("#overlay button", "Print");
      pressButton("#overlay button", "Start again");
      seen.again = !text("#right").includes("gradients with respect to the inputs");
      seen.kept = store.get(QUIZ);
    """)
    line = asked[-1]
    right, wrong = line.options[line.right], line.options[(line.right + 1) % len(line.options)]
    assert found.hidden and found.shown and found.again and found.kept == "{}"
    assert not found.formula and right not in found.source and f"{right.partition(' =')[0]} = ?" in found.source
    assert right in found.after
    assert f"✗ not {wrong} — {line.reasons[line.options.index(wrong)]}" in found.verdicts
    assert f"✓ {right}" in found.verdicts
    assert all(reason in found.verdicts for reason in line.reasons)         # those of the other lines too
    assert found.heading == "Score: 3 of 4 right" and "line: 0 of 1" in found.printed
    assert [row[-1] for row in found.rows] == ["✓", "✓", "✓", "✗"] and found.rows[3][2:4] == [wrong, right]
    assert (found.score["asked"], found.score["right"]) == (4, 3)
