"""`why`: every element of every array that any line computed is a sum of products of other elements, up to the loss and
down to the parameters; Python and the page give the same answers."""
import functools
import itertools
import json

import numpy as np
import pytest

import gpt.step
import minigrad as mg
from minigrad import Tensor, functional as F
from minigrad.gradcheck import Case
from minigrad.ops.op import Primitive
from minigrad.ops.sample import Sample
from minigrad.step import examples, page, record
from minigrad.step.why import Cell, arrays, largest_entries
from minigrad.tape import apply
from test_page import browse

GPT_OPS = {"linear", "add", "mul", "matmul", "softmax", "layer_norm", "gelu", "attention", "cross_entropy", "embedding",
           "transpose", "split_heads", "merge_heads"}
RNG = np.random.default_rng(0)
every_sample = pytest.mark.parametrize(
    "op, sample", [(op, sample) for op in mg.OPS.values() for sample in op.samples],
    ids=lambda x: x.name if isinstance(x, type) else str(x)[:40])


def recorded(op, sample, dtype="float64"):
    """The record of sum(dy * y) for one sample of an op, and the view of the op."""
    case = Case(op, sample, seed=2)
    xs = [Tensor(x.data.astype(dtype), requires_grad=True) for x in case.leaves()]
    seen = record(case.total(apply(op, *case.replaced(xs), **sample.static), [dy.astype(dtype) for dy in case.dys]))
    return seen, next(v for v in seen.views if v.step.op_class is op)


def cells_of(v, most=6):
    """Some elements of every array of floats of every line, forward and backward; the same at each call."""
    rng = np.random.default_rng(1)
    for forward in (True, False):
        lines = (v.forward if forward else v.backward).lines
        for line, (name, a) in ((n, item) for n in range(len(lines) + 1) for item in arrays(v, forward, n).items()):
            if np.asarray(a).dtype.kind == "f":
                every = np.arange(np.size(a))
                for flat in every if np.size(a) <= most else rng.choice(every, most, replace=False):
                    at = tuple(int(k) for k in np.unravel_index(flat, np.shape(a))) if np.shape(a) else ()
                    yield Cell(v.index, forward, line, name, at)


@functools.cache
def gpt_record():
    return gpt.step.example()


@functools.cache
def tiny():
    return examples.tiny()


# ---- the terms ------------------------------------------------------------------------------------------------------

@every_sample
def test_the_terms_sum_to_the_element_for_every_array_of_every_line(op, sample):
    seen, v = recorded(op, sample)
    for cell in cells_of(v):
        why = seen.follow(cell, most=10 ** 6)
        if why.terms:
            assert abs(why.total - why.value) <= 1e-6 * max(why.magnitude, 1e-3), why.equation
            assert sum(term.product for term in why.terms) == pytest.approx(why.total, rel=1e-9, abs=1e-12)
        elif not cell.forward and cell.name.startswith("d") and cell.line == len(v.backward.lines):
            assert why.value == 0.0, why.equation


@pytest.mark.parametrize("make", [tiny, gpt_record])
def test_every_element_of_the_ops_of_a_gpt_is_a_sum_of_elements_or_comes_from_a_parameter_or_the_loss(make):
    seen = make()
    for cell in itertools.chain.from_iterable(map(cells_of, seen.views)):
        why, v = seen.follow(cell), seen.views[cell.step]
        assert "by the chain rule" not in why.equation and v.op in GPT_OPS
        if why.terms:
            assert abs(why.total - why.value) <= 1e-6 * why.magnitude, why.equation
        elif why.value:
            number = isinstance(arrays(v, cell.forward, cell.line)[cell.name], (float, np.floating))
            assert number or "is an element of" in why.equation or "the loss itself" in why.equation, why.equation


@pytest.mark.parametrize("name", ["layer_norm", "softmax", "attention", "cross_entropy", "linear", "gelu"])
def test_in_float32_the_terms_sum_to_the_element_up_to_its_precision(name):
    for sample in mg.OPS[name].samples:
        seen, v = recorded(mg.OPS[name], sample, "float32")
        for cell in cells_of(v):
            why = seen.follow(cell)
            assert not why.terms or abs(why.total - why.value) <= 2e-6 * max(why.magnitude, 1e-3), why.equation


