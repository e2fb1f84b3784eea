"""The documents say what is so."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_prints_what_it_says(document, capsys):
    """Its Python blocks, run one after the other, print the text blocks that follow them."""
    text = document.read_text("utf-8")
    tour = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    for code, output in tour:
        exec(compile(code, "tour.py", "exec"), names)
        assert capsys.readouterr().out == output
    assert len(tour) == text.count("```python")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_pictures_of_a_document_are_there(document):
    for link in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", document.read_text("utf-8")):
        assert (document.parent / link).is_file(), link
