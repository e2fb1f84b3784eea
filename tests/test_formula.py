"""A docstring is data: its equations become text, LaTeX and MathML; its identity is satisfied by the right gradient and
violated by a wrong one."""
import re
import sys
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.gradcheck import Case
from minigrad.ops.op import Op, Primitive, input_names
from minigrad.ops.sums import unbroadcast
from minigrad.step.formula import parse
from minigrad.step.identity import check_identity
from minigrad.step.notation import parse_clause
from minigrad.step.typeset import defined_names, to_mathml, to_text

NAMES = sorted(mg.OPS)


# ---- the docstring --------------------------------------------------------------------------------------------------

def test_the_sections_of_a_docstring():
    f = parse(mg.OPS["attention"])
    assert f.shapes.startswith("q (..., T, D), k (..., S, D)") and f.shapes.endswith("->  y (..., T, E)")
    assert f.axes == {"T": ["query"], "S": ["key"], "D": ["feature"], "E": ["feature"]}
    assert f.forward == ["S = q @ k^T / sqrt(D)", "A = P = softmax_key(S)", "y = A @ v"]
    assert f.backward == ["dv = A^T @ dy", "dA = dP = dy @ v^T", "dS = P * (dP - sum_key(dP * P)) / sqrt(D)",
                          "dq = dS @ k", "dk = dS^T @ q"]
    assert f.why.startswith("each output row is a weighted average of the rows of v")
    assert f.why.endswith("dS is the gradient of q kᵀ, not of S: so it has the factor 1 / √D")
    assert f.identity.startswith("each row of dS sums to 0, as softmax ignores a constant shift: sum(dS, axis=-1) = 0;")
    assert f.source == 'Vaswani et al. 2017, "Attention is all you need", eq. 1'


@pytest.mark.parametrize("name", NAMES)
def test_every_op_has_forward_and_backward_equations_and_an_identity(name):
    f = parse(mg.OPS[name])
    assert "->" in f.shapes and f.forward and f.backward and ": " in f.identity and " = " in f.identity


# ---- the formula of a call ------------------------------------------------------------------------------------------

def backward_of(name, *inputs, **static):
    """The backward's equations for a call."""
    op = mg.OPS[name]
    return parse(op, dict(zip(input_names(op, len(inputs)), inputs)) | static).backward


def test_attention_has_equations_of_dropout_only_in_calls_with_dropout():
    q = np.ones((2, 3))
    with_dropout, without = backward_of("attention", q, q, q, dropout=0.1), backward_of("attention", q, q, q)
    assert "dP = dA * keep / (1 - dropout)" in with_dropout and "dA = dy @ v^T" in with_dropout
    assert not any("dropout" in clause or "keep" in clause for clause in without) and "dA = dP = dy @ v^T" in without
    assert backward_of("attention", q, q, q, dropout=0.0) == without


def test_a_layer_without_b_has_no_equation_of_b():
    x = np.ones((2, 2))
    for name, with_b, without in (("linear", "y = x @ w + b", "y = x @ w"),
                                  ("layer_norm", "y = xhat * w + b", "y = xhat * w")):
        three, two = parse(mg.OPS[name], dict(x=x, w=x, b=x)), parse(mg.OPS[name], dict(x=x, w=x))
        assert with_b in three.forward and any(c.startswith("db = ") for c in three.backward)
        assert without in two.forward and not any(c.startswith("db = ") for c in two.backward)
        assert "[if" not in three.text + two.text


def test_cross_entropy_names_p_q_and_n_beside_its_backward():
    logits = np.ones((3, 4))
    assert backward_of("cross_entropy", logits, targets=np.array([0, 1, 2])) == [
        "p = softmax_vocabulary(logits)", "q = one-hot rows of the targets", "n = number of targets",
        "dlogits = (p - q) dy / n"]