def test_an_element_is_written_in_index_notation():
    seen = gpt_record()
    v = next(v for v in seen.views if v.op == "attention")
    assert seen.why(v.index, "dq", (0, 2, 5, 1)).equation == "dq[0,2,5,1] = sum over j of dS[0,2,5,j] * k[0,2,j,1]"
    assert seen.why(v.index, "dk", (0, 2, 5, 1)).equation == "dk[0,2,5,1] = sum over j of dS[0,2,j,5] * q[0,2,j,1]"
    assert seen.why(v.index, "dS", (0, 2, 5, 3)).equation == (
        "dS[0,2,5,3] = P[0,2,5,3] * (dP[0,2,5,3] - (sum over j of dP[0,2,5,j] * P[0,2,5,j])) * scale")
    v = next(v for v in seen.views if v.op == "layer_norm")
    assert seen.why(v.index, "dx", (0, 3, 4)).equation == (
        "dx[0,3,4] = rstd[0,3,0] * (dxhat[0,3,4] - shift[0,3,0] - xhat[0,3,4] * scale[0,3,0])")
    assert seen.why(v.index, "shift", (0, 3, 0)).equation == "shift[0,3,0] = mean over j of dxhat[0,3,j]"


def test_a_row_of_a_table_that_is_used_twice_gets_a_term_from_each_use():
    table = Tensor(RNG.normal(size=(4, 3)), requires_grad=True)
    seen = record((F.embedding(table, [2, 0, 2]) * Tensor(RNG.normal(size=(3, 3)))).sum())
    why = seen.why(len(seen.views) - 1, "dw", (2, 1))
    assert why.equation == "dw[2,1] = dy[0,1] + dy[2,1]" and why.count == 2
    assert seen.why(len(seen.views) - 1, "dw", (1, 1)).equation == "dw[1,1] = 0"


def test_the_gradient_of_an_input_that_was_broadcast_is_a_sum_over_its_copies():
    a, b = (Tensor(RNG.normal(size=shape), requires_grad=True) for shape in ((3, 1), (2, 1, 5)))
    seen = record(((a * b) ** 2).sum())
    why = seen.why(seen.views[-1].index, "da", (1, 0))
    assert why.count == 10 and why.total == pytest.approx(seen.gradients["a"][1, 0], rel=1e-12)


# ---- from element to element ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("leaf", ["wpe.weight", "h.0.attn.c_attn.weight", "h.1.ln_2.bias", "h.0.mlp.c_fc.weight"])
def test_gradients_lead_from_any_weight_through_the_lines_to_the_loss(leaf):
    seen = gpt_record()
    v, x = next((v, x) for v in seen.views for x in v.inputs if x.leaf == leaf)
    start = seen.why(v.index, f"d{x.name}", None).cell
    came_from, queue, loss = {start: None}, [start], Cell(0, False, 0, "dy", ())
    for cell in queue:                          # along the factors that are in the backward
        for factor in (factor for term in seen.follow(cell).terms for factor in term.factors):
            for upstream in factor.cells:
                if not upstream.forward and upstream not in came_from:
                    came_from[upstream] = cell
                    queue.append(upstream)
        if loss in came_from:
            break
    path = [loss]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    places = [(-cell.step, -cell.line) for cell in path]
    assert places == sorted(places, reverse=True)
    assert {cell.step for cell in path} >= {0, v.index}
    assert len(path) > 2 * len({cell.step for cell in path}), "the path goes through lines, not only from op to op"
    assert "is the gradient of the loss itself" in seen.follow(loss).equation


def test_values_lead_back_through_the_forward_to_a_parameter():
    seen = tiny()
    why, steps = seen.why(0, "z", (0, 0)), []
    while why.terms:
        steps.append(why.cell.step)
        why = seen.follow(why.terms[0].factors[-1].cells[0])
    assert steps == sorted(steps) and steps[-1] >= 1 and "is an element of head.weight" in why.equation


