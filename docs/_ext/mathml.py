"""Formulas as MathML, made when the site is built: a reader needs no script, no font and no network.

docutils converts the LaTeX. It refuses what it does not know; the build then fails with the file and the line.
"""
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(node: nodes.Element, as_block: bool) -> str:
    """The MathML of a formula; a warning, and its LaTeX, if docutils does not know a part of it."""
    try:
        return str(tex2mathml(node.astext(), as_block=as_block))
    except MathError as error:
        logger.warning("formula: %s: %s", error, node.astext(), location=node)
        return f"<code>{node.astext()}</code>"


def visit_inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(mathml(node, False))
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.Element) -> None:
    label = node.get("label")
    anchor = f' id="equation-{label}"' if label else ""
    writer.body.append(f'<div class="math"{anchor}>{mathml(node, True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
