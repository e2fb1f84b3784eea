"""Formulas as MathML, made when the site is built: a reader needs no script, no font and no network.

docutils converts the LaTeX. It refuses what it does not know; the build then fails with the file and the line.
"""
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

# docutils takes the index of an accented letter, of \hat x_j, for a limit: it stands below the letter.
ACCENTED = re.compile(r'<munderover>\s*(<mi>\w</mi>)\s*(<m.*?)\s*(<mo stretchy="false">.</mo>)\s*</munderover>',
                      re.DOTALL)

# A browser sets no space after the name of a function, as in ln p, wide spaces around max, and around a bar |.
SPACED = [(re.compile(pattern), rf'<mo stretchy="false" lspace="0" rspace="{space}">\1</mo>') for pattern, space in (
    (r'<mo stretchy="false">(\|)</mo>', "0"),
    (r"<mo>(max|min|&ApplyFunction;)</mo>(?=\s*<mo[^>]*>\()", "0"),
    (r"<mo>(max|min|&ApplyFunction;)</mo>", ".17em"))]
INDEXED = re.compile(r"<msub>\s*<mi>(?:log|ln)</mi>\s*<m(?:i|n)>\w+</m(?:i|n)>\s*</msub>(?!\s*<mo)")


def mathml(writer: Any, node: nodes.Element, as_block: bool) -> str:
    """The MathML of a formula; a warning, and its LaTeX, if docutils does not know a part of it."""
    formula = node.astext()
    try:
        found = str(tex2mathml(formula, as_block=as_block))
        found = ACCENTED.sub(r"<msub><mover accent='true'>\1\3</mover>\2</msub>", found)
        found = INDEXED.sub(r"\g<0><mo>&ApplyFunction;</mo>", found)
        for pattern, spaced in SPACED:
            found = pattern.sub(spaced, found)
        return found
    except (MathError, AttributeError, IndexError) as error:        # the latter two in docutils, for a & b and for ^2
        said, where = str(error).rstrip("."), place(node, str(error))
        if not isinstance(error, MathError):
            said = "& or \\\\ outside an environment such as aligned, or ^ or _ with nothing before it,"
        logger.warning("formula: %s in %s", said, " ".join(formula.split()), location=where)
        return f"<code>{writer.encode(formula)}</code>"


def place(node: nodes.Element, error: str) -> str:
    """The file and the line of what the error quotes, or of the formula. The line that a node has is that of its
    paragraph, give or take one: of the places with the same text, the nearest to it is taken."""
    parent: Any = node
    while parent.parent is not None and not (parent.source and parent.line):
        parent = parent.parent
    path, near = parent.source, parent.line or 1
    text = Path(path).read_text("utf-8")
    formula = node.astext().strip()
    quoted = re.search(r'"(.+?)"', error)
    inside = max(formula.find(quoted[1]), 0) if quoted else 0
    lines = [text.count("\n", 0, found.start() + inside) + 1 for found in re.finditer(re.escape(formula), text)]
    return f"{path}:{min(lines, key=lambda line: abs(line - near), default=near)}"


def visit_inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(mathml(writer, node, False))
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.Element) -> None:
    label = node.get("label")
    anchor = f' id="equation-{label}"' if label else ""
    writer.body.append(f'<div class="math"{anchor}>{mathml(writer, node, True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