def test_a_gradient_that_several_ops_sent_is_the_sum_of_theirs_and_so_are_the_partial_ones():
    seen = tiny()
    v = next(v for v in seen.views if len(seen.uses[v.step.node.seq, 0]) == 2)
    why = seen.why(v.index, "dy", None)
    assert why.count == 2 and "is the sum of the gradients from the 2 uses of the output" in why.equation
    second, x = next((u, x) for u in seen.views for x in u.inputs if x.earlier is not None)
    total = seen.why(second.index, f"sum d{x.name}", (0, 0))
    assert total.value == pytest.approx(x.earlier[0, 0] + x.gradient[0, 0]) == pytest.approx(total.total)
    assert [c.step for t in total.terms for f in t.factors for c in f.cells].count(second.index) == 1


def test_what_the_forward_saved_leads_to_the_line_of_the_forward_that_computed_it():
    seen = gpt_record()
    v = next(v for v in seen.views if v.op == "attention")
    saved = seen.follow(Cell(v.index, False, 0, "P", (0, 1, 3, 2)))
    cell = saved.terms[0].factors[0].cells[0]
    assert cell.forward and v.forward.lines[cell.line - 1].values["P"][0, 1, 3, 2] == saved.value


# ---- ops whose lines cannot be read ---------------------------------------------------------------------------------

class Sorted(Primitive, register=False):
    """x  ->  y"""
    name = "sorted"

    def forward(self, x):
        order = np.argsort(x)
        self.save(order=order)
        return np.sort(x)

    def backward(self, dy, order):
        places = iter(order)
        return np.array([dy[list(order).index(i)] for i in range(len(list(places)))])

    samples = [Sample((5,))]


def test_a_gradient_whose_line_cannot_be_read_is_explained_by_the_chain_rule():
    x = Tensor([0.3, -1.0, 2.0], requires_grad=True)
    seen = record((apply(Sorted, x) * Tensor([1.0, 10.0, 100.0])).sum())
    why = seen.why(seen.views[-1].index, "dx", 0)
    assert why.equation == "dx[0] = sum of local derivative * upstream gradient, by the chain rule"
    assert [(t.factors[0].text, t.factors[1].text) for t in why.terms] == [("∂y[1]/∂x[0]", "dy[1]")]
    assert why.total == pytest.approx(why.value) == pytest.approx(10.0)


class Styles(mg.Op, register=False):
    """Lines that are easy to misread."""
    name = "styles"

    def forward(self, x):
        self.save(x=x)
        positive, buffer = x > 0, np.zeros_like(x)
        a = x.sum(where=positive) * x
        b = x * np.sum(x, initial=5.0)
        c = np.add(x, x, where=positive, out=buffer) * 2
        d = a * 2
        d = sum([d, d, b])
        e = b.copy()
        e.sort()
        f = x + 1
        np.exp(f, out=f)
        g = (x * 3).astype(int) + x
        h = (x > -1) + positive
        h.fill(True)
        i = x.copy()
        i[positive] *= 3
        i[[0, 0], [1, 1]] += 5
        j = np.concatenate((x, a), 1)
        k = j @ j.T
        l = x - (x * 1j).imag
        m = n = np.dot(x, x.T)
        o = x if (y := len(x)) else -x
        for row in x:
            p = row.sum() * 2 if False else row
        return a + b + c + d + e + f + g + h + i + j[:, :4] + (k + l[:, :3] + m - n).sum() * o + y + p

    def backward(self, dy, x):
        dx = np.flip(dy) * 0.0 + 7.0
        dx = dx * x
        return dx

    samples = [Sample((3, 4))]


