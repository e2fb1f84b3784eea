"""Parse the equations of an op's docstring into trees.

The notation is that of the code. `a * b` is the elementwise product of two arrays, factors side by side are the product
with a number (`2 y`), `x^2` and `b^T` are powers and transposes, `sum_key(x)` is the sum over the key axis. Words may
stand between or around the mathematics.
"""
import re
from dataclasses import dataclass
from typing import Any

GREEK = dict(alpha="α", beta="β", gamma="γ", delta="δ", eps="ε", epsilon="ε", eta="η", theta="θ", mu="μ", nu="ν",
             pi="π", rho="ρ", sigma="σ", tau="τ", phi="φ", psi="ψ", omega="ω", inf="∞")
RELATIONS = "=", "+=", "<", ">", "<=", ">="
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "@": 2}
OVER_AXIS = re.compile(r"(sum|mean|var|max|min|softmax)_(\w+)")      # functions along an axis: sum_key
FUNCTIONS = "exp", "log", "tanh", "sin", "cos", "max", "min"      # functions that LaTeX has commands for
BEFORE_MATHS = "where", "else", "if", "otherwise", "at", "for", "times", "over", "and", "or"
TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d]\w*(?:'(?!\w))?|\*\*|\+=|<=|>=|\S")
NAME = re.compile(r"(.+?)(?:_(new|all|\w)|(\d+))?('*)")         # base, a subscript or digits, primes


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
    axis: str = ""                  # the name of the axis that it is along


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
    """An operation + - * / @ ^, or "" between the factors of `2 y`."""
    operator: str
    a: "Tree"
    b: "Tree"


@dataclass(frozen=True)
class Relation:
    """a = b, or a longer chain. There is one more side than signs, or as many if words follow the last sign."""
    sides: "list[Tree]"
    signs: list[str]


Tree = Number | Words | Name | Call | Index | Brackets | Minus | Binary | Relation


def parse_clause(source: str, names: frozenset[str]) -> list[Tree]:
    """The trees of an equation, or of words with mathematics among them. names: of variables. What cannot be parsed
    becomes Words, so there is no error."""
    parser = _Parser(source, names)
    items: list[Tree] = []
    end = 0                                     # of the part of the source that is in items
    while parser.i < len(parser.tokens):
        start = parser.tokens[parser.i].start()
        tree = parser.attempt(0, parser.relation)
        if tree is None:
            parser.i += 1
            continue
        items += [Words(source[end:start])] if start > end else []
        items.append(tree)
        last = parser.tokens[parser.i - 1]
        end = last.end() + (last[0] in RELATIONS and source[last.end():][:1] == " ")    # with the sign's space
    return items + ([Words(source[end:])] if end < len(source) else [])


class _Unreadable(Exception):
    """No mathematics starts here."""


class _Parser:
    """Precedence climbing over the tokens of one clause. Each method parses the expression that it is named after, from
    token i on, and raises _Unreadable if there is none."""

    def __init__(self, source: str, names: frozenset[str]) -> None:
        self.source, self.names = source, names
        self.tokens = list(TOKEN.finditer(source))
        self.i = 0
        self.depth = 0                          # of brackets around i

    @property
    def next(self) -> str:
        return self.tokens[self.i][0] if self.i < len(self.tokens) else ""

    def adjacent(self, bracket: str) -> bool:
        """Whether this bracket is the next token, without a space before it."""
        return self.next == bracket and self.tokens[self.i].start() == self.tokens[self.i - 1].end()

    def attempt(self, skip: int, read: Any, *args: Any) -> Any:
        """The result of a method `read` after skipping some tokens; None if it fails, with i as it was."""
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
        """Operands joined by operators of precedence `floor` or higher."""
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
        """The expressions between the bracket at i and the closing one, separated by commas."""
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
            along = OVER_AXIS.fullmatch(word)
            return Call(along[1], self.inside(")"), along[2]) if along else Call(word, self.inside(")"))
        if self.is_variable(word):
            return self.name(word)
        if self.depth or word in FUNCTIONS:
            return Words(word)
        raise _Unreadable

    def is_variable(self, word: str) -> bool:
        """Whether a word is a variable here, or plain English, as `shape` is after "in the"."""
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
