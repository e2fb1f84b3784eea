"""A Record as one self-contained HTML file: it opens from disk and loads nothing else.

Arrays that do not fit into the budget are sampled evenly; their shape, largest magnitude, norm and mean are those of
the whole array. The files of the folder web/ are the page's program; minigrad.step.page_data has what it shows.
"""
import html as markup
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.step.page_arrays import CELLS, ArrayStore
from minigrad.step.page_data import PICTURE, Contents, contents_of, data_of

if TYPE_CHECKING:
    from minigrad.step.backward_record import Record

WEB = Path(__file__).parent / "web"
# the files of a page; of the scripts, one that uses a name at its top level comes after the one that has it
PAGE = ("page.html",
        ("basics", "layout", "graph", "figures", "tables", "charts", "quiz", "scatter", "tour", "media", "print"),
        ("helpers", "arrays", "elements", "heatmap", "cells", "positions", "breakpoints", "graph", "check",
         "left_column", "picture", "right_column", "why", "chart", "nudge", "scatter", "update", "quiz", "tour",
         "glossary", "page"))
EMBEDDED = ("embedded.html", ("basics", "figures", "tables", "print", "embedded"),
            ("helpers", "arrays", "elements", "heatmap", "cells", "positions", "check", "left_column", "picture",
             "right_column", "why", "embedded"))
STEP_BUDGET, RECORD_BUDGET = 150e3, 2e6         # bytes of a frame: the notebook or page around it stores it


def write(record: "Record", path: str | Path, budget: float = 8e6) -> list[str]:
    """Write the page of a record into one file of at most `budget` bytes.

    Returns sentences that say what was sampled or left out to stay within the budget; the page shows them too.
    ValueError if even the smallest page is larger.
    """
    page, omitted = _fit(contents_of(record), budget, PAGE)
    Path(path).write_text(page, encoding="utf-8")
    return omitted


def html(record: "Record", budget: float = 8e6) -> str:
    """The page of a record, as text."""
    return _fit(contents_of(record), budget, PAGE)[0]


def iframe(contents: Contents) -> str:
    """An <iframe> for a notebook or a page of the book. Of a Record its page, of at most 2 MB, in a frame whose height
    can be dragged. Of one Step what is needed to read its lines and their arrays, as high as its contents: at most
    150 kB, if that can be, else 2 MB."""
    files, resize = (EMBEDDED, "") if contents.alone else (PAGE, "min-height:420px;resize:vertical;")
    try:
        page, _ = _fit(contents, STEP_BUDGET if contents.alone else RECORD_BUDGET, files)
    except ValueError:
        if not contents.alone:
            raise
        page, _ = _fit(contents, RECORD_BUDGET, files)
    for character, escaped in ("&", "&amp;"), ("<", "&lt;"), ("'", "&#39;"):           # " and > are too frequent
        page = page.replace(character, escaped)
    title = markup.escape(contents.title or "one backward, step by step")
    return (f"<iframe srcdoc='{page}' title=\"{title}\" style=\"display:block;box-sizing:content-box;{resize}"
            'width:calc(100% - 2px);height:min(780px,85vh);border:1px solid #8886;border-radius:8px"></iframe>')


def _fit(contents: Contents, budget: float, files: tuple[str, tuple[str, ...], tuple[str, ...]]
         ) -> tuple[str, list[str]]:
    """The page of these files with as much as fits into the budget, and what was omitted."""
    body = (WEB / files[0]).read_text(encoding="utf-8")
    template = (WEB / "document.html").read_text(encoding="utf-8").replace("<!--body-->", body)
    for kind, names in (("css", files[1]), ("js", files[2])):
        parts = [(WEB / f"{name}.{kind}").read_text(encoding="utf-8") for name in names]
        template = template.replace(f"/*{kind}*/", "\n".join(parts))
    if files is not PAGE:                       # small: without indentation and comments on lines of their own
        template = re.sub(r"(?m)^ +|^ *//.*\n|^\n", "", template)
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