@pytest.mark.parametrize("static, has, lacks", [
    (dict(label_smoothing=0.1), "q = (1 - s) onehot(targets) + s / V with s = label_smoothing", "ignore_index"),
    (dict(targets=np.array([0, -100, 1])), "n = number of targets that are not ignore_index", "label_smoothing"),
    (dict(targets=np.array([0, -100, 1])), "dlogits = 0 where the target is ignore_index", "label_smoothing"),
    (dict(ignore_index=2), "dlogits = 0 where the target is ignore_index", "label_smoothing"),
    (dict(reduction="sum"), "dlogits = (p - q) dy", " n"),
    (dict(reduction="none"), "dlogits = (p - q) * dy", " n"),
])
def test_cross_entropy_has_the_equations_of_its_options(static, has, lacks):
    backward = backward_of("cross_entropy", np.ones((3, 4)), **dict(targets=np.array([0, 1, 2])) | static)
    assert has in backward and not any(lacks in clause for clause in backward)


def test_a_sum_has_its_axis_unless_it_is_over_all():
    assert parse(mg.OPS["sum"], dict(x=1, axis=0)).forward == ["y = sum_axis(x)"]
    assert parse(mg.OPS["sum"], dict(x=1, axis=None)).forward == parse(mg.OPS["sum"]).forward == ["y = sum(x)"]
    assert "Σ_axis(e)" in parse(mg.OPS["softmax"]).text


