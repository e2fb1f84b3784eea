"""The page and the terminal show the same names, verdicts and numbers of a record."""
import io
import json
import re

import numpy as np
import pytest

import gpt.step
from minigrad import Tensor, functional as F
from minigrad.step import examples, record
from minigrad.step.page import html
from minigrad.step.terminal import Terminal
from locate_mistakes import with_mistake
from faulty_ops import SoftmaxDiagonal


def wrong():
    """A record in which softmax has a wrong backward."""
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.normal(size=shape), requires_grad=True) for shape in ((4, 3), (3, 5)))
    with with_mistake(SoftmaxDiagonal):
        return record(F.cross_entropy(F.softmax(x @ w), [1, 0, 4, 2]), names={"x": x, "w": w})


@pytest.fixture(scope="module", params=[examples.tiny, gpt.step.example, wrong], ids=["tiny", "gpt", "wrong"])
def shown(request):
    """A record, the data of its page, and a function that gives the terminal's answer to a command at a step."""
    seen = request.param()
    page = html(seen)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])

    def ask(step, command):
        out = io.StringIO()
        Terminal(seen, step, color=False, stdin=io.StringIO(f"{command}\nq\n"), stdout=out).cmdloop()
        return re.sub(r"\s+", " ", out.getvalue().split("(step) ")[1])

    return seen, data, ask


def test_both_show_the_same_names_and_source_lines(shown):
    seen, data, ask = shown
    assert len(data["steps"]) == len(seen.views)
    for i, step in enumerate(data["steps"]):
        said = ask(i, f"j {i}")
        assert f"step {i}/{len(data['steps']) - 1} {step['op']}" in said
        assert step["at"] in said and (step["name"] == step["op"] or f"→ {step['name']}" in said)
        for x in step["inputs"]:
            assert "gradient" not in x or x["label"] in said
        for line in step["backward"]["source"].splitlines():
            assert re.sub(r"\s+", " ", line).strip() in said


def test_both_show_the_same_verdicts(shown):
    seen, data, ask = shown
    failures = 0
    for i, step in enumerate(data["steps"]):
        said = ask(i, f"j {i}")
        for x in step["inputs"]:
            checks = [c for c in step["checks"] if c["of"] == f"d{x['name']}"]
            if checks:
                ok = all(c["ok"] for c in checks)
                failures += not ok
                assert f"{'✓' if ok else '✗'} d{x['name']}: " in said
                assert all(c["detail"] in said for c in checks)
        if step["identity"]:
            found = re.search(r"([✓✗]) identity (\w+), residual \S+ (.*)", said)
            assert found[1] == ("✓" if step["identity"]["ok"] else "✗")
            assert found[2] == ("verified" if step["identity"]["ok"] else "violated")
            assert found[3].startswith(step["identity"]["words"])
    assert bool(failures) == (not all(v.report.ok for v in seen.views))


def test_both_show_the_same_gradients(shown):
    seen, data, ask = shown
    for i, step in enumerate(data["steps"]):
        said = ask(i, f"j {i}")
        for x in step["inputs"]:
            array = data["arrays"][x["gradient"]] if "gradient" in x else None
            if array and array["shape"]:
                assert f"d{x['name']} {'x'.join(map(str, array['shape']))} max {array['max']:.3g}" in said


def test_both_nudge_with_the_same_numbers(shown):
    seen, data, ask = shown
    for nudge in data["nudges"][::5]:
        said = ask(0, f"nudge {nudge['leaf']}{nudge['at']}")
        assert f"{nudge['predicted']:.6g}" in said and f"{nudge['actual']:.6g}" in said


def test_both_show_the_same_step_of_the_optimizer(shown):
    seen, data, ask = shown
    if data["optimizer"] is None:
        assert "record(loss, optimizer=...)" in ask(0, "o")
        return
    said = ask(0, "o")
    assert f"{data['optimizer']['predicted']:.4g} {data['optimizer']['actual']:.4g}" in said
    for update in data["optimizer"]["updates"]:
        assert re.search(rf"{re.escape(update['leaf'])} \S+ {update['predicted']:.4g} {update['actual']:.4g}", said)
        arithmetic = ask(0, f"o {update['leaf']}{update['picks'][0]}")
        for _, _, made in update["lines"]:
            for name, values in made.items():
                assert f"{name} = {values[0]:.6g}" in arithmetic
