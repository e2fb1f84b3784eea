"""What a notebook shows: in a real kernel, through nbclient; the graph as a picture; the names of variables; the loss
curve; and that no output contains a folder of the machine."""
import os
import re
import site
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, nn, optim
from minigrad.call_site import place
from minigrad.loss_curve import LossCurve, ticks
from minigrad.step import draw_graph, record
from tests import faulty_ops
from tests.test_page import browse

ROOT = Path(__file__).parent.parent


def leaf(value):
    return Tensor(value, requires_grad=True)


# ---- in a kernel ----------------------------------------------------------------------------------------------------

CELLS = {
    "imports": """
import numpy as np
import minigrad as mg
from minigrad import Tensor, nn, optim, functional as F
rng = np.random.default_rng(0)
x, w = (Tensor(rng.normal(size=shape), requires_grad=True) for shape in ((4, 3), (3, 5)))
""",
    "record": """
loss = F.cross_entropy(F.softmax(x @ w), [1, 0, 4, 2])
record = mg.step.record(loss)
record
""",
    "why": 'record.why(2, "dw", (0, 2))',
    "nudge": 'record.nudge("w", (0, 2)).actual',
    "step": """
loss = F.cross_entropy(F.softmax(x @ w), [1, 0, 4, 2])
next(loss.backward_steps(until="w"))
""",
    "op": """
class Square(mg.ops.op.Fused):
    '''x  ->  y

    forward   y = x * x
    backward  dx = 2 * dy * x
    '''
    def forward(self, x):
        self.save(x=x)
        return x * x

    def backward(self, dy, x):
        return dy * x

    composed = staticmethod(lambda F, x: x * x)
    samples = [mg.ops.sample.Sample((3, 5))]
""",
    "report": "mg.gradcheck.check(Square)",
    "step of the op": """
square = mg.tape.apply(Square, x)
next(square.sum().backward_steps(until="square"))
""",
    "module": """
class Two(nn.Module):
    def __init__(self):
        self.first = nn.Linear(3, 5)
        self.rest = [nn.LayerNorm(5), nn.Dropout(0.5)]

model = Two()
model
""",
    "optimizer": "optim.AdamW(model.parameters(), lr=0.1)",
    "parameter": "model.first.weight",
    "graph": "mg.draw((x @ w).sum())",
    "error": """
try:
    x @ Tensor([[1.0]])
except ValueError as error:
    print(error.__notes__[0])
""",
    "curve": """
curve = mg.LossCurve(seconds=1e9)
for i in range(1000):
    curve.update(i, 3.0 - i / 1000, val=2.5 if i == 500 else None)
""",
    "training": """
import train
open("my.txt", "w").write("the cat sat on the mat. " * 200)
train.main("--dataset=my.txt --max_iters=20 --warmup_iters=2 --eval_interval=10 --log_interval=1 --n_layer=1 "
           "--n_head=1 --n_embd=8 --block_size=8 --batch_size=4 --eval_iters=2".split())
""",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Name of a cell -> its outputs, and "file" -> the whole notebook as text, after a run in an empty folder."""
    folder = tmp_path_factory.mktemp("folder of the notebook")
    cells = [nbformat.v4.new_code_cell(code.strip()) for code in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    found = {name: cell.outputs for name, cell in zip(CELLS, notebook.cells)}
    found["folder"], found["file"] = str(folder), nbformat.writes(notebook)
    return found


def html_of(outputs, name):
    [output] = outputs[name]
    return output.data["text/html"]


def number_of(name):
    return list(CELLS).index(name) + 1


@pytest.mark.parametrize("name", ["record", "why", "step", "report", "step of the op", "module", "optimizer", "graph",
                                  "curve"])
def test_a_notebook_shows_html(outputs, name):
    assert html_of(outputs, name).startswith("<")


def test_a_notebook_has_no_address_of_an_object_and_nothing_on_stderr(outputs):
    assert not re.search(r" at 0x[0-9a-f]+", outputs["file"])
    assert '"stderr"' not in outputs["file"]


def test_a_notebook_of_small_examples_is_less_than_one_megabyte(outputs):
    assert len(outputs["file"]) < 1e6


def test_no_output_contains_a_folder_of_the_machine(outputs):
    for folder in {outputs["folder"], str(ROOT), str(Path.home()), site.getsitepackages()[0], "ipykernel_"} - {"/"}:
        assert folder not in outputs["file"], folder
    assert tempfile.gettempdir() + "/" not in re.sub(r'"half":"[^"]*"', "", outputs["file"])


def test_places_are_the_number_of_the_cell_and_the_line_in_it(outputs):
    n = number_of("record")
    assert f"cell {n}, line 1" in html_of(outputs, "record")
    assert f"matmul at cell {number_of('step')}, line 1" in outputs["step"][0].data["text/plain"]
    assert f"called at cell {number_of('error')}, line 2" in outputs["error"][0].text
    own = html_of(outputs, "step of the op")
    assert f"cell {number_of('op')}, line 11" in own            # the place of its backward
    assert "return dy * x" in own


def test_leaves_are_called_like_the_variables_of_the_notebook(outputs):
    assert "leaves x, w" in outputs["record"][0].data["text/plain"].replace("w, x", "x, w")
    assert "db[0,2] = sum over j of a[j,0] * dy[j,2]" in html_of(outputs, "why")
    assert re.search(r'"leaf":"w"', html_of(outputs, "step"))
    assert float(outputs["nudge"][0].data["text/plain"]) != 0.0


def test_a_parameter_prints_its_name(outputs):
    assert "name=first.weight, shape=(3, 5)" in outputs["parameter"][0].data["text/plain"]


def test_a_report_shows_the_diagnosis_of_what_failed(outputs):
    shown = html_of(outputs, "report")
    assert "every entry is 2 times too small" in shown
    assert re.findall("<figcaption>(.*?)</figcaption>", shown)[:3] == ["yours", "finite differences", "error"]


def test_the_loss_curve_is_one_picture_with_all_losses_at_the_end_of_the_cell(outputs):
    shown = html_of(outputs, "curve")
    assert "loss 2.0010 at step 999, val 2.5000 at step 500" in shown


def test_training_in_a_notebook_shows_its_loss_curve(outputs):
    pictures = [o for o in outputs["training"] if o.output_type == "display_data"]
    assert len(pictures) == 1
    assert "at step 19, val " in pictures[0].data["text/html"] and "at step 20" in pictures[0].data["text/html"]
    assert "step     20 of 20 | val" in "".join(o.text for o in outputs["training"] if o.output_type == "stream")


# ---- the page of a record in a frame --------------------------------------------------------------------------------

def test_the_page_of_a_record_works_in_the_frame_of_a_notebook(tmp_path):
    x, w = leaf(np.ones((2, 3))), leaf(np.full((3, 4), 0.1))
    frame = record(F.softmax(x @ w).sum(), title='softmax & "its" <sum>')._repr_html_()
    seen = browse(tmp_path, f"<body>{frame}</body><style></style>", """
      await wait();
      const inside = document.querySelector("iframe").contentWindow;
      const shown = () => inside.document.querySelector("h2").textContent;
      seen.headings = [shown()];
      const before = history.length;
      for (const key of ["ArrowRight", "ArrowRight"]) {
        inside.document.body.dispatchEvent(new inside.KeyboardEvent("keydown", {key, bubbles: true}));
        await wait();
        seen.headings.push(shown());
      }
      seen.title = inside.document.title;
      seen.outer = [document.querySelectorAll("iframe").length, location.hash, history.length - before];
    """)
    assert [h.split()[0] for h in seen.headings] == ["sum", "softmax", "matmul"]
    assert seen.title == 'softmax & "its" <sum>'
    assert seen.outer == [1, "", 0]


# ---- names of leaves ------------------------------------------------------------------------------------------------

def test_a_leaf_is_called_like_the_first_variable_that_holds_it():
    _hidden = w = leaf([1.0, 2.0])
    again = w  # noqa: F841
    ws = [leaf([3.0, 4.0]), w]
    params = {"b": leaf([5.0, 6.0])}
    unnamed = [[leaf([7.0, 8.0])]]
    found = record((w * ws[0] * params["b"] * unnamed[0][0]).sum())
    assert sorted(found.leaves) == sorted(["w", "ws[0]", 'params["b"]', "leaf0"])


def test_names_that_are_given_and_names_of_parameters_come_before_variables():
    w, x = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    layer = nn.Linear(2, 1, rng=np.random.default_rng(0), dtype="float64")
    weight = layer.weight
    found = record((layer(x * w)).sum(), names={"given": w})
    assert set(found.leaves) == {"given", "x", "weight", "bias"} and found.leaves["weight"] is weight


def test_two_leaves_of_one_name_are_told_apart():
    one, two = (nn.Linear(2, 1, bias=False, rng=np.random.default_rng(k), dtype="float64") for k in (0, 1))
    found = record((one([[1.0, 2.0]]) * two([[3.0, 4.0]])).sum())
    assert list(found.leaves) == ["weight", "weight'"]
    assert {id(t) for t in found.leaves.values()} == {id(one.weight), id(two.weight)}


def test_why_and_nudge_and_until_take_the_name_of_a_variable():
    x, w = leaf(np.array([[1.0, 2.0]])), leaf(np.array([[3.0], [4.0]]))
    found = record((x @ w).sum())
    matmul = next(v.index for v in found.views if v.op == "matmul")
    assert found.why(matmul, "dw", (1, 0)) == found.why(matmul, "db", (1, 0))
    assert (found.why(matmul, "dw", (1, 0)).value, found.why(matmul, "w", (1, 0)).value) == (2.0, 4.0)
    assert found.nudge("x", (0, 1), 0.5).actual == pytest.approx(2.0)
    assert [v.op for v in found.views if found.breakpoint("w")(v)] == ["matmul"]
    assert [step.op for step in (x @ w).sum().backward_steps(until="w")] == ["matmul"]
    with pytest.raises(ValueError, match="nothing here is called 'v'"):
        list((x @ w).sum().backward_steps(until="v"))


# ---- places ---------------------------------------------------------------------------------------------------------

def test_a_place_has_no_folder_outside_the_project(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    package = Path(mg.__file__).parent
    assert place(str(package / "ops" / "softmax.py"), 27) == "minigrad/ops/softmax.py:27"
    assert place(str(tmp_path / "sub" / "mine.py"), 3) == "sub/mine.py:3"
    assert place(str(package.parent / "gpt" / "model.py"), 4) == "gpt/model.py:4"
    assert place("/somewhere/else/lib.py", 5) == "lib.py:5"
    assert place("tour.py", 6) == "tour.py:6"
    assert place("<ipython-input-3-0123456789ab>", 7) == "cell 3, line 7"
    monkeypatch.chdir("/")
    assert place("/somewhere/else/lib.py", 5) == "lib.py:5"


def test_a_page_has_no_folder_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    x = leaf(np.ones((2, 3)))
    text = mg.step.page.html(record(F.softmax(x).sum()))
    for folder in {str(tmp_path), str(ROOT), str(Path.home())} - {"/"}:
        assert folder not in text


# ---- the graph as a picture -----------------------------------------------------------------------------------------

def texts(drawing, kind):
    """The texts of one class in a picture: "value", "gradient", "leaf", "module", ..., without the legend."""
    root = ElementTree.fromstring(drawing.svg)
    return [e.text for e in root.iter("{http://www.w3.org/2000/svg}text") if e.get("class") == kind]


def boxes(drawing):
    """(left, top, right, bottom) of each box."""
    found = [[float(e.get(name)) for name in ("x", "y", "width", "height")]
             for e in ElementTree.fromstring(drawing.svg).iter("{http://www.w3.org/2000/svg}rect")]
    return [(x, y, x + w, y + h) for x, y, w, h in found]


def wires(drawing):
    """The two ends of each curve between layers."""
    found = re.findall(r'class="wire" d="M([\d.]+) ([\d.]+)C.*? ([\d.]+) ([\d.]+)[H"]', drawing.svg)
    return [tuple(map(float, ends)) for ends in found]


def crossings(drawing):
    """How many pairs of curves between the same two layers cross."""
    curves = wires(drawing)
    return sum(x0 == u0 and x1 == u1 and (y0 - v0) * (y1 - v1) < 0
               for i, (x0, y0, x1, y1) in enumerate(curves) for u0, v0, u1, v1 in curves[:i])


def test_the_graph_of_scalars_shows_each_value_above_its_gradient():
    a, b, c, f = map(leaf, (2.0, -3.0, 10.0, -2.0))
    e = a * b
    d = e + c
    L = d * f
    drawing = mg.draw(L)
    assert texts(drawing, "leaf") == ["a", "b", "c", "f"]
    assert texts(drawing, "symbol") == ["×", "+", "×"]
    assert sorted(zip(texts(drawing, "value"), texts(drawing, "gradient"))) == sorted([
        ("2", "6"), ("-3", "-4"), ("e = -6", "-2"), ("10", "-2"), ("d = 4", "-2"), ("-2", "4"), ("L = -8", "1")])
    assert crossings(drawing) == 0


def test_the_gradient_of_a_value_that_is_used_twice_is_the_sum():
    x = leaf(3.0)
    assert texts(mg.draw(x * x + x), "gradient")[0] == "7"


def test_numbers_stand_in_the_box_of_their_op():
    x = leaf(2.0)
    assert texts(mg.draw(1.0 / (3.0 + x ** 2) - 1), "op") == ["** 2", "3 +", "1 /", "− 1"]


def test_arrays_show_their_shape_and_norm():
    x, w = leaf(np.array([[3.0, 4.0]])), leaf(np.ones((2, 3)))
    y = (x @ w).sum()
    drawing = mg.draw(y)
    assert texts(drawing, "value") == ["(1, 2) norm 5", "(2, 3) norm 2.45", "(1, 3) norm 12.1", "y = 21"]
    assert texts(drawing, "gradient") == ["norm 4.24", "norm 8.66", "norm 1.73", "1"]


def test_without_a_backward_and_for_constants_there_is_no_gradient_and_no_zero():
    x, w = Tensor([1.0, 2.0]), leaf([0.0, 5.0])
    y = (x * w).sum()
    assert texts(mg.draw(y), "gradient") == ["norm 2.24", "norm 1.41", "1"]     # of w, x * w, y: x has none
    assert texts(mg.draw(y), "constant") == ["x"]
    assert texts(mg.draw(y, gradients=False), "gradient") == []
    assert "below" not in mg.draw(y, gradients=False).svg
    assert texts(mg.draw(x * w), "gradient") == []


def test_drawing_changes_neither_gradients_nor_the_graph():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    x.grad = np.array([10.0, 20.0])
    y = (x * w).tanh().sum()
    first = mg.draw(y).svg
    assert x.grad.tolist() == [10.0, 20.0] and w.grad is None
    assert mg.draw(y).svg == first
    y.backward(retain_graph=True)
    assert x.grad == pytest.approx(np.array([10.0, 20.0]) + w.data * (1 - np.tanh(x.data * w.data) ** 2))
    assert mg.draw(y).svg == first              # the gradients of this loss, not the sums in .grad
    y.backward()
    with pytest.raises(ValueError, match="this graph was freed by an earlier backward"):
        mg.draw(y)


def test_each_output_of_an_op_has_its_own_wires():
    q, k = F.split(leaf(np.arange(6.0).reshape(1, 6)), 2, axis=1)
    drawing = mg.draw((q * k).sum())
    assert texts(drawing, "value")[1:3] == ["q = (1, 3) norm 2.24", "k = (1, 3) norm 7.07"]
    assert texts(drawing, "gradient")[1:3] == ["norm 7.07", "norm 2.24"]


@pytest.fixture(scope="module")
def gpt_loss():
    model = GPT(GPTConfig(12, 30, n_layer=2, n_head=2, n_embd=8), seed=0, dtype="float64")
    tokens = np.random.default_rng(0).integers(0, 30, (1, 13))
    return model(tokens[:, :-1], tokens[:, 1:])[1]


def test_modules_of_a_large_graph_are_folded(gpt_loss):
    drawing = mg.draw(gpt_loss)
    assert texts(drawing, "module") == ["h.0", "h.1"]
    assert "12 ops, 12 parameters" in texts(drawing, "note")
    assert texts(mg.draw(gpt_loss, depth=1), "module") == ["h", "lm_head"]
    assert {"h.0.attn", "h.1.mlp"} <= set(texts(mg.draw(gpt_loss, depth=3), "module"))
    assert texts(mg.draw(gpt_loss, depth=9), "module") == []


@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_boxes_do_not_overlap_and_wires_lead_to_the_right(gpt_loss, depth):
    drawing = mg.draw(gpt_loss, depth=depth)
    placed = boxes(drawing)
    for i, (left, top, right, bottom) in enumerate(placed):
        for l2, t2, r2, b2 in placed[:i]:
            assert right <= l2 or r2 <= left or bottom <= t2 or b2 <= top
    assert all(x0 < x1 for x0, _, x1, _ in wires(drawing))


def random_graph(seed):
    rng = np.random.default_rng(seed)
    values = [leaf(float(k)) for k in range(4)]
    for _ in range(12):
        i, j = rng.integers(max(len(values) - 4, 0), len(values), 2)
        values.append(values[i] + values[j])
    y = values[-1]
    for value in values[-4:-1]:
        y = y + value
    return y


def test_the_order_in_the_layers_lowers_the_crossings_of_random_graphs(monkeypatch):
    reduced = sum(crossings(mg.draw(random_graph(seed))) for seed in range(10))
    monkeypatch.setattr(draw_graph, "SWEEPS", 1)            # the order in which they are found from the loss
    assert reduced < 0.8 * sum(crossings(mg.draw(random_graph(seed))) for seed in range(10))


def test_a_picture_is_a_file_that_loads_nothing(tmp_path):
    x = leaf([1.0, 2.0])
    drawing = mg.draw(x.sum(), tmp_path / "graph.svg", names={'<x> & "y"': x})
    text = (tmp_path / "graph.svg").read_text("utf-8")
    assert text == drawing.svg
    assert texts(drawing, "leaf") == ['<x> & "y"']
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert "background:#fff" in text and "background" not in drawing._repr_html_()


def test_the_picture_in_the_document_is_that_of_its_code():
    text = (ROOT / "docs" / "notebooks.md").read_text("utf-8")
    names = {}
    exec(compile(re.search(r"```python\n(.*?)```", text, re.S)[1], "tour.py", "exec"), names)
    assert names["picture"].svg == (ROOT / "docs" / "graph.svg").read_text("utf-8")


def test_what_cannot_be_drawn_is_refused_with_a_reason(tmp_path):
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"needs a Tensor made from at least one that has requires_grad=True, .*; "
                                         r"got a leaf of shape \(2,\)"):
        mg.draw(x)
    with pytest.raises(ValueError, match="needs a Tensor made .* got an? int"):
        mg.draw(3)
    with pytest.raises(ValueError, match="give a file like 'graph.svg', not 'graph.png'"):
        mg.draw(x.sum(), tmp_path / "graph.png")
    with pytest.raises(ValueError, match="depth must be a whole number of at least 1, got 0"):
        mg.draw(x.sum(), depth=0)
    y = x.sum()
    for _ in range(700):
        y = y + 1.0
    with pytest.raises(ValueError, match="702 boxes, draw takes up to 600"):
        mg.draw(y)


# ---- tables ---------------------------------------------------------------------------------------------------------

def words(html):
    """The text of HTML, with one space between words."""
    return " ".join(re.sub(r"<title>.*?</title>|<[^>]*>", " ", html).split())


def test_a_module_shows_its_parameters_and_those_of_the_modules_in_it():
    class Net(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter([1.0, 2.0, 3.0])
            self.layers = [nn.Linear(2, 3, dtype="float64"), nn.Dropout(0.1)]
            self.tied = self.layers[0].weight

    net = Net()
    shown = words(net._repr_html_())
    assert shown.startswith("Net : 12 parameters, 96 bytes")
    assert "scale (3,) float64 3" in shown
    assert "tied (2, 3) float64 the same as layers.0.weight" in shown
    assert "layers.0 Linear : 9 parameters, 72 bytes" in shown
    assert "layers.1 Dropout : no parameters" in shown
    assert net._repr_html_().count("<details") == 2
    assert repr(net) == "<Net: 12 parameters in 3 tensors>"


def test_an_optimizer_shows_its_groups_and_steps():
    a, b = leaf(np.ones((2, 3))), leaf(np.ones(4))
    optimizer = optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b]}], lr=0.2, momentum=0.9)
    a.grad = np.ones((2, 3))
    optimizer.step()
    shown = words(optimizer._repr_html_())
    assert shown == ("SGD : 10 parameters group lr momentum weight_decay nesterov tensors numbers steps taken "
                     "0 0.1 0.9 0.0 False 1 6 1 1 0.2 0.9 0.0 False 1 4 0")
    assert repr(optimizer).startswith("<SGD: lr=0.1, momentum=0.9")


def test_a_report_shows_yours_finite_differences_and_error_with_the_worst_entry_framed():
    report = mg.gradcheck.check(faulty_ops.GeluForgetsThree)
    row = next(row for row in report.failures if row.worst is not None and np.ndim(row.numeric) == 2)
    shown = report._repr_html_()
    assert f"[{row.worst[0]},{row.worst[1]}] is {row.analytic[row.worst]:.4g}" in words(shown)
    assert f"[{row.worst[0]},{row.worst[1]}] is {row.numeric[row.worst]:.4g}" in words(shown)
    frames = re.findall(r'<rect x="(\d+)" y="(\d+)" width="12" height="12" fill="none"', shown)
    assert frames[:3] == [(str(12 * row.worst[1] + 1), str(12 * row.worst[0] + 1))] * 3
    assert row.detail.split(":")[0] in words(shown)


def test_a_report_that_passed_says_so_in_one_line_with_all_comparisons_folded():
    shown = mg.gradcheck.check(mg.OPS["gelu"])._repr_html_()
    assert words(shown).startswith("passed : ")
    assert shown.index("<details") < shown.index("<table")


def test_an_answer_shows_its_terms_and_their_sum_and_leads_to_the_loss():
    x, w = leaf(np.array([[1.0, 2.0], [3.0, 4.0]])), leaf(np.array([[0.5], [0.25]]))
    found = record(((x @ w) ** 2).sum())
    matmul = next(v.index for v in found.views if v.op == "matmul")
    shown = words(found.why(matmul, "dw", (0, 0))._repr_html_())
    assert shown.startswith("db[0,0] = sum over j of a[j,0] * dy[j,0] , 17 (step 2, matmul, line")
    assert "term product a[1,0] * dy[1,0] 3 × 5 15 a[0,0] * dy[0,0] 1 × 2 2 sum 17 as recorded 17" in shown
    assert "why dy[1,0]? dy[1,0] is the gradient from the only use of the output , 5 (step 2" in shown
    assert shown.endswith("dy is the gradient of the loss itself: the backward begins here , 1 (step 0, sum)")


# ---- the loss curve -------------------------------------------------------------------------------------------------

def test_outside_a_notebook_a_loss_curve_prints_lines(capsys):
    curve = LossCurve(seconds=0.0)
    curve.update(0, leaf(2.5) * 1.0)
    curve.update(100, 1.25, val=1.5)
    assert capsys.readouterr().out == "step      0 | loss 2.5000\nstep    100 | loss 1.2500 | val 1.5000\n"
    assert repr(curve) == "<loss curve: loss 1.2500 at step 100, val 1.5000 at step 100>"


def test_a_loss_curve_shows_at_most_one_line_in_its_seconds_and_each_validation(capsys):
    curve = LossCurve(seconds=1e9)
    for step in range(100):
        curve.update(step, 1.0, val=2.0 if step == 50 else None)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["0", "50"]


def test_a_loss_curve_keeps_no_graph():
    w = leaf(2.0)
    curve = LossCurve(seconds=1e9)
    curve.update(0, w * w)
    curve.update(1, w * w)
    assert all(loss.node is None for _, loss in curve.train)


@pytest.mark.parametrize("losses", [[], [1.0], [2.0, 2.0], [3.0, float("nan"), float("inf"), 1.0], [0.0, -5.0, 1e9],
                                    [1.0 / (k + 1) for k in range(5000)]])
def test_the_picture_of_any_losses_is_well_formed_and_within_its_frame(losses, capsys):
    curve = LossCurve({"best <possible>": 0.5}, seconds=1e9)
    for step, loss in enumerate(losses):
        curve.update(step, loss)
    shown = curve._repr_html_()
    if not losses:
        assert "no losses yet" in shown
        return
    root = ElementTree.fromstring(shown)
    points = [tuple(map(float, p.split(","))) for line in root.iter("polyline") for p in line.get("points").split()]
    assert 0 < len(points) <= 400
    assert all(0.0 <= x <= 640.0 and 0.0 <= y <= 300.0 for x, y in points)


@pytest.mark.parametrize("low, high, want", [
    (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.26, 3.4, [1.0, 2.0, 3.0]), (0, 999, [0, 200, 400, 600, 800]),
    (-5.0, 5.0, [-4.0, -2.0, 0.0, 2.0, 4.0]), (-1.3, 2.1, [-1.0, 0.0, 1.0, 2.0])])
def test_ticks_are_round_numbers_inside_the_range(low, high, want):
    assert ticks(low, high) == want


@pytest.mark.parametrize("low, high", [(3.1, 3.1000001), (-1e9, 5e9), (-0.3, 0.2), (1e-12, 2e-12)])
def test_ticks_lie_inside_ranges_of_any_size(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7 and all(low - 1e-12 * abs(low) <= x <= high + 1e-12 * abs(high) for x in found)