def test_the_steps_of_a_backward_have_the_formulas_of_their_calls():
    x, w = (mg.Tensor(np.ones((2, 2)), requires_grad=True) for _ in range(2))
    y = mg.functional.linear(mg.functional.linear(x, w, np.ones(2)), w)
    formulas = [step.formula for step in y.sum().backward_steps() if step.op == "linear"]
    assert "y = x w\n" in formulas[0] and "y = x w + b\n" in formulas[1] and "Σ_rows(dy)" in formulas[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_of_an_op_has_equations_for_its_outputs_and_its_gradients(name):
    for case in cases(name, [0]):
        given_names = input_names(case.op_class, len(case.inputs))[:len(case.inputs)]
        f = parse(case.op_class, dict(zip(given_names, case.inputs)) | case.sample.static)
        assert f.forward and f.backward and "[if" not in f.text
        assert len(f.text.splitlines()) == len(f.doc.splitlines())
        if not {"x0", "a_wins"} & set(given_names) and name not in ("where", "concatenate", "stack"):
            assert {f"d{x}" for x in given_names} <= defined(f.backward) | {"dbeta1", "dbeta2"}


def defined(clauses):
    return {name for clause in clauses for name in defined_names(clause)}


def test_a_section_whose_first_line_is_not_of_the_call_begins_with_the_next():
    f = parse(op_with("x -> y\n\nforward   y = x [if False]\n          y = 2 x    z = y\nbackward  dx = 2 dy\n"))
    assert f.text.splitlines()[2:] == ["forward   y = 2 x    z = y", "backward  dx = 2 dy"]
    assert f.forward == ["y = 2 x", "z = y"]


def test_a_condition_that_cannot_be_evaluated_is_an_error():
    with pytest.raises(ValueError, match=r"Other: cannot evaluate \[if nonsense\] in its docstring: NameError"):
        parse(op_with("x -> y\n\nforward   y = x [if nonsense]\n"))


def test_each_equation_in_mathml_has_the_variables_that_it_defines():
    rows = ElementTree.fromstring(parse(mg.OPS["attention"]).mathml).iter("mtr")
    assert [row.get("data-name") for row in rows] == ["dv", "dA dP", "dS", "dq", "dk"]
    rows = list(ElementTree.fromstring(parse(mg.OPS["embedding"]).mathml).iter("mtr"))
    assert [row.get("data-name") for row in rows] == ["dw", "dw"]
    assert defined_names("half to each where a = b") == defined_names("2 x = y") == []
    assert defined_names("a = b = c where d = 0") == ["a", "b"]


@pytest.mark.parametrize("name", ["attention", "softmax", "layer_norm", "gelu", "cross_entropy", "linear", "logsumexp"])
def test_the_variables_of_the_equations_are_those_of_the_code(name):
    op = mg.OPS[name]
    f = parse(op)
    code = {v for method in (op.forward, op.backward) for v in method.__code__.co_varnames}
    code |= {f"d{x}" for x in input_names(op, 3)} | {"y", "q", "k", "c"}           # q: subtracted in place from p
    assert defined(f.forward + f.backward) <= code


# ---- the docstring, as any text -------------------------------------------------------------------------------------

def test_an_op_without_a_docstring_has_an_empty_formula():
    class Silent(Primitive, register=False):
        def forward(self, x):
            return x

        def backward(self, dy):
            return dy

    f = parse(Silent)
    assert (f.shapes, f.forward, f.backward, f.why, f.identity, f.source, f.text) == ("", [], [], "", "", "", "")
    assert f.latex == f.forward_latex == f.mathml == f.forward_mathml == ""
    assert check_identity(Silent, {"x": np.ones(2)}) is None


def test_a_docstring_of_prose_is_unchanged_and_has_no_equations():
    class Prose(Primitive, register=False):
        """Doubles its input.

        Nothing here follows the form; x ** is cut off and ) is never opened.
        """

    f = parse(Prose)
    assert f.text == "Doubles its input.\n\nNothing here follows the form; x ** is cut off and ) is never opened."
    assert f.forward == f.backward == [] and f.shapes == f.mathml == ""


# ---- text -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source, text", [
    ("da = dy @ b^T", "da = dy bᵀ"),
    ("S = q @ k^T / sqrt(D)", "S = q kᵀ / √D"),
    ("dS = P * (dP - sum_key(dP * P)) / sqrt(D)", "dS = P ⊙ (dP − Σ_key(dP ⊙ P)) / √D"),
    ("dx = rstd * (dxhat - mean_feature(dxhat))", "dx = rstd ⊙ (dx̂ − mean_feature(dx̂))"),
    ("db = sum(dy)", "db = Σ(dy)"),
    ("dx = 0.5 * dy * 2", "dx = 0.5 · dy · 2"),
    ("S = -inf where the mask is False", "S = −∞ where the mask is False"),
    ("c1 = 1 - beta1^t", "c₁ = 1 − β₁ᵗ"),
    ("dm_all = dm_new + du / (r + eps)", "dm_all = dm_new + du / (r + ε)"),
    ("dx = dy * p * x ** (p - 1)", "dx = dy ⊙ p ⊙ xᵖ⁻¹"),
    ("y = x^{", "y = x^{"),
    ("y = x^(p / q)", "y = x^(p / q)"),
    ("dx = dy where low <= x <= high, else 0", "dx = dy where low ≤ x ≤ high, else 0"),
    ("y = |x|", "y = |x|"),
    ("dw[idx] += dy", "dw[idx] += dy"),
    ("dx = dy in the shape of x", "dx = dy in the shape of x"),
    ("y = the xs along a new axis", "y = the xs along a new axis"),
])
def test_text_of_an_equation(source, text):
    class Of(Primitive, register=False):
        __doc__ = f"x  ->  y\n\nforward   y = {source}\nbackward  {source}\n"

        def forward(self, xs, dxhat, rstd, beta1, idx, low, high, shape, lr, axis):
            pass

    assert parse(Of).text.splitlines()[-1] == f"backward  {text}"


def test_text_has_the_lines_of_the_docstring():
    assert parse(mg.OPS["linear"]).text.splitlines()[:5] == [
        "x (…, I), w (I, O), b (O,)  →  y (…, O)", "", "axes      I feature, O feature", "forward   y = x w + b",
        "backward  dx = dy wᵀ    dw = xᵀ dy    db = Σ_rows(dy)"]
    for op in mg.OPS.values():
        assert len(parse(op).text.splitlines()) == len(parse(op).doc.splitlines())


# ---- LaTeX and MathML -----------------------------------------------------------------------------------------------

