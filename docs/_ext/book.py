"""What the build of the book refuses and mends.

- Every cell that is written on a page was run, and none failed: a warning with the page, the line and the traceback
  otherwise, which -W turns into a failed build.
- A link to a file of html_extra_path, the stepper's page, leads to it, with its anchor, instead of downloading a copy.
- The source of a method begins at the left margin.
- The links at the foot of a chapter lead along the order in which the chapters are read, not that of the sidebar.
- Outputs kept for earlier sources are removed, and so are the notebooks that MyST-NB writes.
"""
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from pages import ORDER, Page
from sphinx import addnodes
from sphinx.util import logging

logger = logging.getLogger(__name__)


def check_cells(app: Any, doctree: nodes.document) -> None:
    """A warning unless all cells of this page have been run without an exception."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".md":
        return
    page = Page(path)
    data = getattr(app.env, "nb_metadata", {}).get(app.env.docname, {}).get("exec_data") or {}
    if data.get("traceback"):
        line, traceback = failure(page, data["traceback"])
        logger.warning("a cell failed\n%s", traceback, location=f"{path}:{line}")
        return
    written = re.findall(r"^ *[`:]{3,}\{code-cell\}", page.text, re.MULTILINE)
    run = [node for node in doctree.findall(nodes.container)
           if node.get("nb_element") == "cell_code" and node.get("exec_count")]
    if len(run) != len(written):
        logger.warning("only %d of %d cells were run: is the page's header that of a notebook, is a cell empty, or "
                       "inside another block?", len(run), len(written), location=f"{path}:1")


def failure(page: Page, raised: str) -> tuple[int, str]:
    """The line of the page at which a cell failed, and the traceback from there on. raised: the traceback of the
    client that ran the page, which ends with the source of the cell and the cell's own traceback."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", raised)
    found = re.search(r"following cell:\n-+\n(.*?)\n-+\n\s*(.*)", plain, re.DOTALL)
    if found is None:                           # the kernel died, or a cell took too long
        return 1, plain
    cells = [cell for cell in page.cells if cell.source.strip()]
    number, cell = next((n, cell) for n, cell in enumerate(cells, 1) if cell.source.strip() == found[1].strip())
    blank = re.match(r"\n*", cell.source)       # the client leaves out blank lines at the start
    place = re.search(rf"Cell In\[{number}\], line (\d+)", found[2])      # none where the value could not be shown
    line = cell.content + len(blank[0]) + (int(place[1]) - 1 if place else 0)
    return line, found[2][place.start() if place else 0:].rstrip()


def link_extra_files(app: Any, doctree: nodes.document) -> None:
    """MyST takes a link to a file that is no page for a download, and drops its anchor."""
    text = Path(app.env.doc2path(app.env.docname)).read_text("utf-8")
    for name in app.config.html_extra_path:
        written = re.findall(rf"\]\(((?:\.\./)*{re.escape(name)}[^)]*)\)", text)
        links = [node for node in doctree.findall(addnodes.download_reference)
                 if node["reftarget"].rpartition("/")[2] == name]
        for node, target in zip(links, written, strict=True):
            node.replace_self(nodes.reference("", "", *node.children, refuri=target, internal=True))


def dedent_sources(app: Any, doctree: nodes.document) -> None:
    """What literalinclude takes from a class is indented."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("source"):
            block.rawsource = textwrap.dedent(block.astext())
            block.children = [nodes.Text(block.rawsource)]


def link_in_order(app: Any, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """The chapter before and after a chapter; after the last one comes the map."""
    order = [*ORDER, "map"]
    if page not in order:
        return
    at = order.index(page)
    for name, neighbours in (("prev", order[:at][-1:]), ("next", order[at + 1:][:1])):
        for neighbour in neighbours:
            context[name] = {"link": app.builder.get_relative_uri(page, neighbour),
                             "title": app.env.titles[neighbour].astext()}


def remove_old_outputs(app: Any) -> None:
    """Keep, of the folders of conf.py's cache, that of today's sources."""
    for folder in (Path(app.confdir) / ".cache").glob("*"):
        if folder != Path(app.config.nb_execution_cache_path):
            shutil.rmtree(folder)


def remove_notebooks(app: Any, error: Exception | None) -> None:
    """MyST-NB writes the pages as notebooks beside the site; those for readers are made by docs/notebooks.py."""
    shutil.rmtree(Path(app.outdir).parent / "jupyter_execute", ignore_errors=True)


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", remove_old_outputs)
    app.connect("doctree-read", link_extra_files, priority=100)     # before Sphinx collects the downloads
    app.connect("doctree-read", dedent_sources)
    app.connect("doctree-read", check_cells)
    app.connect("html-page-context", link_in_order)
    app.connect("build-finished", remove_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