def test_a_line_that_is_easy_to_misread_is_explained_by_terms_that_sum_to_its_elements_or_not_split():
    x = Tensor(RNG.normal(size=(3, 4)), requires_grad=True)
    seen = record(apply(Styles, x).sum())
    v, split = seen.views[-1], 0
    lines = v.forward.lines, v.backward.lines
    before = [{name: np.array(a) for name, a in line.values.items()} for line in itertools.chain(*lines)]
    for cell in cells_of(v, most=12):
        why = seen.follow(cell, most=10 ** 6)
        assert why.terms or "is not split into terms" in why.equation or cell.line == 0 or why.value == 0, why.equation
        assert not why.terms or why.total == pytest.approx(why.value, abs=1e-6 * max(why.magnitude, 1e-3)), why.equation
        split += bool(why.terms)
    assert split > 100
    for old, line in zip(before, itertools.chain(*lines), strict=True):
        for name, a in old.items():
            np.testing.assert_array_equal(a, line.values[name], f"asking for why changed {name}")


def test_the_value_of_a_variable_is_not_explained_by_an_earlier_line_that_set_it():
    seen = record(apply(Styles, Tensor(RNG.normal(size=(3, 4)), requires_grad=True)).sum())
    v = seen.views[-1]
    text = v.forward.source.splitlines()
    explained = {text[line.first].strip(): seen.follow(Cell(v.index, True, n, name, (0, 1))).equation
                 for n, line in enumerate(v.forward.lines, 1) for name in line.values if name in "defim"}
    assert explained["d = sum([d, d, b])"] == "d[0,1] is computed by sum([d, d, b]), which is not split into terms"
    assert explained["e.sort()"] == "e[0,1] is computed by e.sort(), which is not split into terms"
    assert explained["np.exp(f, out=f)"] == "f[0,1] is computed by np.exp(f, out=f), which is not split into terms"
    assert explained["m = n = np.dot(x, x.T)"] == "m[0,1] = sum over j of x[0,j] * x[1,j]"
    assert "i[[0, 0], [1, 1]] += 5" in explained["i[[0, 0], [1, 1]] += 5"]


def test_of_a_sum_over_a_million_elements_the_largest_are_terms_and_the_others_one_term():
    x = Tensor(RNG.normal(size=(1000, 1000)), requires_grad=True)
    seen = record(F.mean(x))
    why = seen.why(0, "y", ())
    assert why.equation.endswith("over j,k of x[j,k]") and why.count == 21
    assert why.total == pytest.approx(why.value, abs=1e-6 * why.magnitude)
    assert why.terms[1].factors[0].text == f"x[{','.join(map(str, largest_entries(x.data, 1)[0]))}]"
    assert sum("the other 999,980 elements" in f.text for term in why.terms for f in term.factors) <= 1


class Roots(mg.Op, register=False):
    name = "roots"

    def forward(self, x):
        self.save(x=x)
        y = (x ** 2) ** 0.5 - -(-x)
        z = x.sum() + x.sum() + x.sum() + x.sum() + x.sum() + x.sum() + x.sum()
        return y + z

    def backward(self, dy, x):
        return dy * x


def test_equations_have_the_brackets_and_letters_that_they_need(tmp_path):
    x = Tensor([0.5, 2.0], requires_grad=True)
    seen = record(apply(Roots, x).sum())
    k = len(seen.views) - 1
    cells = [Cell(k, True, line, name, at) for line, name, at in ((2, "y", (0,)), (3, "z", ()))]
    equations = [seen.follow(cell).equation for cell in cells]
    assert equations[0] == "y[0] = (x[0] ** 2) ** 0.5 - -(-x[0])"
    assert equations[1].startswith("z = (sum over j of x[j]) + (sum over k of x[k])")
    assert equations[1].endswith("(sum over v of x[v]) + (sum over j2 of x[j2])")
    answers = browse(tmp_path, page.html(seen), f"const cells = {json.dumps(cells)};" + ANSWERS).answers
    assert [answer[0] for answer in answers] == equations


class Powers(mg.Op, register=False):
    """x  ->  y"""
    name = "powers"

    def forward(self, x):
        y = x
        for _ in range(3): y = y * 2.0  # noqa: E701
        return y

    def backward(self, dy):
        return 8.0 * dy


