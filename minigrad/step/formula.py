"""An op's docstring as data: its sections, and its equations as text, LaTeX and MathML.

The first line of the docstring gives shapes. The sections axes, forward, backward, why, identity, source follow, each
from a line that begins with its name. Two or more spaces separate equations on one line; minigrad.step.notation
describes their notation.
"""
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Iterator

from minigrad.ops.op import Op, docstring
from minigrad.step.typeset import to_latex, to_mathml, to_text

SECTIONS = "axes", "forward", "backward", "why", "identity", "source"


@dataclass(frozen=True)
class Formula:
    """The sections of an op's docstring, in its own notation. An entry of forward or backward is one equation or clause
    (an equation with words around it)."""
    shapes: str
    axes: dict[str, list[str]]                  # letter in the shapes -> its word; of "..." a word for each last axis
    forward: list[str]
    backward: list[str]
    why: str
    identity: str
    source: str
    doc: str                                    # the whole docstring, without the indentation of the class
    names: frozenset[str]                       # of variables in the code and the equations

    @cached_property
    def text(self) -> str:
        """The docstring in its own layout, with the equations in Unicode: `da = dy bᵀ`."""
        lines = []
        for section, head, body in _sections(self.doc):
            if section in ("forward", "backward"):
                body = "    ".join(to_text(c, self.names) for c in re.split(r"\s{2,}", body))
            elif section == "shapes":
                body = body.replace("->", "→").replace("...", "…")
            lines.append((head + body).rstrip())
        return "\n".join(lines)

    @cached_property
    def latex(self) -> str:
        """The backward's equations, one below the other, as an `aligned` environment for math mode."""
        return to_latex(self.backward, self.names)

    @cached_property
    def forward_latex(self) -> str:
        """The forward's equations, likewise."""
        return to_latex(self.forward, self.names)

    @cached_property
    def mathml(self) -> str:
        """The backward's equations as one <math> element for an HTML page."""
        return to_mathml(self.backward, self.names)

    @cached_property
    def forward_mathml(self) -> str:
        """The forward's equations, likewise."""
        return to_mathml(self.forward, self.names)


def parse(op_class: type[Op]) -> Formula:
    """The formula of any op. Sections that its docstring does not have are empty. Under python -OO, `shapes` says that
    there are no docstrings."""
    doc = docstring(op_class)
    found: dict[str, list[str]] = {"shapes": [], **{section: [] for section in SECTIONS}}
    for section, _, body in _sections(doc):
        found.setdefault(section, []).append(body)
    forward, backward = ([c for line in found[s] for c in re.split(r"\s{2,}", line) if c]
                         for s in ("forward", "backward"))
    names = {name for f in (op_class.forward, op_class.backward) for name in f.__code__.co_varnames}
    names.update(re.findall(r"([^\W\d]\w*'?) \+?= ", "\n".join(forward + backward)))
    why, identity, source = (" ".join(found[s]) for s in ("why", "identity", "source"))
    shapes = " ".join(found["shapes"]) if sys.flags.optimize < 2 else doc
    axes = _axes(" ".join(found["axes"]))
    return Formula(shapes, axes, forward, backward, why, identity, source, doc, frozenset(names))


def _axes(section: str) -> dict[str, list[str]]:
    """The words for letters in `T query, S key, ... batch, token`: an entry of one word continues the one before."""
    found: dict[str, list[str]] = {}
    letter = ""
    for entry in filter(None, map(str.strip, section.split(","))):
        *start, word = entry.split()
        letter = " ".join(start) or letter
        found.setdefault(letter, []).append(word)
    return found


def _sections(doc: str) -> Iterator[tuple[str, str, str]]:
    """For each line: its section ("shapes" for the first line, "" for prose); its margin, with the section's name if it
    begins there; the rest of the line."""
    section = "shapes"
    for line in map(str.rstrip, doc.splitlines()):
        word, _, body = line.partition(" ")
        body = body.lstrip()
        if word in SECTIONS:
            section = word
        elif word or not body or section not in SECTIONS:       # no continuation of a section
            section, body = "shapes" if section == "shapes" and "->" in line else "", line
        yield section, line[:len(line) - len(body)], body