def test_latex_of_attention():
    assert parse(mg.OPS["attention"]).latex == r"""\begin{aligned}
dv &= {A}^{\top} \, dy \\
dA &= dP = dy \, {v}^{\top} \\
dS &= \frac{P \odot (dP - \sum_{\text{key}}(dP \odot P))}{\sqrt{D}} \\
dq &= dS \, k \\
dk &= {dS}^{\top} \, q
\end{aligned}"""


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_balanced(name):
    f = parse(mg.OPS[name])
    for latex, clauses in ((f.forward_latex, f.forward), (f.latex, f.backward)):
        bare = re.sub(r"\\[{}]", "", latex)
        depths = np.cumsum([(c == "{") - (c == "}") for c in bare])
        assert depths.min() >= 0 and depths[-1] == 0
        assert latex.count(r"\left") == latex.count(r"\right")
        assert latex.count("\\\\\n") == len(clauses) - 1 and latex.count("&") == len(clauses)
        assert not re.search(r"(?<!\\)[#%$]|(?<![\\}\w])_", latex)


TAGS = set("math mtable mtr mtd mrow mi mn mo mtext mspace mfrac msqrt msup msub munder mover msubsup".split())


def mathml(source, *names):
    class Of(Primitive, register=False):
        __doc__ = f"x  ->  y\n\nbackward  {source}\n"
        forward = eval(f"lambda self, {', '.join(names) or 'x'}: None")

    return parse(Of).mathml


def test_mathml_of_an_equation():
    assert re.sub(r' style="[^"]*"', "", mathml("dx = dy / sqrt(y)")) == (
        '<math display="block"><mtable displaystyle="true"><mtr data-name="dx">'
        '<mtd><mrow><mi>d</mi><mi>x</mi></mrow></mtd>'
        '<mtd><mrow><mi></mi><mo form="infix">=</mo>'
        '<mfrac><mrow><mi>d</mi><mi>y</mi></mrow><msqrt><mi>y</mi></msqrt></mfrac></mrow></mtd>'
        '</mtr></mtable></math>')
    assert "<msup><mi>b</mi><mo>⊤</mo></msup>" in mathml("da = dy @ b^T")
    assert "<msub><mi>β</mi><mn>1</mn></msub>" in mathml("c = beta1 m")
    assert "<msubsup><mi>β</mi><mn>1</mn><mi>t</mi></msubsup>" in mathml("c = beta1^t")
    assert "<mi>a</mi><mo form=\"infix\">⊙</mo><mi>b</mi>" in mathml("y = a * b", "a", "b")
    assert "<munder><mo lspace=\"0\" rspace=\"0\">∑</mo><mtext>key</mtext></munder>" in mathml("y = sum_key(x)")
    assert "<msub><mi>mean</mi><mtext>feature</mtext></msub>" in mathml("y = mean_feature(x)")
    assert '<mover accent="true"><mi>x</mi><mo stretchy="false">^</mo></mover>' in mathml("y = xhat", "xhat")
    assert "<mtext>\u00a0where\u00a0</mtext>" in mathml("da = dy where a > b", "a", "b")


@pytest.mark.parametrize("name", NAMES)
def test_mathml_is_well_formed_and_contains_every_number(name):
    f = parse(mg.OPS[name])
    for markup, clauses in ((f.forward_mathml, f.forward), (f.mathml, f.backward)):
        root = ElementTree.fromstring(markup)
        assert root.tag == "math" and len(list(root.iter("mtr"))) == len(clauses)
        assert {e.tag for e in root.iter()} <= TAGS
        assert all(len(e) == 2 for tag in ("mfrac", "msup", "msub", "mover") for e in root.iter(tag))
        text = "".join("".join(root.itertext()).split())
        for number in re.findall(r"\d+", " ".join(clauses)):
            assert number in text


def op_with(doc):
    """An op with this docstring."""
    return type("Other", (Op,), {"__doc__": doc}, register=False)