def test_the_result_of_a_line_that_cannot_be_read_is_not_explained_by_an_earlier_line(tmp_path):
    x = Tensor([1.0, 2.0], requires_grad=True)
    seen = record(mg.apply(Powers, x).sum())
    cell = Cell(1, True, len(seen.views[1].forward.lines), "y", (1,))
    expected = "y[1] is computed by for _ in range(3): y = y * 2.0  # noqa: E701, which is not split into terms"
    why = seen.follow(cell)
    assert (why.value, why.equation, why.terms) == (16.0, expected, [])
    found = browse(tmp_path, page.html(seen), f"const cells = {json.dumps([cell])};" + ANSWERS)
    assert found.answers[0][:2] == [expected, 16.0]


def with_nan():
    """The gradient of w[1,0] is 3 + NaN, that of u[0,1] is 0 times the upstream gradient."""
    x, w = Tensor([[1.0, np.nan], [2.0, 3.0]]), Tensor(np.ones((2, 1)), requires_grad=True)
    u = Tensor([[1.0, -1.0]], requires_grad=True)
    return record((x @ w).sum() + (u * Tensor([[2.0, 0.0]])).sum(), names={"w": w, "u": u})


def test_the_term_that_makes_a_sum_nan_comes_first_and_the_terms_of_0_are_shown(tmp_path):
    seen = with_nan()
    matmul, mul = (next(v for v in seen.views if v.op == op) for op in ("matmul", "mul"))
    nan, zero = seen.why(matmul.index, "db", (1, 0)), seen.why(mul.index, "da", (0, 1))
    assert np.isnan(nan.value) and nan.count == 2
    assert [f.text for f in nan.terms[0].factors] == ["a[0,1]", "dy[0,0]"]
    assert zero.value == 0.0 and zero.count == 0
    assert [f.text for f in zero.terms[0].factors] == ["dy[0,1]", "b[0,1]"]
    asked = [[why.cell.step, why.cell.line, why.cell.name, list(why.cell.at)] for why in (nan, zero)]
    shown = browse(tmp_path, page.html(seen), f"const asked = {json.dumps(asked)};" + """
      seen.rows = asked.map(([k, line, name, at]) => {
        askWhy({kind: "b", k, line, name, at});
        return all("#why td:nth-child(2)").map(cell => cell.textContent.split(" ")[0]);
      });
    """).rows
    assert shown == [["a[0,1]", "a[1,1]"], ["dy[0,1]"]]
    assert "dy[0,1] * b[0,1]" in zero._repr_html_() and "a[0,1]" in nan._repr_html_()


def test_a_step_alone_explains_its_arrays():
    step = next((Tensor(RNG.normal(size=(2, 3)), requires_grad=True) @ Tensor(RNG.normal(size=(3, 2)))).backward_steps(
        np.ones((2, 2))))
    why = step.why("da", (0, -1))
    assert why.cell.at == (0, 2) and why.total == pytest.approx(step.dxs[0][0, 2])
    assert step.why("dy", (1, 1)).equation == "dy[1,1] was given to this op"
    with pytest.raises(ValueError, match=r"step 0 \(matmul\) has no array 'c'; it has .*da.*dy"):
        step.why("c", (0, 0))
    with pytest.raises(IndexError, match=r"da has shape \(2, 3\): \[2, 0\] is not in it"):
        step.why("da", (2, 0))


# ---- the page -------------------------------------------------------------------------------------------------------

ANSWERS = """
  seen.answers = cells.map(([k, forward, line, name, at]) => {
    const answer = whyCell({kind: forward ? "f" : "b", k, line, name, at}), products = answer.terms.map(product);
    return [answer.equation, answer.value, sum(products, x => x), products.filter(x => x).length,
            answer.terms.filter(product).flatMap(t => t.factors).flatMap(f => f.cells).map(
              c => [c.k, c.kind, c.line, c.name])];
  });
"""


