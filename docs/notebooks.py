"""Write each chapter as a notebook: python docs/notebooks.py OUT

A notebook needs nothing but the package: source that a page includes is put in as text, and admonitions are quotations.
Links lead to the book's site in OUT/site, which python -m sphinx -W docs OUT/site builds. The cells are not run.
"""
import ast
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from pages import DOCS, TEXT, Fence, Page, chapters

INSTALL = """*This notebook is a chapter of the book about minigrad, and runs with this package alone. Install it once,
in a clone of the project:* `pip install .` *Its links lead to the book's site in the folder `site` beside it; if there
is none,* `python -m sphinx -W docs {out}/site` *builds it.*"""
HIDDEN = {"hide-input", "remove-input", "remove-cell"}
IGNORED = {"language", "caption", "emphasize-lines"}        # options of literalinclude that do not choose its lines


def notebook(page: Page, out: str = "OUT") -> dict[str, Any]:
    """The notebook of a page, as JSON in nbformat 4.5. ValueError for a directive that no notebook shows."""
    parts: list[tuple[str, Fence | None]] = [(INSTALL.format(out=out), None)]
    text, at = "", page.body
    for fence in page.fences:
        text += "\n".join(page.lines[at:fence.line - 1]) + "\n"
        at = fence.end
        if fence.directive != "code-cell":
            text += block(page, fence) + "\n"
            continue
        parts += [(text, None), (fence.source, fence)]
        text = ""
    parts.append((text + "\n".join(page.lines[at:]), None))
    cells: list[dict[str, Any]] = []
    for source, cell in parts:
        source = source.strip("\n") if cell else markdown(source)
        if not source:
            continue
        entry: dict[str, Any] = {"cell_type": "code" if cell else "markdown", "id": f"{page.name}-{len(cells)}"[-64:],
                                 "metadata": {}, "source": source.splitlines(True)}
        if cell:
            entry |= {"execution_count": None, "outputs": []}
            if cell.tags:
                entry["metadata"] = {"tags": cell.tags, "jupyter": {"source_hidden": not HIDDEN.isdisjoint(cell.tags)}}
        cells.append(entry)
    return {"cells": cells, "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name":
            "python3"}, "language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def block(page: Page, fence: Fence) -> str:
    """What Jupyter shows of a block: a directive that it does not know as text."""
    if not fence.directive:
        return "\n".join(page.lines[fence.line - 1:fence.end])
    if fence.directive == "literalinclude":
        return included(page, fence)
    if fence.directive in TEXT:
        title = fence.argument if fence.directive == "admonition" else fence.directive.capitalize()
        return "\n".join(f"> {line}".rstrip() for line in [f"**{title}**", "", *fence.source.split("\n")])
    raise ValueError(f"docs/{page.path.name}:{fence.line}: a notebook cannot show {{{fence.directive}}}")


def included(page: Page, fence: Fence) -> str:
    """The source that literalinclude names, under the path of its file."""
    path = page.path.parent / fence.argument
    source = path.read_text("utf-8")
    for option in fence.options.keys() - IGNORED - {"pyobject"}:
        raise ValueError(f"docs/{page.path.name}:{fence.line}: choose the lines by :pyobject:, not by :{option}:")
    if "pyobject" in fence.options:
        node: Any = ast.parse(source)
        for name in fence.options["pyobject"].split("."):
            node = next((n for n in node.body if getattr(n, "name", "") == name), None)
            if node is None:
                raise ValueError(f"docs/{page.path.name}:{fence.line}: {path.name} has no {fence.options['pyobject']}")
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        source = textwrap.dedent("\n".join(source.split("\n")[first - 1:node.end_lineno]))
    shown = path.resolve().relative_to(DOCS.parent).as_posix()
    return f"`{shown}`\n\n```python\n{source.rstrip()}\n```"


def markdown(text: str) -> str:
    """Without MyST's labels; links to pages lead to the site."""
    text = re.sub(r"^\([\w-]+\)=\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\(([\w-]+)\.(?:md|html)((?:#[^)]*)?)\)", r"](site/\1.html\2)", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip("\n")


def main(given: list[str]) -> int:
    if len(given) != 1 or not given[0] or given[0].startswith("-"):
        print("usage: python docs/notebooks.py OUT, the folder to write the notebooks into", file=sys.stderr)
        return 2
    out = Path(given[0])
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = {page.name: notebook(page, given[0]) for page in chapters()}
        for name, content in written.items():
            (out / f"{name}.ipynb").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
    except OSError as error:
        print(f"docs/notebooks.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"docs/notebooks.py: {error}", file=sys.stderr)
        return 2
    print(f"wrote {len(written)} notebooks into {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
