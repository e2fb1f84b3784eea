"""What holds for the text of the book. tests/site_suite.py builds the site and runs the notebooks."""
import ast
import functools
import importlib.util
import inspect
import re
import runpy
import sys

import pytest

import minigrad as mg
from minigrad.grade.exercises import EXERCISES
from minigrad.grade.practice import PRACTICE
import run
from pages import DOCS, ORDER, Page, chapters

CHAPTERS = chapters()
READ = [Page(DOCS / f"{name}.md") for name in ("index", "api", "map", "glossary", "teaching") if
        (DOCS / f"{name}.md").exists()] + CHAPTERS
LONGEST = {"learning_to_speak": 395, "optimizers": 385, "from_gpt2": 343, "attention": 320,
           "linear": 266}                       # lines; of another page 250
PACKAGES = {"minigrad", "gpt", "numpy", "matplotlib", "tokenizers", *sys.stdlib_module_names}

# Decimals that are typed in prose because they define something: page -> what stands there. A number that was measured
# is printed by a cell.
DEFINITIONS = {"softmax_cross_entropy": ["rises by 0.01"]}


def named(pages):
    return pytest.mark.parametrize("page", pages, ids=[page.name for page in pages])


@functools.cache
def prose(page):
    return "\n".join(page.prose())


def mentions(text, term):
    """Where a text has a term, also in the plural, in capitals or over the end of a line."""
    words = r"\s+".join(map(re.escape, term.split()))
    return re.search(rf"(?<![\w-]){words}(?:e?s)?(?![\w-])", text, re.IGNORECASE)


# ---- the order of reading -------------------------------------------------------------------------------------------

def toctrees():
    """The names in each toctree of the index."""
    return [[line.strip() for line in fence.source.splitlines() if line.strip()]
            for fence in Page(DOCS / "index.md").fences if fence.directive == "toctree"]


def test_the_two_ways_of_the_index_are_the_chapters_in_the_order_in_which_they_are_read():
    train, backward = toctrees()[:2]
    assert sorted(train + backward) == sorted(page.name for page in CHAPTERS)
    for way in (train, backward):
        assert way == [name for name in ORDER if name in way]


