"""Run the cells of pages without building the site: python docs/run.py learning_to_speak.md

The cells of a page run one after the other in one namespace; a traceback names the line of the page. Without a page,
all pages with cells run. Exit status 1 if a cell fails, 2 if there is no such page or it has not the header.
"""
import ast
import difflib
import linecache
import sys
import time
import traceback
from pathlib import Path

import matplotlib
from pages import DOCS, Page

HEADER = DOCS / "softmax_cross_entropy.md"


def run(page: Page) -> list[str]:
    """Run all cells of a page. Returns what a notebook would show of their last lines, as HTML where there is any."""
    path = str(page.path)
    linecache.cache[path] = len(page.text), None, page.text.splitlines(True), path
    names: dict[str, object] = {"__name__": "__main__"}
    shown: list[str] = []
    for cell in page.cells:
        tree = ast.parse("\n" * (cell.content - 1) + cell.source, path)
        last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path, "exec"), names)
        if last is not None:
            value = eval(compile(last, path, "eval"), names)
            if value is not None:
                shown.append(getattr(value, "_repr_html_", value.__repr__)())
    return shown


def find(given: str) -> Page:
    """The page of this name, with or without its folder and ending. ValueError if there is none, or if the site and a
    notebook would not run its cells."""
    name = Path(given).stem
    path = DOCS / f"{name}.md"
    if not path.exists():
        near = difflib.get_close_matches(name, [p.stem for p in DOCS.glob("*.md")], 1, 0.4)
        raise ValueError(f"there is no page docs/{name}.md" + (f"; did you mean {near[0]}.md?" if near else ""))
    page = Page(path)
    if not page.cells:
        raise ValueError(f"docs/{path.name} has no cells to run")
    if not page.runs:
        raise ValueError(f"docs/{path.name} has not the header of a notebook, so its cells are not run: copy the lines "
                         f"up to the second --- from docs/{HEADER.name}")
    return page


def main(given: list[str]) -> int:
    try:
        pages = [find(name) for name in given] or [page for page in map(Page, sorted(DOCS.glob("*.md"))) if page.runs]
    except ValueError as error:
        print(f"docs/run.py: {error}", file=sys.stderr)
        return 2
    for page in pages:
        began, cpu = time.perf_counter(), time.process_time()
        try:
            run(page)
        except (Exception, SystemExit) as error:
            error.__traceback__ = of_the_page(error, page)
            traceback.print_exception(error)
            return 1
        print(f"{page.path.name}: {len(page.cells)} cells, {time.perf_counter() - began:.1f} s, "
              f"{time.process_time() - cpu:.1f} s of CPU", flush=True)
    return 0


def of_the_page(error: BaseException, page: Page) -> object:
    """The traceback from the first line of the page on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(page.path):
        trace = trace.tb_next
    return trace


if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.exit(main(sys.argv[1:]))