@pytest.mark.parametrize("source", ["x & y < <b>", "((((", "))", "a b c ] [", "|", "x^", "-", "=", "= =", "1 +", "f(",
                                    "'", "doesn't x' ** ** y", "#%$_\\{}~", "α β"])
def test_a_clause_that_cannot_be_parsed_becomes_text_without_an_error(source):
    f = parse(op_with(f"x -> y\n\nforward   {source}\nbackward  dx = {source}\n"))
    assert f.latex and f.forward_latex
    ElementTree.fromstring(f.mathml)
    plain = f.text.replace("′", "'").replace("−", "-").splitlines()[-1]
    assert re.sub(r"\s", "", plain) == re.sub(r"\s", "", f"backward dx = {source}")


def letters(text):
    return "".join(c for c in unicodedata.normalize("NFKD", text) if c.isalnum())


@given(st.text(st.sampled_from("xdyt2 =+-*/@^()[]|,.'_é<&\\{")))
def test_text_and_mathml_keep_all_letters_and_digits_in_order(source):
    names = frozenset({"x", "dx"})
    assert letters(to_text(source, names)) == letters(source)
    markup = to_mathml([source], names) if parse_clause(source, names) else "<math/>"
    assert letters("".join(ElementTree.fromstring(markup).itertext())) == letters(source)


def test_a_name_is_a_variable_or_a_word_by_its_neighbours():
    names = frozenset({"dx", "dy", "shape", "mask", "a"})
    read = lambda source: [type(item).__name__ for item in parse_clause(source, names)]
    assert read("dx = dy in the shape of x") == ["Relation", "Words", "Name"]
    assert read("dy where mask, else a") == ["Name", "Words", "Name", "Words", "Name"]
    assert to_text("the row's sum of y and dx' = x^2", names) == "the row's sum of y and dx′ = x²"
    assert read("a row of a") == ["Words", "Name"]


# ---- the identity ---------------------------------------------------------------------------------------------------

def final_locals(op, dys):
    """What op.backward returns, and its local variables when it does."""
    found, code = {}, type(op).backward.__code__

    def profile(frame, event, arg):
        if event == "return" and frame.f_code is code:
            found.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        dxs = op.backward(*dys, **op.saved)
    finally:
        sys.setprofile(before)
    del found["self"]
    return list(dxs) if type(dxs) is tuple else [dxs], found


def values_of(case):
    """All values that an identity may contain, on one sample."""
    op, ys = case.forward()
    raw, local = final_locals(op, case.dys)
    dxs = [unbroadcast(np.asarray(dx), x.shape) if isinstance(x, np.ndarray) else None
           for dx, x in zip(raw, case.inputs)]
    names = input_names(case.op_class, len(dxs))
    outputs = [name for name in op.backward.__code__.co_varnames[1:1 + len(ys)]] if len(ys) > 1 else ["dy"]
    known = local | op.saved | case.sample.static | dict(zip(names, case.inputs))
    known |= {"ys": ys, "dys": case.dys, "dxs": dxs, "xs": case.inputs}
    if "dys" not in op.backward.__code__.co_varnames:
        known |= dict(zip(outputs, case.dys)) | {name[1:]: y for name, y in zip(outputs, ys)}
    return known | {f"d{name}": dx for name, dx in zip(names, dxs)}


def cases(name, seeds):
    return [Case(mg.OPS[name], sample, seed) for sample in mg.OPS[name].samples for seed in seeds]


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_is_satisfied_on_every_sample(name):
    found = [(case.what, check_identity(case.op_class, values_of(case))) for case in cases(name, range(5))]
    assert all(f is None or f.ok for _, f in found), [(what, f) for what, f in found if f and not f.ok]
    assert max(f.residual for _, f in found if f) < 1e-12
    assert sum(f is not None for _, f in found) >= 0.7 * len(found)


