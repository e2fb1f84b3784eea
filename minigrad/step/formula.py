"""An op's docstring as data: its equations as text, LaTeX and MathML.

The docstring's first line gives shapes; sections follow under the words forward, backward, why, identity, source.
Equations on one line stand two spaces or more apart. Their notation is that of the code, with `x^2` and `b^T` for
powers and transposes, factors side by side (`2 y`) for products, and plain words wherever they say it better.
"""
import html
import inspect
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Iterator

from minigrad.ops.op import Op

SECTIONS = "forward", "backward", "why", "identity", "source"

GREEK = dict(alpha="α", beta="β", gamma="γ", delta="δ", eps="ε", epsilon="ε", eta="η", theta="θ", mu="μ", nu="ν",
             pi="π", rho="ρ", sigma="σ", tau="τ", phi="φ", psi="ψ", omega="ω")
LATEX = {"*": r"\cdot", "@": r"\,", "": r"\,", "<=": r"\le", ">=": r"\ge", "+=": r"\mathrel{+}="}
SIGNS = {"*": "·", "<=": "≤", ">=": "≥", "-": "−"}
RELATIONS = "=", "+=", "<", ">", "<=", ">="
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "@": 2}
FUNCTIONS = "exp", "log", "tanh", "sin", "cos", "max", "min"      # that LaTeX has by name
BEFORE_MATHS = "where", "else", "if", "otherwise", "at", "for", "times", "over", "and", "or"
SUPERSCRIPTS = dict(zip("0123456789+−()Tabcdefghijklmnoprstuvwxyz", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ᵀᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"))
SUBSCRIPTS = dict(zip("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d]\w*'?|\*\*|\+=|<=|>=|\S")
NAME = re.compile(r"(.+?)(?:_(new|\w)|(\d+))?('*)")         # base, a subscript or digits, primes


# ---- the docstring --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Formula:
    """What an op's docstring says, in its own notation: one equation or clause for each entry of forward, backward."""
    shapes: str
    forward: list[str]
    backward: list[str]
    why: str
    identity: str
    source: str
    doc: str                                    # all of it, without the indentation of the class
    names: frozenset[str]                       # of variables, in code and equations

    @cached_property
    def text(self) -> str:
        """The docstring in its own layout, with the equations as in a book: `da = dy bᵀ`."""
        lines = []
        for section, head, body in _sections(self.doc):
            if section in ("forward", "backward"):
                body = "    ".join(_text(clause(c, self.names)) for c in re.split(r"\s{2,}", body))
            elif section == "shapes":
                body = body.replace("->", "→").replace("...", "…")
            lines.append((head + body).rstrip())
        return "\n".join(lines)

    @cached_property
    def latex(self) -> str:
        """The backward's equations, one below the other, as an `aligned` environment for any maths mode."""
        return _aligned(self.backward, self.names)

    @cached_property
    def forward_latex(self) -> str:
        """The forward's."""
        return _aligned(self.forward, self.names)

    @cached_property
    def mathml(self) -> str:
        """The backward's equations as one <math> element for an HTML page."""
        return _table(self.backward, self.names)

    @cached_property
    def forward_mathml(self) -> str:
        """The forward's."""
        return _table(self.forward, self.names)


def parse(op_class: type[Op]) -> Formula:
    """The formula of any op; of one without a docstring, or with prose for one, whatever there is."""
    doc = inspect.cleandoc(op_class.__doc__ or "")
    found: dict[str, list[str]] = {"shapes": [], **{section: [] for section in SECTIONS}}
    for section, _, body in _sections(doc):
        found.setdefault(section, []).append(body)
    forward, backward = ([c for line in found[s] for c in re.split(r"\s{2,}", line) if c] for s in SECTIONS[:2])
    names = {name for f in (op_class.forward, op_class.backward) for name in f.__code__.co_varnames}
    names.update(re.findall(r"([^\W\d]\w*'?) \+?= ", "\n".join(forward + backward)))
    why, identity, source = (" ".join(found[s]) for s in SECTIONS[2:])
    shapes = " ".join(found["shapes"])
    return Formula(shapes, forward, backward, why, identity, source, doc, frozenset(names))


def _sections(doc: str) -> Iterator[tuple[str, str, str]]:
    """For each line: its section ("shapes" for the first line, "" for prose), its margin with the section's word, the
    rest."""
    section = "shapes"
    for line in map(str.rstrip, doc.splitlines()):
        word, _, body = line.partition(" ")
        body = body.lstrip()
        if word in SECTIONS:
            section = word
        elif word or not body or section not in SECTIONS:       # no continuation of a section
            section, body = "shapes" if section == "shapes" and "->" in line else "", line
        yield section, line[:len(line) - len(body)], body


# ---- from notation to a tree ----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Number:
    digits: str


@dataclass(frozen=True)
class Words:
    """Upright text."""
    words: str


@dataclass(frozen=True)
class Name:
    """A variable: xhat is the base x with a hat, dp_new is a `d` before the base p with the subscript new."""
    d: bool
    base: str
    subscript: str
    primes: str


@dataclass(frozen=True)
class Call:
    function: str
    arguments: "list[Tree]"


@dataclass(frozen=True)
class Index:
    array: "Tree"
    indices: "list[Tree]"


@dataclass(frozen=True)
class Brackets:
    left: str
    inside: "list[Tree]"
    right: str


@dataclass(frozen=True)
class Minus:
    x: "Tree"


@dataclass(frozen=True)
class Binary:
    """Two operands of + - * / @ ^, or of "", which stands between the factors of `2 y`."""
    operator: str
    a: "Tree"
    b: "Tree"


@dataclass(frozen=True)
class Relation:
    """a = b, or a longer chain: sides one more than signs, or as many where words follow."""
    sides: "list[Tree]"
    signs: list[str]


Tree = Number | Words | Name | Call | Index | Brackets | Minus | Binary | Relation


def clause(source: str, names: frozenset[str]) -> list[Tree]:
    """An equation, or words with the maths that they contain. What cannot be read as maths is words: never an error."""
    parser = _Parser(source, names)
    items: list[Tree] = []
    end = 0                                     # of what the items hold
    while parser.i < len(parser.tokens):
        start = parser.tokens[parser.i].start()
        tree = parser.attempt(0, parser.relation)
        if tree is None:
            parser.i += 1
            continue
        items += [Words(source[end:start])] if start > end else []
        items.append(tree)
        last = parser.tokens[parser.i - 1]
        end = last.end() + (last[0] in RELATIONS and source[last.end():][:1] == " ")    # a sign brings its own space
    return items + ([Words(source[end:])] if end < len(source) else [])


class _Unreadable(Exception):
    """No maths starts here."""


class _Parser:
    """Precedence climbing over the tokens of one clause. Each method reads what it is named after, from token i on."""

    def __init__(self, source: str, names: frozenset[str]) -> None:
        self.source, self.names = source, names
        self.tokens = list(TOKEN.finditer(source))
        self.i = 0
        self.depth = 0                          # of brackets around i

    @property
    def next(self) -> str:
        return self.tokens[self.i][0] if self.i < len(self.tokens) else ""

    def adjacent(self, bracket: str) -> bool:
        """Whether this bracket follows, without a space."""
        return self.next == bracket and self.tokens[self.i].start() == self.tokens[self.i - 1].end()

    def attempt(self, skip: int, read: Any, *args: Any) -> Any:
        """What `read` reads that many tokens further on, or None, with nothing moved."""
        i, depth = self.i, self.depth
        try:
            self.i += skip
            return read(*args)
        except _Unreadable:
            self.i, self.depth = i, depth
            return None

    def relation(self) -> Tree:
        sides, signs = [self.sum()], []
        while self.next in RELATIONS:
            signs.append(self.next)
            side = self.attempt(1, self.sum)
            if side is None:                    # words follow
                self.i += 1
                break
            sides.append(side)
        return Relation(sides, signs) if signs else sides[0]

    def sum(self, floor: int = 1) -> Tree:
        """Terms or factors joined by operators that bind at least as tightly as floor."""
        if self.next == "-":
            self.i += 1
            left: Tree = Minus(self.sum(2))
        else:
            left = self.product()
        while PRECEDENCE.get(self.next, 0) >= floor:
            operator = self.next
            right = self.attempt(1, self.sum, PRECEDENCE[operator] + 1)
            if right is None:
                break
            left = Binary(operator, left, right)
        return left

    def product(self) -> Tree:
        """Factors side by side."""
        left = self.power()
        while self.next and (self.next == "(" or self.next[0].isalnum()):
            right = self.attempt(0, self.power)
            if right is None:
                break
            left = Binary("", left, right)
        return left

    def power(self) -> Tree:
        base = self.indexed()
        exponent = self.attempt(1, self.power) if self.next in ("^", "**") else None
        return base if exponent is None else Binary("^", base, exponent)

    def indexed(self) -> Tree:
        array = self.primary()
        indices = self.attempt(0, self.inside, "]") if self.adjacent("[") else None
        return array if indices is None else Index(array, indices)

    def inside(self, closing: str) -> list[Tree]:
        """What stands between the bracket here and the closing one, at its commas."""
        inside: list[Tree] = []
        self.depth += 1
        while self.next != closing or not inside:
            self.i += 1
            inside.append(self.relation())
            if self.next not in (",", closing):
                raise _Unreadable
        self.i += 1
        self.depth -= 1
        return inside

    def primary(self) -> Tree:
        word = self.next
        if word == "(":
            return Brackets("(", self.inside(")"), ")")
        if word == "|":
            return Brackets("|", self.inside("|"), "|")
        self.i += 1
        if word[:1].isdigit():
            return Number(word)
        if not word[:1].isalpha():
            raise _Unreadable
        if self.adjacent("("):
            return Call(word, self.inside(")"))
        if self.is_variable(word):
            return self.name(word)
        if self.depth or word in FUNCTIONS:
            return Words(word)
        raise _Unreadable

    def is_variable(self, word: str) -> bool:
        """Whether a word names a variable: the same word may be plain English, as shape is after "in the"."""
        before = self.tokens[self.i - 2][0] if self.i > 1 else ""
        if word == "a":
            return "a" in self.names and (not self.next.isalpha() or self.next in BEFORE_MATHS)
        if len(word) == 1 or word.rstrip("'") in GREEK or not word.isalpha() or re.fullmatch("d[^o]", word):
            return True
        after_words = len(before) > 1 and before.isalpha() and before not in (*BEFORE_MATHS, *FUNCTIONS, *self.names)
        return word in self.names and (len(word) == 2 or word[0] == "d" or not after_words)

    def name(self, word: str) -> Name:
        parts = NAME.fullmatch(word)
        base, subscript, digits, primes = parts.groups() if parts else (word, "", "", "")
        rest = base[1:]
        d = base[0] == "d" and base not in GREEK and bool(
            re.fullmatch(r"[^\W\d]s?|\what", rest) or rest in GREEK or rest in self.names)
        return Name(d, rest if d else base, subscript or digits or "", primes)


# ---- from the tree to text, LaTeX, MathML ---------------------------------------------------------------------------

def _bare(tree: Tree) -> Tree:
    """Without the brackets that a fraction's bar, a root or an exponent makes superfluous."""
    return tree.inside[0] if isinstance(tree, Brackets) and tree.left == "(" and len(tree.inside) == 1 else tree


def _text(trees: list[Tree], join: str = "") -> str:
    return join.join(_text_of(tree) for tree in trees)


def _text_of(tree: Tree) -> str:
    match tree:
        case Number(text) | Words(text):
            return text
        case Name(d, base, subscript, primes):
            hat = re.fullmatch(r"(\w)hat", base)
            base = hat[1] + "\u0302" if hat else GREEK.get(base, base)
            below = _translated(subscript, SUBSCRIPTS)
            return "d" * d + base + (below or "_" + subscript if subscript else "") + "′" * len(primes)
        case Call("sqrt", [x]):
            x = _bare(x)
            return f"√{_text_of(x)}" if isinstance(x, (Name, Number)) else f"√({_text_of(x)})"
        case Call(function, arguments):
            return f"{'Σ' if function == 'sum' else function}({_text(arguments, ', ')})"
        case Index(array, indices):
            return f"{_text_of(array)}[{_text(indices, ', ')}]"
        case Brackets(left, inside, right):
            return f"{left}{_text(inside, ', ')}{right}"
        case Minus(x):
            return f"−{_text_of(x)}"
        case Binary("^", a, b):
            exponent = _text_of(_bare(b)).replace(" ", "")
            return _text_of(a) + (_translated(exponent, SUPERSCRIPTS) or f"^{_text_of(b)}")
        case Binary("" | "@", a, b):
            return f"{_text_of(a)} {_text_of(b)}"
        case Binary(operator, a, b):
            return f"{_text_of(a)} {SIGNS.get(operator, operator)} {_text_of(b)}"
        case Relation(sides, signs):
            others = [f"{SIGNS.get(sign, sign)} {_text(sides[i + 1:i + 2])}" for i, sign in enumerate(signs)]
            return " ".join([_text_of(sides[0]), *others])


def _translated(text: str, table: dict[str, str]) -> str:
    """The text in another alphabet, "" if that lacks a letter."""
    return "".join(table[c] for c in text) if all(c in table for c in text) else ""


def _escaped(words: str) -> str:
    """Words for LaTeX's text mode."""
    return re.sub(r"[\\{}$&#%_^~]", lambda m: {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}.get(
        m[0], "\\" + m[0]), words)


def _latex(trees: list[Tree], join: str = "") -> str:
    return join.join(_latex_of(tree) for tree in trees)


def _latex_of(tree: Tree) -> str:
    match tree:
        case Number(digits):
            return digits
        case Words(words):
            return rf"\{words}" if words in FUNCTIONS else rf"\text{{{_escaped(words)}}}"
        case Name(d, base, subscript, primes):
            hat = re.fullmatch(r"(\w)hat", base)
            if hat:
                base = rf"\hat{{{hat[1]}}}"
            elif base in GREEK:
                base = r"\varepsilon" if base == "eps" else rf"\{base}"
            elif len(base) > 1:
                base = rf"\mathrm{{{_escaped(base)}}}"
            below = rf"_{{\mathrm{{{subscript}}}}}" if len(subscript) > 1 else f"_{{{subscript}}}" if subscript else ""
            return ("d" if d else "") + base + below + primes
        case Call("sqrt", [x]):
            return rf"\sqrt{{{_latex_of(_bare(x))}}}"
        case Call(function, arguments):
            known = function in (*FUNCTIONS, "sum")
            name = rf"\{function}" if known else rf"\operatorname{{{_escaped(function)}}}"
            return name + _latex_of(Brackets("(", arguments, ")"))
        case Index(array, indices):
            return f"{_latex_of(array)}[{_latex(indices, ', ')}]"
        case Brackets(left, inside, right):
            body = _latex(inside, ", ")
            return rf"\left{left}{body}\right{right}" if r"\frac" in body else left + body + right
        case Minus(x):
            return f"-{_latex_of(x)}"
        case Binary("/", a, b):
            return rf"\frac{{{_latex_of(_bare(a))}}}{{{_latex_of(_bare(b))}}}"
        case Binary("^", a, b):
            exponent = r"\top" if b == Name(False, "T", "", "") else _latex_of(_bare(b))
            return f"{{{_latex_of(a)}}}^{{{exponent}}}"
        case Binary(operator, a, b):
            return f"{_latex_of(a)} {LATEX.get(operator, operator)} {_latex_of(b)}"
        case Relation(sides, signs):
            return _latex_chain(sides, signs, "")


def _latex_chain(sides: list[Tree], signs: list[str], mark: str) -> str:
    """A relation, its first sign marked for alignment."""
    out = _latex_of(sides[0])
    for i, sign in enumerate(signs):
        out += f" {'' if i else mark}{LATEX.get(sign, sign)} {_latex(sides[i + 1:i + 2])}"
    return out


def _aligned(clauses: list[str], names: frozenset[str]) -> str:
    rows = []
    for first, *rest in (clause(c, names) for c in clauses):
        if isinstance(first, Relation):
            rows.append(_latex_chain(first.sides, first.signs, "&") + _latex(rest))
        else:
            rows.append("&" + _latex([first, *rest]))
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}" if rows else ""


THIN = '<mspace width="0.17em"/>'
SUM = '<mo largeop="false" lspace="0" rspace="0">∑</mo>'
ALIGN = "text-align: {0}; text-align: -webkit-{0}; padding-{0}: 0"       # Chromium moves maths only by the second
COMMA = '<mo separator="true">,</mo>'


def _mo(sign: str, attributes: str = "") -> str:
    return f"<mo{attributes}>{html.escape(SIGNS.get(sign, sign))}</mo>"


def _row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def _mathml(trees: list[Tree], join: str = "") -> str:
    return join.join(_mathml_of(tree) for tree in trees)


def _mathml_of(tree: Tree) -> str:
    match tree:
        case Number(digits):
            return f"<mn>{digits}</mn>"
        case Words(words) if words in FUNCTIONS:
            return f"<mi>{words}</mi>"
        case Words(words):
            outer = re.sub(r"^ +| +$", lambda m: "\u00a0" * len(m[0]), words)      # MathML drops plain spaces there
            return f"<mtext>{html.escape(outer, quote=False)}</mtext>"
        case Name(d, base, subscript, primes):
            hat = re.fullmatch(r"(\w)hat", base)
            out = f"<mi>{GREEK.get(base, base)}</mi>"
            if hat:
                out = f'<mover accent="true"><mi>{hat[1]}</mi><mo stretchy="false">^</mo></mover>'
            if subscript:
                below = f"<mn>{subscript}</mn>" if subscript.isdigit() else f"<mi>{subscript}</mi>"
                out = f"<msub>{out}{below}</msub>"
            if primes:
                out = f"<msup>{out}<mo>{'′' * len(primes)}</mo></msup>"
            return _row("<mi>d</mi>", out) if d else out
        case Call("sqrt", [x]):
            return f"<msqrt>{_mathml_of(_bare(x))}</msqrt>"
        case Call(function, arguments):
            head = SUM if function == "sum" else f"<mi>{function}</mi><mo>\u2061</mo>"
            return _row(head, _mathml_of(Brackets("(", arguments, ")")))
        case Index(array, indices):
            return _row(_mathml_of(array), _mathml_of(Brackets("[", indices, "]")))
        case Brackets(left, inside, right):
            body = _mathml(inside, COMMA)
            size = "" if "<mfrac" in body else ' stretchy="false"'          # a stretched bracket stands off a little
            return _row(_mo(left, ' form="prefix"' + size), body, _mo(right, ' form="postfix"' + size))
        case Minus(x):
            return _row(_mo("-", ' form="prefix"'), _mathml_of(x))
        case Binary("/", a, b):
            return f"<mfrac>{_mathml_of(_bare(a))}{_mathml_of(_bare(b))}</mfrac>"
        case Binary("^", a, b):
            exponent = "<mo>⊤</mo>" if b == Name(False, "T", "", "") else _mathml_of(_bare(b))
            return f"<msup>{_mathml_of(a)}{exponent}</msup>"
        case Binary("" | "@", a, b):
            return _row(_mathml_of(a), THIN, _mathml_of(b))
        case Binary(operator, a, b):
            return _row(_mathml_of(a), _mo(operator, ' form="infix"'), _mathml_of(b))
        case Relation(sides, signs):
            return _row(_mathml_of(sides[0]), _mathml_signs(sides, signs))


def _mathml_signs(sides: list[Tree], signs: list[str]) -> str:
    """A relation from its first sign on."""
    return "".join(_mo(sign, ' form="infix"') + _mathml(sides[i + 1:i + 2]) for i, sign in enumerate(signs))


def _table(clauses: list[str], names: frozenset[str]) -> str:
    rows = []
    for first, *rest in (clause(c, names) for c in clauses):
        left, right = "", _mathml([first, *rest])
        if isinstance(first, Relation):
            left, right = _mathml_of(first.sides[0]), _mathml_signs(first.sides, first.signs) + _mathml(rest)
        rows.append(f'<mtr><mtd style="{ALIGN.format("right")}">{left}</mtd>'
                    f'<mtd style="{ALIGN.format("left")}">{_row(right)}</mtd></mtr>')
    return f'<math display="block"><mtable displaystyle="true">{"".join(rows)}</mtable></math>' if rows else ""
