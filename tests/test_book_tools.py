"""The commands of the book that need no Sphinx: docs/run.py, docs/notebooks.py, and how a page is read."""
import json
import re

import notebooks
import pytest
import run
from minigrad import lesson
from pages import DOCS, Page, chapters

HEADER = "---\nfile_format: mystnb\nkernelspec: {name: python3}\n---\n"         # 4 lines
CHAPTERS = chapters()


def page(folder, text, name="page.md"):
    (folder / name).write_text(text, "utf-8")
    return Page(folder / name)


# ---- a page ---------------------------------------------------------------------------------------------------------

def test_a_page_has_its_cells_with_their_lines_tags_and_source(tmp_path):
    read = page(tmp_path, HEADER + "# Title\n\n```{code-cell} ipython3\n:tags: [hide-input, a]\n\nx = 1\n```\n\n"
                "```python\nno_cell\n```\n```{code-cell} ipython3\nx\n```\n")
    assert read.runs and read.title == "Title"
    assert [(c.line, c.content, c.end, c.tags, c.source) for c in read.cells] == [
        (7, 9, 11, ["hide-input", "a"], "\nx = 1"), (16, 17, 18, [], "x")]


def test_prose_is_what_is_no_code_formula_link_target_or_markup(tmp_path):
    read = page(tmp_path, HEADER + "a `code 1.5` b $x = 2.5$ c [text](page.md#3.5) d\n$$\n4.5\n$$\n```\n5.5\n```\n"
                "```{admonition} Title\n:class: tip\ntext `6.5`\n```\n<details><summary>more</summary>\n| row | 7 |\n")
    words = [line.split() for line in read.prose()]
    assert words[4] == ["a", "b", "c", "[text]", "d"]
    assert words[5:12] == [[], [], [], [], [], [], ["Title"]]
    assert words[12:16] == [[], ["text"], [], ["more"]] and words[16] == ["|", "row", "|", "7", "|"]


def test_a_page_whose_front_matter_has_no_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="page.md: the front matter has no end"):
        page(tmp_path, "---\nminutes: 3\n\n# Title\n")


# ---- docs/run.py ----------------------------------------------------------------------------------------------------