@pytest.mark.parametrize("name", NAMES)
def test_each_part_of_an_identity_fails_for_wrong_gradients(name):
    """Wrong: with noise added, also to the local variables of the backward that are gradients."""
    rng, given_ones = np.random.default_rng(0), {"dy", "dp_new", "dm_new", "dv_new"}
    noisy = lambda a: a + rng.normal(size=a.shape) if getattr(a, "dtype", None) == float else a
    for part in parse(mg.OPS[name]).identity.split(";"):
        one = type("One", (mg.OPS[name],), {"__doc__": f"x  ->  y\n\nidentity  {part}\n"}, register=False)
        found = []
        for case in cases(name, range(3)):
            right = values_of(case)
            wrong = {n: noisy(a) if n[0] == "d" and n not in given_ones else a for n, a in right.items()}
            found.append(check_identity(one, wrong | {"dxs": [noisy(dx) for dx in right["dxs"]]}))
        assert any(found) and not any(f.ok for f in found if f)


def test_an_identity_of_a_gradient_that_was_not_wanted_is_not_checked():
    known = values_of(Case(mg.OPS["relu"], mg.OPS["relu"].samples[0], 0))
    assert check_identity(mg.OPS["relu"], known).ok
    assert check_identity(mg.OPS["relu"], known | {"dx": None}) is None
    assert check_identity(mg.OPS["relu"], {n: v for n, v in known.items() if n != "dx"}) is None
    known = values_of(Case(mg.OPS["mul"], mg.OPS["mul"].samples[0], 0))
    assert check_identity(mg.OPS["mul"], known | {"da": None}).expression == "sum(db * b) = sum(dy * y)"


def test_an_identity_of_infinite_inputs_is_not_checked():
    """A masked score of -inf: no gradient reaches it, and 0 times infinity says nothing."""
    known = values_of(Case(mg.OPS["max"], mg.OPS["max"].samples[0], 0))
    masked = known["x"].copy()
    masked[0, 0, 0] = -np.inf
    assert check_identity(mg.OPS["max"], known).ok
    assert check_identity(mg.OPS["max"], known | {"x": masked}) is None
    assert check_identity(mg.OPS["max"], known | {"dys": [np.array(np.nan)]}) is None
    assert not check_identity(mg.OPS["max"], known | {"dx": masked}).ok     # a bad gradient of finite inputs


def test_a_softmax_without_its_coupling_term_violates_its_identity():
    """Without the term that couples its outputs, the rows of dx do not sum to 0."""
    case = Case(mg.OPS["softmax"], mg.OPS["softmax"].samples[0], 0)
    known = values_of(case)
    found = check_identity(mg.OPS["softmax"], known | {"dx": known["dy"] * known["p"]})
    assert not found.ok and found.words.startswith("each row of dx sums to 0")
    assert found.expression == "sum(dx, axis=axis) = 0"


def test_rounding_of_large_terms_that_cancel_is_no_violation():
    x, dy = np.random.default_rng(0).normal(size=(2, 4, 50_000)) * [[[30.0]], [[1.0]]]
    op = mg.OPS["softmax"]()
    op.xp, op.needs = np, [True]
    p = op.forward(x)
    known = dict(x=x, y=p, dy=dy, dys=[dy], **op.saved)
    assert check_identity(mg.OPS["softmax"], known | {"dx": op.backward(dy, **op.saved)}).residual < 1e-12
    assert not check_identity(mg.OPS["softmax"], known | {"dx": op.backward(dy, **op.saved) + 1e-4 * p}).ok


@pytest.mark.parametrize("expression, error", [
    ("sum(dx) = nonsense", "NameError"), ("sum(dx)=0", "expected left = right"), ("sum(dx = 0", "SyntaxError")])
def test_an_identity_that_cannot_be_evaluated_is_an_error(expression, error):
    class Wrong(mg.OPS["exp"], register=False):
        __doc__ = f"x  ->  y\n\nidentity  it holds: {expression}\n"

    with pytest.raises(ValueError, match=f"Wrong: cannot evaluate .*{error}"):
        check_identity(Wrong, dict(x=np.ones(2), dx=np.ones(2), dys=[np.ones(2)]))
