"""An op's docstring as data: its sections, and its equations as text, LaTeX and MathML.

The first line of the docstring gives shapes. The sections axes, forward, backward, why, identity, source follow, each
from a line that begins with its name. Two or more spaces separate equations on one line; minigrad.step.notation
describes their notation. An equation that ends with a condition, `[if dropout]` or `[if b is given]`, is that of calls
for which this Python expression of inputs and keyword arguments is true.
"""
import inspect
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Iterator, Mapping

from minigrad.ops.op import Op, docstring, input_names
from minigrad.step.rerun import on_host
from minigrad.step.typeset import defined_names, to_latex, to_mathml, to_text

CONDITION = re.compile(r"(.*) \[if ([^\]]+)\]")
SECTIONS = "axes", "forward", "backward", "why", "identity", "source"


@dataclass(frozen=True)
class Formula:
    """The sections of an op's docstring, in its own notation. An entry of forward or backward is one equation or clause
    (an equation with words around it)."""
    shapes: str
    axes: dict[str, list[str]]                  # letter in the shapes -> its word; of "..." a word for each last axis
    forward: list[str]
    backward: list[str]
    why: str                                    # with its mathematics in Unicode
    identity: str
    source: str
    doc: str                                    # the whole docstring for this call, without the class's indentation
    names: frozenset[str]                       # of variables in the code and the equations

    @cached_property
    def text(self) -> str:
        """The docstring in its own layout, with the equations in Unicode: `da = dy bᵀ`."""
        lines = []
        for section, head, body in _sections(self.doc):
            if section in ("forward", "backward"):
                body = "    ".join(to_text(c, self.names) for c in re.split(r"\s{2,}", body))
            elif section == "why":
                body = to_text(body, self.names)
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


def parse(op_class: type[Op], call: Mapping[str, Any] | None = None) -> Formula:
    """The formula of any op, for a call of it. Sections that its docstring does not have are empty. Under python -OO,
    `shapes` says that there are no docstrings.

    call: the inputs and keyword arguments that were given, by name, as `call_of` finds them; without it all inputs and
    no keyword arguments. ValueError for a condition that cannot be evaluated.
    """
    doc = _doc_of_call(op_class, call)
    found: dict[str, list[str]] = {"shapes": [], **{section: [] for section in SECTIONS}}
    for section, _, body in _sections(doc):
        found.setdefault(section, []).append(body)
    forward, backward = ([c for line in found[s] for c in re.split(r"\s{2,}", line) if c]
                         for s in ("forward", "backward"))
    of_code = {name for f in (op_class.forward, op_class.backward) for name in f.__code__.co_varnames}
    names = frozenset(of_code | {name for clause in forward + backward for name in defined_names(clause)})
    why, identity, source = (" ".join(found[s]) for s in ("why", "identity", "source"))
    shapes = " ".join(found["shapes"]) if sys.flags.optimize < 2 else doc
    axes = _axes(" ".join(found["axes"]))
    return Formula(shapes, axes, forward, backward, to_text(why, names), identity, source, doc, names)


def call_of(step: Any) -> dict[str, Any]:
    """The inputs and keyword arguments of a step's op, by name; the latter on the host."""
    inputs = dict(zip(input_names(step.op_class, len(step.inputs)), step.inputs))
    return inputs | {name: on_host(value) for name, value in step.static.items()}


def _doc_of_call(op_class: type[Op], call: Mapping[str, Any] | None) -> str:
    """The docstring of an op with the equations of one call; sums over `axis` are over all axes if it is None."""
    parameters = list(inspect.signature(op_class.forward).parameters.values())[1:]
    known: dict[str, Any] = {p.name: p.default if p.default is not p.empty else () for p in parameters}
    known |= call or {}
    if call is None:
        known |= {p.name: True for p in parameters if p.kind is not p.KEYWORD_ONLY}
    lines, head = [], ""
    for section, margin, body in _sections(docstring(op_class)):
        if section in ("forward", "backward"):
            if known.get("axis", "") is None:
                body = re.sub(r"\b(sum|mean|var|max|min|softmax)_axis\(", r"\1(", body)
            clauses = [clause for clause in re.split(r"\s{2,}", body) if _applies(op_class, clause, known)]
            body = "    ".join(CONDITION.sub(r"\1", clause) for clause in clauses)
            head = margin if margin.strip() else head           # of a section whose first equations do not apply
            if not body:
                continue
            margin, head = head or margin, ""
        lines.append(margin + body)
    return "\n".join(lines)


def _applies(op_class: type[Op], clause: str, known: dict[str, Any]) -> bool:
    """Whether an equation is that of a call with these inputs and keyword arguments."""
    found = CONDITION.fullmatch(clause)
    if found is None:
        return True
    condition = re.sub(r"(\w+) is (not )?given", lambda m: f"{m[1]} is {'' if m[2] else 'not '}None", found[2])
    try:
        return bool(eval(condition, {"__builtins__": {}}, known))
    except Exception as error:
        raise ValueError(f"{op_class.__name__}: cannot evaluate [if {found[2]}] in its docstring: "
                         f"{type(error).__name__}: {error}") from error


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
