"""The documents say what is so."""
import linecache
import re
from pathlib import Path

import pytest

import minigrad as mg

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture
def ops():
    """Ops that are defined meanwhile are removed afterwards."""
    before = dict(mg.OPS)
    yield
    mg.OPS.clear()
    mg.OPS.update(before)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_prints_what_it_says(document, capsys, ops):
    """Its Python blocks are one program, tour.py, whose lines Python can show; run one after the other, they print the
    text blocks that follow them."""
    text = document.read_text("utf-8")
    tour = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", text, re.DOTALL)
    names: dict = {"__name__": "tour"}
    source = ""
    for code, output in tour:
        above = source.count("\n")
        source += code
        linecache.cache["tour.py"] = len(source), None, source.splitlines(True), "tour.py"
        exec(compile("\n" * above + code, "tour.py", "exec"), names)
        assert capsys.readouterr().out == output
    assert len(tour) == text.count("```python")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_pictures_and_pages_that_a_document_links_to_are_there(document):
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#:]*)\)", text):
        assert (document.parent / link).exists(), link


def test_ci_runs_the_test_command_of_the_readme():
    command = re.search(r"Test it:\n\n    (.*)\n", (ROOT / "README.md").read_text("utf-8"))[1]
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")
    assert command in (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_every_promise_names_a_test_that_exists():
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", (ROOT / "docs" / "promises.md").read_text("utf-8"))
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), test