@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty folder of pages, which docs/run.py reads."""
    monkeypatch.setattr(run, "DOCS", tmp_path)
    return tmp_path


def test_the_runner_shows_what_the_last_line_of_each_cell_is(book, capsys):
    page(book, HEADER + "```{code-cell} ipython3\nx = 20\nx + 1\n```\n```{code-cell} ipython3\nprint(x)\n```\n")
    assert run.main(["page.md"]) == 0
    assert re.fullmatch(r"20\npage.md: 2 cells, .* s, .* s of CPU\n", capsys.readouterr().out)


def test_a_cell_that_fails_is_shown_with_the_line_of_the_page_and_its_text(book, capsys):
    page(book, HEADER + "# A\n\n```{code-cell} ipython3\n:tags: [hide-input]\ndef f(x):\n    return 1 / x\n```\n\n"
         "```{code-cell} ipython3\n\nf(0)\n```\n")
    assert run.main(["page"]) == 1
    said = capsys.readouterr().err
    assert f'File "{book}/page.md", line 15' in said and f'File "{book}/page.md", line 10' in said
    assert "    return 1 / x\n" in said and said.endswith("ZeroDivisionError: division by zero\n")
    assert "run.py" not in said


def test_a_cell_that_calls_sys_exit_fails(book, capsys):
    page(book, HEADER + "```{code-cell} ipython3\nimport sys\nsys.exit(0)\n```\n")
    assert run.main(["page"]) == 1
    said = capsys.readouterr().err
    assert f'File "{book}/page.md", line 7' in said and said.endswith("SystemExit: 0\n")


def test_a_cell_with_a_syntax_error_is_shown_with_the_line_of_the_page(book, capsys):
    page(book, HEADER + "```{code-cell} ipython3\nx = = 1\n```\n")
    assert run.main(["page"]) == 1
    said = capsys.readouterr().err
    assert f'File "{book}/page.md", line 6\n    x = = 1\n' in said and "run.py" not in said


@pytest.mark.parametrize("given, message", [
    ("paeg.md", "there is no page docs/paeg.md; did you mean page.md?"),
    ("headless", "docs/headless.md has not the header of a notebook, so its cells are not run"),
    ("prose.md", "docs/prose.md has no cells to run"),
    ("open.md", "docs/open.md: the front matter has no end"),
])
def test_what_the_runner_cannot_run_is_one_line_and_status_2(book, capsys, given, message):
    page(book, HEADER + "```{code-cell} ipython3\n1\n```\n")
    page(book, "```{code-cell} ipython3\n1\n```\n", "headless.md")
    page(book, "# Words\n", "prose.md")
    (book / "open.md").write_text("---\n# Words\n")
    assert run.main([given]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


# ---- docs/notebooks.py ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("chapter", CHAPTERS, ids=[chapter.name for chapter in CHAPTERS])
def test_the_notebook_of_a_chapter_is_valid_has_its_cells_and_nothing_that_only_myst_shows(chapter):
    notebook = json.loads(json.dumps(notebooks.notebook(chapter)))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | code
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"]) and "".join(cell["source"]).strip()
    assert ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"] == [
        cell.source.strip("\n") for cell in chapter.cells]
    assert "pip install ." in "".join(cells[0]["source"]) and cells[0]["cell_type"] == "markdown"
    for cell in cells:
        if cell["cell_type"] == "markdown":
            left = re.search(r"^ *(`{3,}|:{3,})\{.*|\{[a-z]+\}`|^\([\w-]+\)=$|\]\([\w-]+\.md", "".join(cell["source"]),
                             re.MULTILINE)
            assert not left, left[0]


def test_a_notebook_has_included_source_as_text_and_links_to_the_site():
    chapter = Page(DOCS / "softmax_cross_entropy.md")
    text = "".join("".join(cell["source"]) + "\n" for cell in notebooks.notebook(chapter)["cells"])
    assert "`minigrad/ops/softmax.py`\n\n```python\ndef backward(self, dy, p, axis):\n" in text


def test_two_figures_of_one_page_share_no_id_and_each_header_of_a_table_has_a_scope():
    shown = ""
    for last in (2, 3):
        fig = lesson.figure()
        fig.add_subplot().plot([0, 1], [0, last])
        shown += lesson.show(fig, f"a line from 0 up to {last}").markup
    ids = re.findall(r' id="([^"]*)"', shown)
    assert len(ids) == len(set(ids)) > 0
    assert lesson.table(["step", "loss"], [(0, 1.5)]).markup.count('<th scope="col"') == 2


@pytest.mark.parametrize("block, message", [
    ("```{toctree}\n```", r"page.md:5: a notebook cannot show \{toctree\}"),
    ("```{literalinclude} ../train.py\n:lines: 3-4\n```", "page.md:5: choose the lines by :pyobject:, not by :lines:"),
    ("```{literalinclude} ../train.py\n:pyobject: mian\n```", "page.md:5: train.py has no mian"),
    ("```{literalinclude} ../trian.py\n```", "trian.py"),
])
def test_what_a_notebook_cannot_show_is_refused_with_its_line(tmp_path, block, message):
    (tmp_path / "docs").mkdir()
    (tmp_path / "train.py").write_text("def main():\n    pass\n")
    with pytest.raises((ValueError, OSError), match=message):
        notebooks.notebook(page(tmp_path / "docs", HEADER + block + "\n"))


def test_links_to_pages_lead_to_the_site_and_others_stay(tmp_path):
    read = page(tmp_path, HEADER + "(label)=\n[a](tape.md#nodes) [b](gpt-step.html#f1) [c](#here)\n")
    assert "".join(notebooks.notebook(read)["cells"][1]["source"]) == (
        "[a](site/tape.html#nodes) [b](site/gpt-step.html#f1) [c](#here)")


def test_the_command_writes_a_notebook_for_each_chapter(tmp_path, capsys):
    assert notebooks.main([str(tmp_path / "out")]) == 0
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(chapter.name for chapter in CHAPTERS)
    assert capsys.readouterr().out == f"wrote {len(CHAPTERS)} notebooks into {tmp_path / 'out'}\n"


@pytest.mark.parametrize("given", [[], ["a", "b"], ["--help"], ["file"], [""], ["folder"]])
def test_bad_arguments_of_the_command_are_one_line_and_status_2(tmp_path, monkeypatch, capsys, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder" / f"{CHAPTERS[-1].name}.ipynb").mkdir(parents=True)        # cannot be written
    assert notebooks.main(given) == 2
    assert capsys.readouterr().err.count("\n") == 1
