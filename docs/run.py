"""Run the cells of pages without building the site: python docs/run.py learning_to_speak.md

The cells of a page run one after the other in one namespace; a traceback names the line of the page.
"""
import ast
import linecache
import re
import sys
import time
from pathlib import Path

import matplotlib

DOCS = Path(__file__).parent
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n((?:---\n.*?\n---\n|:[^\n]*\n)*)(.*?)^```", re.DOTALL | re.MULTILINE)


def run(path: Path) -> int:
    """Run all cells of a page and show what their last lines evaluate to, as a notebook would. Returns how many."""
    source = path.read_text("utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    linecache.cache[str(path)] = len(source), None, source.splitlines(True), str(path)
    cells = list(CELL.finditer(source))
    for cell in cells:
        above = source[:cell.start(2)].count("\n")
        tree = ast.parse("\n" * above + cell[2], str(path))
        last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(path), "exec"), names)
        if last is not None:
            shown = eval(compile(last, str(path), "eval"), names)
            getattr(shown, "_repr_html_", shown.__repr__)()
    return len(cells)


if __name__ == "__main__":
    matplotlib.use("Agg")
    for page in sys.argv[1:] or sorted(p.name for p in DOCS.glob("*.md")):
        began, cpu = time.perf_counter(), time.process_time()
        count = run(DOCS / page)
        print(f"{page}: {count} cells, {time.perf_counter() - began:.1f} s, {time.process_time() - cpu:.1f} s of CPU")
