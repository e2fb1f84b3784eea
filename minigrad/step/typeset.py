"""Typeset the equations of an op's docstring as text, LaTeX and MathML."""
import html
import re

from minigrad.step.notation import (
    FUNCTIONS, GREEK, Binary, Brackets, Call, Index, Minus, Name, Number, Relation, Tree, Words, parse_clause)

LATEX = {"*": r"\odot", "@": r"\,", "": r"\,", "<=": r"\le", ">=": r"\ge", "+=": r"\mathrel{+}="}
SIGNS = {"*": "⊙", "<=": "≤", ">=": "≥", "-": "−"}
SUPERSCRIPTS = dict(zip("0123456789+−()Tabcdefghijklmnoprstuvwxyz", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ᵀᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"))
SUBSCRIPTS = dict(zip("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
THIN = '<mspace width="0.17em"/>'
SUM = '<mo lspace="0" rspace="0">∑</mo>'
ALIGN = "text-align: {0}; text-align: -webkit-{0}; padding-{0}: 0"       # Chromium aligns by the second only
COMMA = '<mo separator="true">,</mo>'


def to_text(source: str, names: frozenset[str]) -> str:
    """A clause in Unicode: `da = dy bᵀ`. names: of variables, as in all three functions."""
    return _text(parse_clause(source, names))


def to_latex(clauses: list[str], names: frozenset[str]) -> str:
    """Clauses in LaTeX, one below the other, as an `aligned` environment; "" for none."""
    rows = []
    for first, *rest in (parse_clause(c, names) for c in clauses):
        if isinstance(first, Relation):
            rows.append(_latex_chain(first.sides, first.signs, "&") + _latex(rest))
        else:
            rows.append("&" + _latex([first, *rest]))
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}" if rows else ""


def to_mathml(clauses: list[str], names: frozenset[str]) -> str:
    """Clauses in MathML, one below the other, as one <math> element; "" for none. The `data-name` of a row has the
    variables that its equation defines."""
    rows = []
    for clause in clauses:
        first, *rest = parse_clause(clause, names)
        left, right = "", _mathml([first, *rest])
        if isinstance(first, Relation):
            left, right = _mathml_of(first.sides[0]), _mathml_signs(first.sides, first.signs) + _mathml(rest)
        defined = " ".join(defined_names(clause))
        start = f'<mtr data-name="{html.escape(defined)}">' if defined else "<mtr>"
        rows.append(f'{start}<mtd style="{ALIGN.format("right")}">{left}</mtd>'
                    f'<mtd style="{ALIGN.format("left")}">{_row(right)}</mtd></mtr>')
    return f'<math display="block"><mtable displaystyle="true">{"".join(rows)}</mtable></math>' if rows else ""


def defined_names(clause: str) -> list[str]:
    """The variables that an equation defines: ["dA", "dP"] for `dA = dP = dy @ v^T`."""
    target = r"([^\W\d]\w*'*)(?:\[[^\]]*\])? \+?= "
    chain = re.match(rf"(?:{target})+", clause)
    return re.findall(target, chain[0]) if chain else []


def _plain_product(a: Tree, b: Tree) -> bool:
    """Whether a * b is a product of numbers, or of a number and an array."""
    return isinstance(a, Number) or isinstance(b, Number)


def _is_short(arguments: list[Tree]) -> bool:
    """Whether the argument of a sum needs no brackets."""
    match arguments:
        case [Name() | Index() | Call() | Binary("^", Name())]:
            return True
    return False


def _bare(tree: Tree) -> Tree:
    """Without its round brackets: the bar of a fraction, a root or an exponent replaces them."""
    return tree.inside[0] if isinstance(tree, Brackets) and tree.left == "(" and len(tree.inside) == 1 else tree


# ---- text ----

def _text(trees: list[Tree], join: str = "") -> str:
    return join.join(_text_of(tree) for tree in trees)


def _text_of(tree: Tree) -> str:
    match tree:
        case Number(characters) | Words(characters):
            return characters
        case Name(d, base, subscript, primes):
            hat = re.fullmatch(r"(\w)hat", base)
            base = hat[1] + "\u0302" if hat else GREEK.get(base, base)
            below = _translated(subscript, SUBSCRIPTS)
            return "d" * d + base + (below or "_" + subscript if subscript else "") + "′" * len(primes)
        case Call("sqrt", [x]):
            x = _bare(x)
            return f"√{_text_of(x)}" if isinstance(x, (Name, Number)) else f"√({_text_of(x)})"
        case Call(function, arguments, axis):
            name = ("Σ" if function == "sum" else function) + f"_{axis}" * bool(axis)
            return f"{name}({_text(arguments, ', ')})"
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
        case Binary("*", a, b) if _plain_product(a, b):
            return f"{_text_of(a)} · {_text_of(b)}"
        case Binary(operator, a, b):
            return f"{_text_of(a)} {SIGNS.get(operator, operator)} {_text_of(b)}"
        case Relation(sides, signs):
            others = [f"{SIGNS.get(sign, sign)} {_text(sides[i + 1:i + 2])}" for i, sign in enumerate(signs)]
            return " ".join([_text_of(sides[0]), *others])


def _translated(text: str, table: dict[str, str]) -> str:
    """The text with each character replaced by the table; "" if the table lacks one."""
    return "".join(table[c] for c in text) if all(c in table for c in text) else ""


# ---- LaTeX ----

def _escaped(words: str) -> str:
    """Words with the special characters of LaTeX's text mode escaped."""
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
                base = {"eps": r"\varepsilon", "inf": r"\infty"}.get(base, rf"\{base}")
            elif len(base) > 1:
                base = rf"\mathrm{{{_escaped(base)}}}"
            below = rf"_{{\mathrm{{{subscript}}}}}" if len(subscript) > 1 else f"_{{{subscript}}}" if subscript else ""
            return ("d" if d else "") + base + below + primes
        case Call("sqrt", [x]):
            return rf"\sqrt{{{_latex_of(_bare(x))}}}"
        case Call(function, arguments, axis):
            known = function in (*FUNCTIONS, "sum")
            name = rf"\{function}" if known else rf"\operatorname{{{_escaped(function)}}}"
            name += rf"_{{\text{{{_escaped(axis)}}}}}" if axis else ""
            if function == "sum" and _is_short(arguments):
                return f"{name} {_latex(arguments)}"
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
        case Binary("*", a, b) if _plain_product(a, b):
            return rf"{_latex_of(a)} \cdot {_latex_of(b)}"
        case Binary(operator, a, b):
            return f"{_latex_of(a)} {LATEX.get(operator, operator)} {_latex_of(b)}"
        case Relation(sides, signs):
            return _latex_chain(sides, signs, "")


def _latex_chain(sides: list[Tree], signs: list[str], mark: str) -> str:
    """A relation with a mark before its first sign."""
    out = _latex_of(sides[0])
    for i, sign in enumerate(signs):
        out += f" {'' if i else mark}{LATEX.get(sign, sign)} {_latex(sides[i + 1:i + 2])}"
    return out


# ---- MathML ----

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
            outer = re.sub(r"^ +| +$", lambda m: "\u00a0" * len(m[0]), words)      # MathML drops ordinary spaces there
            return f"<mtext>{html.escape(outer, quote=False)}</mtext>"
        case Name(d, base, subscript, primes):
            hat = re.fullmatch(r"(\w)hat", base)
            out = f"<mi>{GREEK.get(base, base)}</mi>"
            if hat:
                out = f'<mover accent="true"><mi>{hat[1]}</mi><mo stretchy="false">^</mo></mover>'
            if subscript:
                out = f"<msub>{out}{_mathml_subscript(subscript)}</msub>"
            if primes:
                out = f"<msup>{out}<mo>{'′' * len(primes)}</mo></msup>"
            return _row("<mi>d</mi>", out) if d else out
        case Call("sqrt", [x]):
            return f"<msqrt>{_mathml_of(_bare(x))}</msqrt>"
        case Call("sum", arguments, axis):
            head = f"<munder>{SUM}<mtext>{axis}</mtext></munder>" if axis else SUM
            short = _is_short(arguments)
            return _row(head, THIN + _mathml(arguments) if short else _mathml_of(Brackets("(", arguments, ")")))
        case Call(function, arguments, axis):
            name = f"<mi>{function}</mi>"
            name = f"<msub>{name}<mtext>{axis}</mtext></msub>" if axis else name
            return _row(name, "<mo>\u2061</mo>", _mathml_of(Brackets("(", arguments, ")")))
        case Index(array, indices):
            return _row(_mathml_of(array), _mathml_of(Brackets("[", indices, "]")))
        case Brackets(left, inside, right):
            body = _mathml(inside, COMMA)
            size = "" if "<mfrac" in body else ' stretchy="false"'          # a stretchy bracket gets extra space
            return _row(_mo(left, ' form="prefix"' + size), body, _mo(right, ' form="postfix"' + size))
        case Minus(x):
            return _row(_mo("-", ' form="prefix"'), _mathml_of(x))
        case Binary("/", a, b):
            return f"<mfrac>{_mathml_of(_bare(a))}{_mathml_of(_bare(b))}</mfrac>"
        case Binary("^", a, b):
            exponent = "<mo>⊤</mo>" if b == Name(False, "T", "", "") else _mathml_of(_bare(b))
            if isinstance(a, Name) and a.subscript and not a.d and not a.primes:
                base = _mathml_of(Name(False, a.base, "", ""))
                return f"<msubsup>{base}{_mathml_subscript(a.subscript)}{exponent}</msubsup>"
            return f"<msup>{_mathml_of(a)}{exponent}</msup>"
        case Binary("" | "@", a, b):
            return _row(_mathml_of(a), THIN, _mathml_of(b))
        case Binary("*", a, b) if _plain_product(a, b):
            return _row(_mathml_of(a), _mo("·", ' form="infix"'), _mathml_of(b))
        case Binary(operator, a, b):
            return _row(_mathml_of(a), _mo(operator, ' form="infix"'), _mathml_of(b))
        case Relation(sides, signs):
            return _row(_mathml_of(sides[0]), _mathml_signs(sides, signs))


def _mathml_subscript(subscript: str) -> str:
    return f"<mn>{subscript}</mn>" if subscript.isdigit() else f"<mi>{subscript}</mi>"


def _mathml_signs(sides: list[Tree], signs: list[str]) -> str:
    """A relation without its first side. The empty <mi> keeps a browser from taking a sign with words after it, which
    MathML counts as space, for an operator of its own."""
    others = (_mo(sign, ' form="infix"') + _mathml(sides[i + 1:i + 2]) for i, sign in enumerate(signs))
    return "<mi></mi>" + "".join(others)
