"""A Record as one self-contained HTML file: it opens from disk and loads nothing else.

Arrays that do not fit into the budget are sampled evenly; their shape, largest magnitude, norm and mean are those of
the whole array. The files of the folder web/ are the page's program; minigrad.step.page_data has what it shows.
"""
import html as markup
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.step.page_arrays import CELLS, ArrayStore
from minigrad.step.page_data import PICTURE, Contents, contents_of, data_of

if TYPE_CHECKING:
    from minigrad.step.backward_record import Record

WEB = Path(__file__).parent / "web"
STYLES = "layout", "figures", "tables", "charts", "quiz", "scatter", "tour", "media", "embedded"
# one script: a name that a file uses at its top level comes before it
SCRIPTS = ("helpers", "arrays", "elements", "heatmap", "cells", "positions", "graph", "check", "left_column",
           "picture", "right_column", "why", "chart", "nudge", "scatter", "update", "quiz", "tour", "glossary", "embedded",
           "page")
# those that one Step in a page of other text does without: it has no graph, no nudges, no optimizer, no quiz
WHOLE = {"charts", "quiz", "scatter", "tour", "graph", "chart", "nudge", "update", "glossary"}
FRAME_BUDGET = 2e6                              # bytes of a page in a notebook, which stores it in its file
STEP_BUDGET = 150e3                             # of the page of one Step: several stand in a chapter


def write(record: "Record", path: str | Path, budget: float = 8e6) -> list[str]:
    """Write the page of a record into one file of at most `budget` bytes.

    Returns sentences that say what was sampled or left out to stay within the budget; the page shows them too.
    ValueError if even the smallest page is larger.
    """
    page, omitted = _fit(contents_of(record), budget)
    Path(path).write_text(page, encoding="utf-8")
    return omitted


def html(record: "Record", budget: float = 8e6) -> str:
    """The page of a record, as text."""
    return _fit(contents_of(record), budget)[0]


def iframe(contents: Contents) -> str:
    """A page as an <iframe> for a notebook, of at most 2 MB; that of one Step of at most 150 kB."""
    budget = STEP_BUDGET if contents.embedded else FRAME_BUDGET
    page = markup.escape(_fit(contents, budget)[0], quote=False).replace("'", "&#39;")         # " is too frequent
    title = markup.escape(contents.title or "one backward, step by step")
    return (f"<iframe srcdoc='{page}' title=\"{title}\" style=\"width:100%;height:min(780px,85vh);min-height:420px;"
            'resize:vertical;border:1px solid #8886;border-radius:8px"></iframe>')


def _fit(contents: Contents, budget: float) -> tuple[str, list[str]]:
    """The page with as much as fits into the budget, and what was omitted."""
    template = (WEB / "page.html").read_text(encoding="utf-8")
    for kind, names in (("css", STYLES), ("js", SCRIPTS)):
        parts = [(WEB / f"{name}.{kind}").read_text(encoding="utf-8") for name in names
                 if not (contents.embedded and name in WHOLE)]
        template = template.replace(f"/*{kind}*/", "\n".join(parts))
    for forward, saved, bounds in (True, True, CELLS), (False, True, CELLS[-1:]), (False, False, CELLS[-1:]):
        store = ArrayStore()
        data = data_of(contents, store, forward, saved)
        for cells in bounds:
            arrays = store.encoded(cells)
            omitted = _omitted(arrays, store.most, cells, forward, saved)
            text = json.dumps(data | {"arrays": arrays, "omitted": omitted}, separators=(",", ":"), ensure_ascii=False,
                              allow_nan=False)
            page = template.replace("/*data*/", text.replace("<", "\\u003c"))       # no </script> inside
            size = len(page.encode())
            if size <= budget:
                return page, omitted
    raise ValueError(f"the page needs {size / 1e6:.2f} MB even with {cells} numbers of each array and no saved values: "
                     f"over the budget of {budget / 1e6:.2f} MB; record a smaller model or raise budget=")


def _omitted(arrays: list[Any], most: list[int], cells: int, forward: bool, saved: bool) -> list[str]:
    """Sentences on what was left out to stay within the budget. most: numbers wanted of each array."""
    found = []
    sampled = sum("stride" in a for a, n in zip(arrays, most) if n > PICTURE)
    if sampled:
        found.append(f"{sampled} of {len(arrays)} arrays are sampled evenly, to at most {cells} numbers each; their "
                     "shapes, norms, means and largest magnitudes are those of the whole arrays")
    if not forward:
        found.append("the values of the lines of the forwards are left out")
    if not saved:
        found.append("the values saved for the backwards and the optimizer's steps over time are left out")
    return found