def test_every_page_stands_in_one_toctree_and_every_entry_is_a_page():
    entries = [name for tree in toctrees() for name in tree]
    pages = [str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")]
    assert sorted(entries) == sorted(name for name in pages if name != "index")


def test_the_glossary_has_each_term_in_one_line_with_the_chapter_that_introduces_it():
    rows = re.findall(r"^\| (.+?) \| (.+) \| \[(.+?)\]\((\w+)\.md\) \|$",
                      (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE)
    introduced = {(term, page.name): page.title for page in CHAPTERS for term in page.terms("introduces")}
    assert {(term, name): title for term, _, title, name in rows} == introduced
    terms = [term for term, *_ in rows]
    assert terms == sorted(terms, key=str.lower)


@named(CHAPTERS)
def test_the_header_of_a_chapter_makes_its_cells_run_and_says_how_long_it_takes_and_which_terms_it_introduces(page):
    assert page.runs and page.cells
    assert page.front["minutes"].isdigit() and page.terms("introduces") and "uses" in page.front


@pytest.mark.parametrize("name", ["index", "teaching"])
def test_a_table_of_the_chapters_has_the_titles_and_minutes_in_their_headers(name):
    text = (DOCS / f"{name}.md").read_text("utf-8")
    rows = re.findall(r"^\| \[([^]]+)\]\((\w+)\.md\) \|.*\| (\d+) \|$", text, re.MULTILINE)
    assert sorted(rows) == sorted((page.title, page.name, page.front["minutes"]) for page in CHAPTERS)


def test_a_term_is_introduced_once_and_used_only_from_then_on():
    known = {}
    for page in CHAPTERS:
        for term in page.terms("introduces"):
            assert term not in known, f"{page.name} and {known[term]} introduce {term}"
            assert mentions(prose(page), term), f"{page.name} introduces {term}, which its prose does not contain"
            known[term] = page.name
        for term in page.terms("uses"):
            assert term in known, f"{page.name} uses {term}, which neither it nor an earlier chapter introduces"


def test_the_prose_of_a_chapter_names_a_later_term_only_beside_a_link_to_its_chapter():
    for n, page in enumerate(CHAPTERS):
        later = {term: other.name for other in CHAPTERS[n + 1:] for term in other.terms("introduces")}
        written = page.text.split("\n")
        for paragraph in re.finditer(r"(?:.*\S.*\n?)+", prose(page)):
            line = prose(page)[:paragraph.start()].count("\n") + 1
            links = "\n".join(written[line - 1:line + paragraph[0].count("\n")])
            for term, chapter in later.items():
                found = mentions(paragraph[0], term)
                assert not found or f"({chapter}.md" in links, (
                    f"{page.path.name}, near line {line}: {term} is introduced by {chapter}.md: link to it, or say it "
                    "in other words")


@named(CHAPTERS[:-1])
def test_the_last_paragraph_of_a_chapter_leads_to_the_next_one(page):
    following = CHAPTERS[CHAPTERS.index(page) + 1]
    last = page.text.rstrip().rsplit("\n\n", 1)[-1]
    assert f"({following.name}.md" in last, f"{page.path.name} must end with a link to {following.path.name}"


# ---- prose ----------------------------------------------------------------------------------------------------------

def decimals(page):
    """The lines of prose with a decimal number that is no definition."""
    text = prose(page)
    for definition in DEFINITIONS.get(page.name, []):
        assert definition in text, f"{page.name} does not have {definition!r}: remove it from the definitions"
        text = text.replace(definition, "")
    return [f"{page.path.name}:{number}: {line.strip()}" for number, line in enumerate(text.split("\n"), 1)
            if re.search(r"(?<![\w.])\d+\.\d|\d ?%|\de-?\d", line)]


@named(READ)
def test_no_measured_number_is_typed_in_prose(page):
    found = "\n".join(decimals(page))
    assert not found, f"print it in a cell, or put it into code or a formula if it defines something:\n{found}"


@named(READ)
def test_no_sentence_points_at_a_row_or_column_by_its_number(page):
    found = re.search(r"\b(second|third|fourth|fifth|sixth|last) (row|column|bar|panel)\b", prose(page))
    assert not found, f"{page.path.name}: {found[0]!r} is wrong as soon as a row is added: name what stands there"


@named(READ)
def test_a_page_is_not_too_long(page):
    assert len(page.lines) <= LONGEST.get(page.name, 250)


def anchors(page):
    """The anchors of a page: its headings as MyST makes them, and its labels."""
    headings = re.findall(r"^#{1,3} (.*)", "\n".join(page.lines), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
    return {*slugs, *re.findall(r"^\(([\w-]+)\)=$", page.text, re.MULTILINE)}


@named([Page(path) for path in sorted(DOCS.rglob("*.md"))])
def test_the_pages_and_anchors_that_a_page_links_to_are_there(page):
    for target, anchor in re.findall(r"\]\(([\w./-]*\.md)?(?:#([^)]*))?\)", page.text):
        other = page if not target else Page(page.path.parent / target)
        assert not anchor or anchor in anchors(other), f"{page.path.name}: {target}#{anchor}"


# ---- cells ----------------------------------------------------------------------------------------------------------

def calls(tree, name):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            and node.func.id == name]


@named(READ)
def test_a_cell_imports_only_this_project_and_what_it_requires_and_opens_no_file(page):
    for cell in page.cells:
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            for module in modules:
                assert module.partition(".")[0] in PACKAGES, f"{page.path.name}:{cell.line}: imports {module}"
        assert not calls(tree, "open") and ".read_text(" not in cell.source, f"{page.path.name}:{cell.line}: reads"


@named(READ)
def test_every_figure_is_shown_with_words_for_a_reader_who_cannot_see_it(page):
    for cell in page.cells:
        tree = ast.parse(cell.source)
        for call in calls(tree, "show"):
            assert len(call.args) == 2 and not isinstance(call.args[1], ast.Name), f"{page.path.name}:{cell.line}"
        drawn = [node for statement in tree.body if not isinstance(statement, ast.FunctionDef)
                 for node in calls(statement, "figure")]
        assert len(drawn) == 0 or calls(tree, "show"), f"{page.path.name}:{cell.line}: a figure that is not shown"


@named(READ)
def test_no_line_of_a_cell_is_cut_off_at_the_edge_of_the_page(page):
    for cell in page.cells:
        for number, line in enumerate(cell.source.split("\n"), cell.content):
            shown = {"remove-input", "remove-cell"}.isdisjoint(cell.tags)
            assert len(line) <= 88 or not shown, f"{page.path.name}:{number} has {len(line)} columns, at most 88"


# ---- what the reference pages name ----------------------------------------------------------------------------------

@named([page for page in READ if page.name in ("index", "map", "teaching")])
def test_the_files_functions_and_modules_that_a_page_names_are_there(page):
    path = r"`((?:minigrad|gpt|docs|tests)/[\w./-]*|train\.py)`"
    for path, name in re.findall(rf"{path}(?:, (?:class|function) `(\w+)`)?", page.text):
        assert (DOCS.parent / path).exists(), path
        if name:
            assert re.search(rf"^(def|class) {name}\b", (DOCS.parent / path).read_text("utf-8"), re.MULTILINE), name
    for module in re.findall(r"python -m ((?:minigrad|gpt)[\w.]*)", page.text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"(?:pytest|python) ((?:docs|tests)/[\w.]+)", page.text):
        assert (DOCS.parent / path).exists(), path


def test_the_map_says_where_to_change_at_least_ten_things():
    rows = re.findall(r"^\| .* \| .* \| .* \|$", (DOCS / "map.md").read_text("utf-8"), re.MULTILINE)
    assert len(rows) - 2 >= 10


# ---- ops and exercises ----------------------------------------------------------------------------------------------

def test_the_reference_has_every_op_and_every_public_name(monkeypatch):
    own = {name: op for name, op in mg.OPS.items() if op.__module__.startswith("minigrad.ops.")}
    monkeypatch.setattr(mg, "OPS", own)
    shown = "".join(run.run(Page(DOCS / "api.md")))
    assert all(f'id="op-{name}"' in shown for name in own)
    functions = [name for name, f in vars(mg.functional).items() if inspect.isfunction(f) and name[0] != "_"
                 and f.__module__ == "minigrad.functional"]
    classes = [name for module in (mg.nn, mg.optim) for name, c in vars(module).items()
               if inspect.isclass(c) and c.__module__ == module.__name__]
    for name in [*functions, *classes, *mg.__all__]:
        assert re.search(rf"<code>(F\.)?{name}\b", shown), name


STUBS = {path.name: {name: f for name, f in runpy.run_path(str(path)).items() if inspect.isfunction(f)}
         for path in sorted((DOCS / "exercises").glob("*.py"))}
GRADED = {name.replace(".", "_"): name for name in [*EXERCISES, *(f"{op}.backward" for op in mg.OPS | PRACTICE)]}


def exercises():
    """The exercises that the chapters have: what they pass to check."""
    return {name for page in CHAPTERS for name in re.findall(r"check\(\"([\w.]+)\"", page.text)}


def test_every_exercise_stands_in_a_chapter_and_has_one_stub():
    stubs = [name for functions in STUBS.values() for name in functions]
    assert sorted(stubs) == sorted(set(stubs))
    graded = {*EXERCISES, *(f"{op}.backward" for op in PRACTICE)}
    assert not graded - exercises(), "no chapter has these"
    assert not {name.replace(".", "_") for name in exercises()} - {*stubs}, "these have no stub"
    assert not {*stubs} - {name.replace(".", "_") for name in exercises()}, "no chapter has these"


@pytest.mark.parametrize("file, name", [(file, name) for file, functions in STUBS.items() for name in functions])
def test_a_stub_says_its_arguments_and_raises_not_implemented(file, name):
    stub = STUBS[file][name]
    assert name in GRADED and stub.__doc__
    arguments = list(inspect.signature(stub).parameters)
    with pytest.raises(NotImplementedError):
        stub(*arguments)


@pytest.mark.parametrize("file", STUBS)
def test_a_file_of_stubs_says_how_it_is_graded(file):
    assert f"python -m minigrad.grade docs/exercises/{file}" in (DOCS / "exercises" / file).read_text("utf-8")


def test_what_the_default_run_says_in_learning_to_speak_stands_in_its_output_in_the_readme():
    page = (DOCS / "learning_to_speak.md").read_text(encoding="utf-8")
    said = page.split("```text\n", 1)[1].split("```", 1)[0]
    assert said in (DOCS.parent / "README.md").read_text(encoding="utf-8")
