"""docs/gpt-step.html, the built page of the GPT example, is that of today."""
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
BUILD = "MINIGRAD_EXECUTOR=vector python -m minigrad.step --example gpt --out docs/gpt-step.html"
FLOATS = {"floats", "analytic", "numeric", "changes"}          # base64 of float32
NOISE = {"error", "residual", "worst"}                          # rounding errors of what passes; the largest of them


def differences(built, found, where="data"):
    """Where two JSON values differ: numbers by more than a thousandth, texts in more than their decimal fractions."""
    key = where.rpartition(".")[2]
    if key in NOISE and not isinstance(built, str):
        return []
    if isinstance(built, dict) and isinstance(found, dict) and built.keys() == found.keys():
        return [d for name in built for d in differences(built[name], found[name], f"{where}.{name}")]
    if isinstance(built, list) and isinstance(found, list) and len(built) == len(found):
        return [d for n, pair in enumerate(zip(built, found)) for d in differences(*pair, where)]
    if key in FLOATS and isinstance(built, str) and isinstance(found, str) and len(built) == len(found):
        a, b = (np.frombuffer(base64.b64decode(text), "<f4") for text in (built, found))
        largest = np.abs(a[np.isfinite(a)]).max(initial=1e-5)
        same = np.allclose(a, b, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
    elif type(built) in (int, float) and type(found) in (int, float):
        same = bool(np.isclose(built, found, rtol=1e-3, atol=1e-9))
    elif isinstance(built, str) and isinstance(found, str):
        fraction = r"\d+\.\d+(e[-+]?\d+)?|\d+e[-+]?\d+"
        same = re.sub(fraction, "#", built) == re.sub(fraction, "#", found)
    else:
        same = built == found
    return [] if same else [f"{where}: {str(built):.60} is now {str(found):.60}"]


def parts(page):
    """The page without its data, and the data."""
    data = r'(?<=<script type="application/json" id="data">)(.*?)(?=</script>)'
    before, data, after = re.split(data, page, flags=re.DOTALL)
    return before + after, json.loads(data)


def test_the_built_page_is_that_of_today(tmp_path):
    """The command that built it runs again, in a process of its own, where kernels are not switched off."""
    environment = os.environ | {"MINIGRAD_PLAIN": "0", "MINIGRAD_EXECUTOR": "vector"}
    command = [sys.executable, *BUILD.split()[2:-1], str(tmp_path / "page.html")]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    built, found = ((parts(path.read_text("utf-8"))) for path in (ROOT / "docs/gpt-step.html", tmp_path / "page.html"))
    stale = differences(built[1], found[1])
    message = f"docs/gpt-step.html is not that of today: {BUILD}"
    assert not stale and built[0] == found[0], "\n".join([message, *stale[:9]])


def test_the_built_page_is_small_complete_and_names_no_folder_of_a_machine():
    page = (ROOT / "docs" / "gpt-step.html").read_text("utf-8")
    assert len(page.encode()) < 1.5e6 and not parts(page)[1]["omitted"]
    assert str(ROOT) not in page and f"{Path.home()}/" not in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)


def test_a_page_that_is_not_that_of_today_is_noticed():
    data = parts((ROOT / "docs" / "gpt-step.html").read_text("utf-8"))[1]
    for change in (lambda d: d["steps"].pop(), lambda d: d["steps"][3].update(at="gpt/model.py:1"),
                   lambda d: d.update(loss=d["loss"] * 1.01), lambda d: d["steps"][0]["backward"].update(source="pass"),
                   lambda d: d["arrays"][0].update(d["arrays"][1])):
        changed = json.loads(json.dumps(data))
        change(changed)
        assert differences(data, changed)
    assert not differences(data, json.loads(json.dumps(data)))


def test_the_readme_links_to_the_built_page_in_its_first_screen():
    assert "](docs/gpt-step.html)" in "".join((ROOT / "README.md").read_text("utf-8").splitlines(True)[:15])


def test_the_link_in_the_docs_leads_to_the_attention_of_the_second_layer():
    text = (ROOT / "docs" / "stepper.md").read_text("utf-8")
    step, line = map(int, re.search(r"gpt-step\.html#f(\d+)\.(\d+)", text).groups())
    found = parts((ROOT / "docs" / "gpt-step.html").read_text("utf-8"))[1]["steps"][step]
    assert found["name"] == "h.1.attn" and "P" in found["forward"]["lines"][line - 1][2]