@pytest.mark.parametrize("make", [tiny, gpt_record])
def test_the_page_gives_the_answers_of_the_record_for_every_array_of_every_line(make, tmp_path):
    seen = make()
    cells = [cell for v in seen.views for cell in cells_of(v, most=3)]
    answers = browse(tmp_path, page.html(seen), f"const cells = {json.dumps(cells)};" + ANSWERS).answers
    for cell, (equation, value, total, count, places) in zip(cells, answers, strict=True):
        why = seen.follow(cell, most=10 ** 6)
        assert equation == why.equation
        assert value == pytest.approx(why.value, rel=1e-6, abs=1e-12)
        assert abs(total - why.total) <= 1e-6 * max(why.magnitude, 1e-12), equation
        if count == why.count:                  # float32 makes 0 of some very small products
            assert {tuple(place) for place in places} == {
                (c.step, "f" if c.forward else "b", c.line, c.name)
                for t in why.terms if t.product for f in t.factors for c in f.cells}


def test_of_a_sampled_array_the_page_answers_for_elements_it_stores_and_gives_the_equation_of_the_others(tmp_path):
    a, w = (Tensor(RNG.normal(size=shape), requires_grad=True) for shape in ((100, 90), (90, 2)))
    seen = record(((a * 3.0) @ w).sum(), names={"a": a, "w": w})
    last = seen.views[-1]
    cells = [[last.index, False, 1, "da", at] for at in ([50, 60], [51, 61])]
    cells.append([1, True, len(seen.views[1].forward.lines), "y", [0, 1]])
    answers = browse(tmp_path, page.html(seen), f"const cells = {json.dumps(cells)};" + """
      seen.answers = cells.map(([k, forward, line, name, at]) => {
        const {equation, value, terms, note} = whyCell({kind: forward ? "f" : "b", k, line, name, at});
        return [equation, value ?? null, terms.length, note ?? ""];
      });
    """).answers
    stored, missing, product = answers
    da = last.inputs[0].gradient
    assert stored == ["da[50,60] = dy[50,60] * b", pytest.approx(da[50, 60], rel=1e-6), 1, ""]
    assert missing[:3] == ["da[51,61] = dy[51,61] * b", None, 0] and "why da 51 61" in missing[3]
    assert product[:3] == ["y[0,1] = sum over j of a[0,j] * b[j,1]", pytest.approx(seen.views[1].outputs["y"][0, 1]), 0]
    assert "a sample of an array of 100 × 90" in product[3]


def test_the_page_follows_links_from_a_weight_to_the_loss(tmp_path):
    seen = tiny()
    v, x = next((v, x) for v in seen.views for x in v.inputs if x.leaf == "fc.weight")
    found = browse(tmp_path, page.html(seen), f"""
      const line = steps[{v.index}].backward.lines.length;
      goTo("b", {v.index});
      askWhy({{kind: "b", k: {v.index}, line, name: "d{x.name}", at: [1, 2]}});
      seen.asked = text("#why .say b");
      const upstream = () => all("#why td a").find(a => /^(d|share)/.test(a.textContent));
      for (let n = 0; n < 40 && upstream(); n++) upstream().click();
      seen.end = text("#why");
      seen.at = here().k;
      press("Escape");
      seen.closed = document.querySelector("#why").hidden;
    """)
    assert found.asked.startswith(f"d{x.name}[1,2] = ")
    assert found.at == 0 and found.closed
    assert "dy is the gradient of the loss itself: the backward begins here" in found.end


def test_an_array_of_which_the_page_has_a_sample_says_where_the_answer_is(tmp_path):
    w = Tensor(RNG.normal(size=(200, 100)), requires_grad=True)
    found = browse(tmp_path, page.html(record((Tensor(RNG.normal(size=(3, 200))) @ w).sum())), """
      const k = steps.length - 1;
      goTo("b", k);
      askWhy({kind: "b", k, line: listingOf(here()).lines.length, name: "db", at: [1, 2]});
      seen.note = text("#why .note");
    """)
    assert "stores only a sample" in found.note and "why db 1 2" in found.note
